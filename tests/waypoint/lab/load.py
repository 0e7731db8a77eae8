"""``python3 load.py KIND ADDRESS PORT HOST``: makes requests until its input ends, and tells what became of them.

KIND: ``keepalive``, one HTTP/1.1 connection, request after request; ``short``, a connection for each; ``unary``, gRPC
calls one after the other; ``stream``, gRPC streams of two seconds. None tries anything again, what a client meets
counts; but gRPC itself sends again what has never left it, on a connection that is going away. Printed at the end, as
JSON: ``done``, ``failed`` (texts), ``heard``: the values of the header ``x-generation`` in their order, each once for
as often as it came in a row.
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time
from collections.abc import Iterator

import grpc

ended = threading.Event()
failed: list[str] = []
heard: list[str] = []
PAUSE = 0.002
MESSAGE_SECONDS, MESSAGES = 0.1, 20


def over_http(address: str, port: int, host: str, *, keep: bool) -> int:
    """GET, again and again."""
    done = 0
    connection = http.client.HTTPConnection(address, port, timeout=10)
    while not ended.is_set():
        try:
            connection.request("GET", "/", headers={"Host": host, **({} if keep else {"Connection": "close"})})
            answer = connection.getresponse()
            answer.read()
            if answer.status == 200:
                done += 1
            else:
                failed.append(f"{time.monotonic():.3f} {answer.status}")
            generation = answer.headers.get("x-generation")
            if generation is not None and heard[-1:] != [generation]:
                heard.append(generation)
        except (OSError, http.client.HTTPException) as error:
            failed.append(f"{time.monotonic():.3f} {error!r}")
            connection.close()
        time.sleep(PAUSE)
    connection.close()
    return done


def over_grpc(address: str, port: int, host: str, *, streams: bool) -> int:
    """Calls, again and again."""
    done = 0
    options = [("grpc.default_authority", host)]

    def messages() -> Iterator[bytes]:
        for number in range(MESSAGES):
            yield b"%d" % number
            time.sleep(MESSAGE_SECONDS)

    with grpc.insecure_channel(f"{address}:{port}", options=options) as channel:
        while not ended.is_set():
            try:
                if streams:
                    got = list(channel.stream_stream("/Stream/Repeat")(messages(), timeout=20))
                    if got != [b"%d" % number for number in range(MESSAGES)]:
                        failed.append(f"{time.monotonic():.3f} {got}")
                        continue
                else:
                    channel.unary_unary("/Unary/Call")(b"", timeout=10)
                    time.sleep(PAUSE)
                done += 1
            except grpc.RpcError as error:
                failed.append(f"{time.monotonic():.3f} {error.code()} {error.details()}")
    return done


def main() -> None:
    """Ask until standard input ends."""
    kind, address, port, host = sys.argv[1:]

    def wait() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=wait, daemon=True).start()
    if kind in ("keepalive", "short"):
        done = over_http(address, int(port), host, keep=kind == "keepalive")
    else:
        done = over_grpc(address, int(port), host, streams=kind == "stream")
    json.dump({"done": done, "failed": failed, "heard": heard}, sys.stdout)


if __name__ == "__main__":
    main()
