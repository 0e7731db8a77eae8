"""A small HTTP/1.1 client: one request, one answer, on a connection made in whatever namespace is asked for."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h11
import trio

from mesh.errors import ConnectFailed, ConnectionLost
from mesh.netns import NetworkNamespace

_READ_SIZE = 65536
_MAX_HEADER = 1 << 16


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    body: bytes


async def get(
    netns: Path, port: int, path: str, *, method: str = "GET", timeout: float = 5.0, body_limit: int = 64 << 20
) -> Answer:
    """GET from a process that listens on loopback of a network namespace; or another method, without a body.

    Raises:
        ConnectFailed: nobody listens there, or there is no answer within ``timeout`` seconds.
        ConnectionLost: the answer broke off, or is longer than ``body_limit`` bytes.
    """
    place = f"port {port} of {netns.name}"
    try:
        with trio.fail_after(timeout):
            with NetworkNamespace.open(netns) as namespace:
                made = namespace.socket(socket.AF_INET, socket.SOCK_STREAM)
            connected = trio.socket.from_stdlib_socket(made)
            try:
                await connected.connect(("127.0.0.1", port))
            except OSError as error:
                connected.close()
                raise ConnectFailed(f"{place}: {error.strerror}") from error
            stream = trio.SocketStream(connected)
            try:
                host = ("Host", f"127.0.0.1:{port}")
                return await exchange(stream, path, [host], method=method, body_limit=body_limit)
            finally:
                await trio.aclose_forcefully(stream)
    except trio.TooSlowError as error:
        raise ConnectFailed(f"{place} gave no answer within {timeout:g} s") from error


async def exchange(
    stream: trio.abc.Stream, path: str, headers: Sequence[tuple[str, str]], *, method: str = "GET", body_limit: int
) -> Answer:
    """Send one request without a body and read its answer; the stream is left to the caller to close.

    Args:
        body_limit: bytes of body after which the rest is not read: an error, or with 0 the body does not matter.

    Raises:
        ConnectionLost: it broke off, was not HTTP, or was too long.
    """
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEADER)
    request = h11.Request(method=method, target=path, headers=[*headers, ("Connection", "close")])
    status = 0
    body = bytearray()
    try:
        await stream.send_all((connection.send(request) or b"") + (connection.send(h11.EndOfMessage()) or b""))
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(bytes(await stream.receive_some(_READ_SIZE)))
            elif isinstance(event, h11.Response):
                status = event.status_code
                if body_limit == 0:
                    return Answer(status, b"")
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > body_limit:
                    raise ConnectionLost(f"the answer to {method} {path} is longer than {body_limit} bytes")
            elif isinstance(event, h11.EndOfMessage):
                return Answer(status, bytes(body))
            elif not isinstance(event, h11.InformationalResponse):
                raise ConnectionLost(f"the connection was closed without an answer to {method} {path}")
    except (trio.BrokenResourceError, h11.RemoteProtocolError) as error:
        raise ConnectionLost(f"{method} {path}: {error}") from error
