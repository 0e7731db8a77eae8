"""One small HTTP/1.1 request to a server outside: for key sets and external authorizers.

Everything is bounded: the time of the whole exchange, the head and the body of the answer. Redirections are not
followed: whoever configured an address has not configured where it may point to. One connection per request: these are
rare, and what they are for is kept.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import h11
import trio

from mesh.errors import ConfigurationError, ConnectFailed, ConnectionLost, ProtocolViolation, TlsFailure

Connect = Callable[[str, int], Awaitable[trio.abc.Stream]]
"""From host and port to a connection; raises OSError."""
_READ = 65536


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """What came back."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpCall:
    """A request."""

    url: str
    """``http`` or ``https``, without user and password."""
    method: bytes = b"GET"
    headers: Sequence[tuple[bytes, bytes]] = ()
    """Without ``host`` and those that frame the body."""
    body: bytes = b""
    timeout_seconds: float = 5.0
    max_body_bytes: int = 256 << 10


async def exchange(
    call: HttpCall, ssl_context: ssl.SSLContext | None = None, connect: Connect = trio.open_tcp_stream
) -> HttpAnswer:
    """Make a request and read its answer.

    Args:
        call: the request.
        ssl_context: for https; None: the system's roots.
        connect: how to reach the server.

    Raises:
        ConfigurationError: the address is none.
        ConnectFailed: no connection, or no answer in time.
        TlsFailure: no TLS session.
        ProtocolViolation: what came back is no HTTP, or too large.
        ConnectionLost: it ended in the middle.
    """
    parts = urlsplit(call.url)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise ConfigurationError(f"{call.url[:128]!r} has no valid port") from error
    host = parts.hostname
    if parts.scheme not in ("http", "https") or not host or parts.username is not None:
        raise ConfigurationError(f"{call.url[:128]!r} is no http or https address")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        with trio.fail_after(call.timeout_seconds):
            stream = await _open(host, port, parts.scheme == "https", ssl_context, connect)
            try:
                return await _talk(stream, call, parts.netloc, target)
            finally:
                await trio.aclose_forcefully(stream)
    except trio.TooSlowError as error:
        raise ConnectFailed(f"{parts.netloc}: no answer within {call.timeout_seconds:g} s") from error
    except UnicodeEncodeError as error:
        raise ConfigurationError(f"{call.url[:128]!r} holds characters that must be encoded") from error


async def _open(
    host: str, port: int, secure: bool, ssl_context: ssl.SSLContext | None, connect: Connect
) -> trio.abc.Stream:
    try:
        stream = await connect(host, port)
    except OSError as error:
        raise ConnectFailed(f"cannot connect to {host}:{port}: {error}") from error
    if not secure:
        return stream
    context = ssl_context or ssl.create_default_context()
    wrapped = trio.SSLStream(stream, context, server_hostname=host, https_compatible=True)
    try:
        await wrapped.do_handshake()
    except trio.BrokenResourceError as error:
        await trio.aclose_forcefully(wrapped)
        raise TlsFailure(f"TLS handshake with {host}:{port} failed: {error.__cause__ or error}") from error
    except BaseException:
        await trio.aclose_forcefully(wrapped)
        raise
    return wrapped


async def _talk(stream: trio.abc.Stream, call: HttpCall, authority: str, target: str) -> HttpAnswer:
    machine = h11.Connection(h11.CLIENT, max_incomplete_event_size=32 << 10)
    headers = [(b"host", authority.encode("ascii")), *call.headers, (b"connection", b"close")]
    if call.body or call.method not in (b"GET", b"HEAD"):
        headers.append((b"content-length", b"%d" % len(call.body)))
    try:
        request = h11.Request(method=call.method, target=target.encode("ascii"), headers=headers)
        message = machine.send(request) or b""
        if call.body:
            message += machine.send(h11.Data(data=call.body)) or b""
        message += machine.send(h11.EndOfMessage()) or b""
        await stream.send_all(message)
        return await _answer(stream, machine, call.max_body_bytes)
    except (h11.LocalProtocolError, h11.RemoteProtocolError) as error:
        raise ProtocolViolation(f"{authority}: {error}") from error
    except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
        raise ConnectionLost(f"{authority}: the connection broke: {error.__cause__ or error}") from error


async def _answer(stream: trio.abc.Stream, machine: h11.Connection, max_body_bytes: int) -> HttpAnswer:
    status, headers, body = 0, [], bytearray()
    while True:
        event = machine.next_event()
        if event is h11.NEED_DATA:
            machine.receive_data(bytes(await stream.receive_some(_READ)))
        elif isinstance(event, h11.Response):
            status, headers = event.status_code, list(event.headers)
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > max_body_bytes:
                raise ProtocolViolation(f"the answer has more than {max_body_bytes} bytes")
        elif isinstance(event, h11.EndOfMessage):
            return HttpAnswer(status, tuple(headers), bytes(body))
        elif event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
            raise ConnectionLost("the connection ended before the answer did")
