"""HTTP/1.1 to one API server, on trio: connections that are kept, and answers that are read as they come.

h11 speaks the protocol. A request takes a kept connection or opens one; after its answer the connection is kept again.
A kept one may have been closed by the server meanwhile, which shows when it is used: a request that got no byte of an
answer there is made once more, on a new one. A watch has a connection for itself and closes it.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import h11
import trio

from mesh.errors import ConnectFailed, ConnectionLost, ProtocolViolation, TlsFailure
from resources.kube.credentials_driver import Access

CONNECT_SECONDS = 10.0
MAX_KEPT = 4
_READ = 256 << 10
_KEEP_SECONDS = 60.0
# A server that vanished without a word (its machine lost power) is noticed within some 45 s, also by a quiet watch.
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 20), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 5))


class AnswerTooLarge(ProtocolViolation):
    """An answer is longer than whoever asked takes."""


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request to the API."""

    method: str
    target: str
    """Path and query, encoded."""
    body: bytes = b""
    content_type: str = "application/json"


@dataclass(frozen=True, slots=True)
class HttpHead:
    """The beginning of an answer."""

    status: int
    headers: dict[str, str]
    """Names in lower case."""


class Connection:
    """One connection, for one request at a time."""

    def __init__(self, stream: trio.abc.Stream, access: Access) -> None:
        self._stream = stream
        self._access = access
        self._machine = h11.Connection(h11.CLIENT, max_incomplete_event_size=64 << 10)
        self.answered = False
        """Whether a byte of the answer to the last request has come."""
        self.kept_since = 0.0

    async def send(self, request: HttpRequest) -> HttpHead:
        """Make a request; the beginning of the answer."""
        self.answered = False
        target = (self._access.prefix + request.target).encode("ascii")
        headers = [("host", self._access.host), ("user-agent", "ambimesh"), ("accept", "application/json")]
        headers += self._access.headers
        if request.body:
            headers += [("content-type", request.content_type), ("content-length", str(len(request.body)))]
        machine = self._machine
        data = machine.send(h11.Request(method=request.method, target=target, headers=headers)) or b""
        if request.body:
            data += machine.send(h11.Data(data=request.body)) or b""
        data += machine.send(h11.EndOfMessage()) or b""
        await self._stream.send_all(data)
        while True:
            event = await self._event()
            if isinstance(event, h11.Response):
                names = {name.decode("latin-1"): value.decode("latin-1") for name, value in event.headers}
                return HttpHead(event.status_code, names)
            if not isinstance(event, h11.InformationalResponse):
                raise ConnectionLost("the API server closed the connection instead of answering")

    async def read(self) -> bytes | None:
        """More of the answer's body; None at its end."""
        event = await self._event()
        if isinstance(event, h11.Data):
            return bytes(event.data)
        if isinstance(event, h11.EndOfMessage):
            return None
        raise ConnectionLost("the answer of the API server broke off")

    def reusable(self) -> bool:
        """Whether a further request can follow; makes ready for it."""
        if self._machine.our_state is h11.DONE and self._machine.their_state is h11.DONE:
            self._machine.start_next_cycle()
            return True
        return False

    async def close(self) -> None:
        """Close at once: nobody waits for what may still come."""
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(self._stream)

    async def _event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        while True:
            event = self._machine.next_event()
            if event is not h11.NEED_DATA:
                return event
            data = await self._stream.receive_some(_READ)
            self.answered = self.answered or bool(data)
            try:
                self._machine.receive_data(bytes(data))
                if not data:
                    return self._machine.next_event()
            except h11.RemoteProtocolError as error:
                if data:
                    raise
                raise ConnectionLost("the API server closed the connection before its answer was whole") from error


class Transport:
    """All connections to one API server."""

    def __init__(self) -> None:
        self._kept: list[Connection] = []
        self._kept_for: Access | None = None

    async def exchange(self, access: Access, request: HttpRequest, max_body: int) -> tuple[HttpHead, bytes]:
        """Make a request and read the whole answer. The caller sets the deadline.

        Raises:
            ConnectFailed: no connection.
            TlsFailure: no TLS session.
            ConnectionLost: it broke.
            ProtocolViolation: no HTTP.
            AnswerTooLarge: more than ``max_body`` bytes.
        """
        while True:
            connection = await self._take(access)
            kept = connection is not None
            if connection is None:
                connection = await _open(access)
            try:
                with _translated():
                    head = await connection.send(request)
                    body = bytearray()
                    while (data := await connection.read()) is not None:
                        body += data
                        if len(body) > max_body:
                            raise AnswerTooLarge(f"an answer of the API server has more than {max_body} bytes")
            except ConnectionLost:
                await connection.close()
                if kept and not connection.answered:
                    continue
                raise
            except BaseException:
                await connection.close()
                raise
            if connection.reusable() and len(self._kept) < MAX_KEPT and access is self._kept_for:
                connection.kept_since = trio.current_time()
                self._kept.append(connection)
            else:
                await connection.close()
            return head, bytes(body)

    @asynccontextmanager
    async def stream(self, access: Access, request: HttpRequest) -> AsyncIterator[tuple[HttpHead, Connection]]:
        """Make a request on a connection of its own; its body is read by the caller. Raises as ``exchange``."""
        with trio.move_on_after(CONNECT_SECONDS * 3) as opening:
            connection = await _open(access)
        if opening.cancelled_caught:
            raise ConnectFailed("the API server did not answer in time")
        try:
            with _translated():
                with trio.move_on_after(CONNECT_SECONDS * 3) as beginning:
                    head = await connection.send(request)
                if beginning.cancelled_caught:
                    raise ConnectFailed("the API server did not answer in time")
                yield head, connection
        finally:
            await connection.close()

    async def close(self) -> None:
        """Close what is kept."""
        kept, self._kept = self._kept, []
        for connection in kept:
            await connection.close()

    async def _take(self, access: Access) -> Connection | None:
        if self._kept_for is not access:
            # Other headers, or another server: kept connections are of before.
            self._kept_for = access
            await self.close()
        while self._kept:
            connection = self._kept.pop()
            if trio.current_time() - connection.kept_since < _KEEP_SECONDS:
                return connection
            await connection.close()
        return None


class _translated:  # noqa: N801 -- used as a statement
    """Foreign exceptions of a connection, as ours."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (h11.RemoteProtocolError, h11.LocalProtocolError)):
            raise ProtocolViolation(f"the API server does not speak HTTP: {error}") from error
        if isinstance(error, (trio.BrokenResourceError, trio.ClosedResourceError)):
            raise ConnectionLost(f"the connection to the API server broke: {error.__cause__ or error}") from error


async def _open(access: Access) -> Connection:
    host, port = access.proxy or (access.host, access.port)
    place = f"{access.host}:{access.port}"
    with trio.move_on_after(CONNECT_SECONDS) as scope:
        try:
            socket_stream = await trio.open_tcp_stream(host, port)
        except OSError as error:
            raise ConnectFailed(f"cannot connect to the API server at {place}: {error}") from error
        stream: trio.abc.Stream = socket_stream
        try:
            socket_stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _KEEPALIVE:
                socket_stream.setsockopt(socket.IPPROTO_TCP, option, value)
            if access.proxy is not None:
                await _through_proxy(socket_stream, access)
            if access.tls is not None:
                stream = trio.SSLStream(
                    socket_stream, access.tls, server_hostname=access.server_name, https_compatible=True
                )
                await stream.do_handshake()
        except trio.BrokenResourceError as error:
            await trio.aclose_forcefully(stream)
            raise TlsFailure(f"no TLS session with the API server at {place}: {error.__cause__ or error}") from error
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return Connection(stream, access)
    assert scope.cancelled_caught
    raise ConnectFailed(f"no connection to the API server at {place} within {CONNECT_SECONDS:g} s")


async def _through_proxy(stream: trio.SocketStream, access: Access) -> None:
    machine = h11.Connection(h11.CLIENT)
    target = f"{access.host}:{access.port}"
    data = machine.send(h11.Request(method="CONNECT", target=target, headers=[("host", target)])) or b""
    await stream.send_all(data + (machine.send(h11.EndOfMessage()) or b""))
    while True:
        event = machine.next_event()
        if event is h11.NEED_DATA:
            machine.receive_data(bytes(await stream.receive_some(4096)))
        elif isinstance(event, h11.Response) and event.status_code == 200:
            return
        elif not isinstance(event, h11.InformationalResponse):
            raise ConnectFailed(f"the proxy makes no tunnel to {target}")
