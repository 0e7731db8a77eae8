"""A server for pods of tests: HTTP, a TCP echo and gRPC's health service, each on a port of its own.

Told to end, it is not ready any more, goes on serving for as long as it was asked to, and then ends: what a server has
to do so that a rollout loses no request.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import h11
import trio

from mesh.grpc.driver import CallContext, serve_grpc, unary

HTTP_PORT = 8080
ECHO_PORT = 9000
GRPC_PORT = 9090
_SERVING, _NOT_SERVING = b"\x08\x01", b"\x08\x02"
"""``grpc.health.v1.HealthCheckResponse``: its only field, the status."""
_CHUNK = 65536


@dataclass
class State:
    """What the servers have in common."""

    ready: bool = True


def answer(
    state: State, path: str, peer: tuple[str, int], headers: Sequence[tuple[bytes, bytes]] = ()
) -> tuple[int, bytes]:
    """The status and body for a request."""
    if path == "/ready":
        return (200, b"ready\n") if state.ready else (503, b"ending\n")
    if path == "/alive":
        return 200, b"alive\n"
    body = {
        "pod": socket.gethostname(),
        "version": os.environ.get("VERSION", ""),
        "peer": peer[0],
        "path": path,
        "headers": {name.decode("latin-1"): value.decode("latin-1") for name, value in headers},
    }
    return 200, json.dumps(body).encode() + b"\n"


async def http(state: State, stream: trio.SocketStream) -> None:
    """Serve one connection."""
    connection = h11.Connection(h11.SERVER)
    peer = stream.socket.getpeername()[:2]
    try:
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await stream.receive_some(_CHUNK))
            elif isinstance(event, h11.Request):
                path, asked = event.target.decode(), list(event.headers)
            elif isinstance(event, h11.EndOfMessage):
                status, body = answer(state, path, (peer[0], peer[1]), asked)
                headers = [("content-length", str(len(body))), ("content-type", "application/json")]
                # Once ending, each client is told to go elsewhere with its next request.
                headers += [] if state.ready else [("connection", "close")]
                for each in (h11.Response(status_code=status, headers=headers), h11.Data(body), h11.EndOfMessage()):
                    await stream.send_all(connection.send(each) or b"")
                if connection.our_state is h11.MUST_CLOSE:
                    return
                connection.start_next_cycle()
            elif isinstance(event, h11.ConnectionClosed):
                return
    except (h11.ProtocolError, trio.BrokenResourceError):
        return
    finally:
        await stream.aclose()


async def echo(stream: trio.SocketStream) -> None:
    """Send back what comes."""
    try:
        async for chunk in stream:
            await stream.send_all(chunk)
    except trio.BrokenResourceError:
        pass
    finally:
        await stream.aclose()


async def serve(grace_seconds: float) -> None:
    """Serve until a SIGTERM, and ``grace_seconds`` more."""
    state = State()

    async def check(context: CallContext, request: bytes) -> bytes:
        return _SERVING if state.ready else _NOT_SERVING

    handlers = {"/grpc.health.v1.Health/Check": unary(check)}
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            opening: list[tuple[Callable[[trio.SocketStream], Awaitable[object]], int]] = [
                (functools.partial(http, state), HTTP_PORT),
                (echo, ECHO_PORT),
            ]
            for handler, port in opening:
                await nursery.start(functools.partial(trio.serve_tcp, handler, port))
            nursery.start_soon(serve_grpc, await trio.open_tcp_listeners(GRPC_PORT), handlers)
            print("serving", flush=True)
            async for _ in signals:
                break
            state.ready = False
            print("ending", flush=True)
            await trio.sleep(grace_seconds)
            nursery.cancel_scope.cancel()


def main() -> None:
    """Read the arguments and serve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--grace-seconds", type=float, default=0)
    trio.run(serve, parser.parse_args().grace_seconds)


if __name__ == "__main__":
    main()
