"""``python -m benchmarks.control``: what a cluster's size costs the operator, and what one change costs.

An API server's double holds a cluster (five pods to a Service, 50 nodes); the operator, a process as in a cluster,
reads it; simulated proxies, all in this process, hold a discovery stream each and follow everything, as ztunnels do.
Measured are the time from the operator's start until it serves and until every proxy knows everything, the processor
time of the operator until then, the time from a pod's change in the API until the last proxy has it, and the operator's
resident memory, over that of an operator with a cluster of one pod.

What shares the machine: the proxies decode what they are sent, on the same cores; the double makes its pages there.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from ambimesh.output import print_table, remark, say
from benchmarks.control_objects import resources_of
from mesh.errors import EnvironmentLacks
from mesh.telemetry import log
from mesh.tls.context import control_plane_context
from mesh.xds.client_driver import aggregated_stream, run_client
from mesh.xds.client_machine import Subscription
from mesh.xds.codec import ADDRESS_TYPE, AUTHORIZATION_TYPE
from mesh.xds.discovery_codec import NodeInfo, Rejected, Resource

SIZES = (1000, 3000, 10000)
PROXIES = 50
CHANGES = 20
RESULT = Path(__file__).parent / "control.md"
_SERVER_NAME = "ambimesh-operator.ambimesh-system.svc"
_TOKEN = "a token of the benchmark"
_SECONDS = 200.0


@dataclass(frozen=True, slots=True)
class Measured:
    """One size."""

    pods: int
    serves: float
    """Seconds from the start."""
    everywhere: float
    """Seconds from the start until every proxy knows everything."""
    processor: float
    """Seconds of the operator's until then."""
    changes: tuple[float, ...]
    """Seconds from the API to the last proxy."""
    change_processor: float
    """Seconds of the operator's for one change to all."""
    memory: int
    """Resident bytes before any proxy has connected."""
    memory_with_proxies: int


class Proxies:
    """All simulated ones: they count what they know."""

    def __init__(self, count: int, expected: int) -> None:
        self.known = [0] * count
        self.expected = expected
        self.updated = 0
        self.told = trio.Event()

    def store(self, number: int) -> Store:
        """Where one proxy's stream puts what it is told."""
        return Store(self, number)

    async def until_full(self) -> None:
        """Wait until all know everything."""
        while min(self.known) < self.expected:
            await self.told.wait()

    async def until_updated(self, count: int) -> None:
        """Wait until so many updates have come since the counter was set to 0."""
        while self.updated < count:
            await self.told.wait()

    def tell(self) -> None:
        """Something has come."""
        self.told.set()
        self.told = trio.Event()


class Store:
    """One proxy's state: names alone."""

    def __init__(self, proxies: Proxies, number: int) -> None:
        self._proxies = proxies
        self._number = number
        self._names: set[str] = set()

    def apply(self, type_url: str, updated: Sequence[Resource], removed: Sequence[str]) -> Sequence[Rejected]:
        """Take a response."""
        if type_url == ADDRESS_TYPE:
            self._names.update(one.name for one in updated)
            self._names.difference_update(removed)
            self._proxies.known[self._number] = len(self._names)
            self._proxies.updated += len(updated)
            self._proxies.tell()
        return []

    def applied(self, type_url: str) -> None:
        """A response is done."""


async def measure(pods: int, proxies: int, changes: int) -> Measured:
    """Measure one size."""
    with tempfile.TemporaryDirectory(prefix="ambimesh-control-") as name:
        folder = Path(name)
        async with _process([sys.executable, "-m", "benchmarks.control_api", str(pods), str(folder / "kube")]) as api:
            lines = _Lines(api)
            await lines.next()
            _configure(folder)
            started = trio.current_time()
            command = [sys.executable, "-m", "controlplane", "--config", str(folder / "operator.yaml")]
            async with _process(command) as operator:
                output = _Lines(operator)
                port = 0
                while not port:
                    line = await output.next()
                    if "operator_ready" in line:
                        port = int(line.split(" port=")[1].split()[0])
                serves = trio.current_time() - started
                memory = _resident(operator.pid)
                all_proxies = Proxies(proxies, resources_of(pods))
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(output.drain)
                    for number in range(proxies):
                        nursery.start_soon(_proxy, folder, port, all_proxies.store(number), number)
                    await all_proxies.until_full()
                    everywhere = trio.current_time() - started
                    processor = _processor(operator.pid)
                    took = []
                    for change in range(changes):
                        await trio.sleep(0.2)
                        all_proxies.updated = 0
                        begun = trio.current_time()
                        assert api.stdin is not None
                        await api.stdin.send_all(f"{change * 7 % pods}\n".encode())
                        await all_proxies.until_updated(proxies)
                        took.append(trio.current_time() - begun)
                    change_processor = (_processor(operator.pid) - processor) / max(changes, 1)
                    with_proxies = _resident(operator.pid)
                    nursery.cancel_scope.cancel()
    return Measured(
        pods, serves, everywhere, processor, tuple(took), change_processor, memory, with_proxies
    )


async def _proxy(folder: Path, port: int, store: Store, number: int) -> None:
    async def metadata() -> Sequence[tuple[str, str]]:
        return [("authorization", f"Bearer {_TOKEN.replace(' ', '-')}"), ("clusterid", "Kubernetes")]

    connect = aggregated_stream(
        "127.0.0.1",
        port,
        ssl_context=lambda: control_plane_context((folder / "roots.pem").read_bytes()),
        server_hostname=_SERVER_NAME,
        metadata=metadata,
    )
    node = NodeInfo(pod=f"ztunnel-{number}", namespace="ambimesh-system", ip="127.0.0.1", node=f"node-{number}")
    await run_client(connect, node, [Subscription(AUTHORIZATION_TYPE), Subscription(ADDRESS_TYPE)], store)


def _configure(folder: Path) -> None:
    digest = hashlib.sha256(_TOKEN.replace(" ", "-").encode()).hexdigest()
    entry = f"{{sha256: {digest}, node: node-0, namespace: ambimesh-system, service_account: ztunnel}}"
    (folder / "tokens.yaml").write_text(f"tokens: [{entry}]\n")
    (folder / "operator.yaml").write_text(
        f"source: {{kubernetes: {{kubeconfig: {folder}/kube}}}}\n"
        f"authority: {{folder: {folder}/ca, published_roots: {folder}/roots.pem}}\n"
        f"authentication: {{tokens: {folder}/tokens.yaml}}\n"
        "grpc: {host: 127.0.0.1, port: 0}\n"
        "http: {host: 127.0.0.1, port: 0}\n"
        "drain_seconds: 0.5\n"
    )


class _Lines:
    """A process's output, line by line."""

    def __init__(self, process: trio.Process) -> None:
        assert process.stdout is not None
        self._stream = process.stdout
        self._rest = b""

    async def next(self) -> str:
        """The next line.

        Raises:
            EnvironmentLacks: the process has ended.
        """
        while b"\n" not in self._rest:
            data = await self._stream.receive_some()
            if not data:
                raise EnvironmentLacks(f"a process of the benchmark ended: {self._rest.decode(errors='replace')}")
            self._rest += bytes(data)
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode(errors="replace")

    async def drain(self) -> None:
        """Read on, so that the process is not held up."""
        async for _ in self._stream:
            pass


@asynccontextmanager
async def _process(command: list[str]) -> AsyncIterator[trio.Process]:
    root = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": f"{root}:{root / 'operator'}"}
    process = await trio.lowlevel.open_process(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, cwd=root
    )
    try:
        yield process
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    await stream.aclose()


def _resident(process: int) -> int:
    text = Path(f"/proc/{process}/status").read_text()
    return int(next(line.split()[1] for line in text.splitlines() if line.startswith("VmRSS:"))) * 1024


def _processor(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def table(base: Measured, measured: Sequence[Measured]) -> tuple[list[str], list[list[str]]]:
    """Titles and rows."""
    titles = [
        "pods", "Services", "serves, s", "all proxies know all, s", "processor until then, s", "one change to all, ms",
        "processor for it, ms", "memory, MiB", "over base per pod, KiB", "... with proxies, MiB",
    ]  # fmt: skip
    rows = []
    for one in measured:
        spread = f"{statistics.median(one.changes) * 1000:.0f} ({min(one.changes) * 1000:.0f} to "
        per_pod = (one.memory - base.memory) / one.pods / 1024
        rows.append(
            [
                f"{one.pods:,}",
                f"{resources_of(one.pods) - one.pods:,}",
                f"{one.serves:.1f}",
                f"{one.everywhere:.1f}",
                f"{one.processor:.1f}",
                f"{spread}{max(one.changes) * 1000:.0f})",
                f"{one.change_processor * 1000:.0f}",
                f"{one.memory / 2**20:.0f}",
                f"{per_pod:.1f}",
                f"{one.memory_with_proxies / 2**20:.0f}",
            ]
        )
    return titles, rows


def main() -> None:
    """Measure, print, and write the table unless told not to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.control", description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), metavar="PODS")
    parser.add_argument("--proxies", type=int, default=PROXIES)
    parser.add_argument("--changes", type=int, default=CHANGES)
    parser.add_argument("--no-write", action="store_true", help="print the table only")
    chosen = parser.parse_args()

    async def one(pods: int) -> Measured:
        with trio.fail_after(_SECONDS):
            return await measure(pods, chosen.proxies, chosen.changes)

    log.configure("text", "warning")
    say("an operator with one pod")
    base = trio.run(one, 1)
    measured = []
    for pods in chosen.sizes:
        say(f"{pods:,} pods")
        measured.append(trio.run(one, pods))
        print_table(*table(base, measured[-1:]))
    titles, rows = table(base, measured)
    print_table(titles, rows)
    if not chosen.no_write:
        lines = ["| " + " | ".join(row) + " |" for row in (titles, ["---:"] * len(titles), *rows)]
        about = (
            f"# The operator and the size of a cluster\n\n`make bench-control`: {chosen.proxies} simulated proxies, "
            f"{chosen.changes} changes (median, least and most), {os.cpu_count()} cores shared by operator, proxies "
            f"and the API server's double. Base: {base.memory / 2**20:.0f} MiB, an operator with one pod.\n\n"
        )
        RESULT.write_text(about + "\n".join(lines) + "\n")
        remark("notice", "dim", f"written to benchmarks/{RESULT.name}")


if __name__ == "__main__":
    main()
