"""``python -m benchmarks.control_api PODS``: an API server's double with a cluster in it, as a process of its own.

Prints its port once it serves. Reads lines from its standard input, each the number of a pod, whose readiness then
changes; answers with a line once the change is stored, which is when watches are told.
"""

from __future__ import annotations

import sys
from pathlib import Path

import trio

from benchmarks.control_objects import fill, pod
from resources.testing.api_server import ApiServer


async def main(pods: int, kubeconfig: Path) -> None:
    """Serve until standard input ends."""
    server = ApiServer()
    server.bookmark_seconds = 10.0
    fill(server.cluster, pods)
    server.cluster.compact()
    async with server.serve():
        server.kubeconfig(kubeconfig)
        print(server.port, flush=True)
        unready: set[int] = set()
        while line := await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
            unready ^= {int(line)}
            server.cluster.put("/pods", pod(int(line), int(line) not in unready))
            print("stored", flush=True)


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]), Path(sys.argv[2]))
