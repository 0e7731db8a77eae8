"""The client: one connection, many calls."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import trio

from mesh.errors import ConnectFailed, TlsFailure
from mesh.grpc.client_machine import CallEnded, ClientMachine
from mesh.grpc.connection_driver import Connection, Stream
from mesh.grpc.limits import GrpcLimits
from mesh.grpc.machine import CallProgressed, prefixed
from mesh.grpc.status import GrpcError, StatusCode

Metadata = Sequence[tuple[str, str]]


class ClientCall:
    """One call under way; made by ``Channel.stream``."""

    def __init__(self, connection: Connection[ClientMachine], stream_id: int) -> None:
        self._connection = connection
        self._stream_id = stream_id
        self._sending = trio.Lock()
        self._done_sending = False
        self._changed = trio.lowlevel.ParkingLot()
        self._end: CallEnded | None = None

    @property
    def trailers(self) -> Mapping[str, str]:
        """What the server sent with its status; empty until the call has ended."""
        return self._end.trailers if self._end is not None else {}

    async def send(self, message: bytes) -> None:
        """Send one message; waits while the server takes no more.

        Raises:
            GrpcError: the call has ended.
        """
        async with self._sending:
            try:
                await self._connection.send(self._stream_id, prefixed(message), self._check)
            except trio.Cancelled:
                # Half a message may be on its way: nothing sensible can follow it.
                self._connection.machine.cancel(self._stream_id)
                self._connection.wake_writer()
                self._ended(CallEnded(self._stream_id, StatusCode.CANCELLED, "sending was cancelled"))
                raise

    async def done_sending(self) -> None:
        """Say that no more messages follow."""
        async with self._sending:
            if self._end is None and self._connection.failure is None and not self._done_sending:
                self._done_sending = True
                self._connection.machine.send_data(self._stream_id, b"", end=True)
                self._connection.wake_writer()

    async def receive(self) -> bytes | None:
        """The next message, or None when the server ended the call with OK.

        Raises:
            GrpcError: it ended otherwise.
        """
        await trio.lowlevel.checkpoint()
        machine = self._connection.machine
        while True:
            message = machine.take(self._stream_id)
            if message is not None:
                self._connection.wake_writer()
                return message
            if self._end is not None:
                if self._end.status is not StatusCode.OK:
                    raise GrpcError(self._end.status, self._end.message)
                if machine.truncated(self._stream_id):
                    raise GrpcError(StatusCode.INTERNAL, "the server ended the call within a message")
                return None
            if self._connection.failure is not None:
                raise GrpcError(StatusCode.UNAVAILABLE, str(self._connection.failure)) from self._connection.failure
            await self._changed.park()

    def _check(self) -> None:
        if self._end is not None:
            if self._end.status is StatusCode.OK:
                raise GrpcError(StatusCode.CANCELLED, "the server has ended the call")
            raise GrpcError(self._end.status, self._end.message)

    def _progressed(self) -> None:
        self._changed.unpark_all()

    def _ended(self, end: CallEnded) -> None:
        self._end = self._end or end
        self._changed.unpark_all()


class Channel:
    """A connection to a server; made by ``open_channel``."""

    def __init__(self, stream: Stream, authority: str, scheme: str, limits: GrpcLimits) -> None:
        self._machine = ClientMachine(limits)
        self.connection: Connection[ClientMachine] = Connection(stream, self._machine, limits, self._handle)
        self._authority = authority
        self._scheme = scheme
        self._calls: dict[int, ClientCall] = {}
        self._freed = trio.lowlevel.ParkingLot()

    async def unary(self, method: str, request: bytes, *, metadata: Metadata = (), timeout: float) -> bytes:
        """One request, one response.

        Args:
            method: ``/package.Service/Method``.
            request: the message's bytes.
            metadata: header fields, such as ``("authorization", "Bearer ...")``.
            timeout: seconds for the whole call; the server is told.

        Raises:
            GrpcError: the call failed, DEADLINE_EXCEEDED included.
        """
        with trio.move_on_after(timeout):
            async with self.stream(method, metadata=metadata, timeout=timeout) as call:
                try:
                    await call.send(request)
                    await call.done_sending()
                except GrpcError:
                    pass  # the server answered early: its status tells more than that it stopped reading
                response = await call.receive()
                if response is None or await call.receive() is not None:
                    count = "no message" if response is None else "more than one"
                    raise GrpcError(StatusCode.INTERNAL, f"{method}: {count} in answer to a unary call")
                return response
        raise GrpcError(StatusCode.DEADLINE_EXCEEDED, f"{method}: no answer within {timeout:g} s")

    @asynccontextmanager
    async def stream(
        self, method: str, *, metadata: Metadata = (), timeout: float | None = None
    ) -> AsyncIterator[ClientCall]:
        """A bidirectional call, cancelled if it is still going on when the block ends.

        Waits while the connection has as many calls as the server admits.

        Raises:
            GrpcError: the connection takes no more calls.
        """
        while self._machine.capacity() < 1 and self.connection.failure is None and self._machine.refused is None:
            await self._freed.park()
        if self.connection.failure is not None:
            raise GrpcError(StatusCode.UNAVAILABLE, str(self.connection.failure)) from self.connection.failure
        stream_id = self._machine.start(method, self._authority, self._scheme, metadata, timeout)
        self.connection.wake_writer()
        call = self._calls[stream_id] = ClientCall(self.connection, stream_id)
        try:
            yield call
        finally:
            del self._calls[stream_id]
            self._machine.cancel(stream_id)
            self.connection.wake_writer()
            self._freed.unpark_all()

    async def wait_closed(self) -> None:
        """Until the connection has ended or takes no more calls; ``connection.failure`` may say why."""
        while self._machine.refused is None and self.connection.failure is None:
            await self._freed.park()

    def _handle(self, data: bytes) -> None:
        for event in self._machine.receive(data, trio.current_time()):
            match event:
                case CallProgressed(stream_id):
                    if stream_id in self._calls:
                        self._calls[stream_id]._progressed()
                case CallEnded():
                    if event.stream_id in self._calls:
                        self._calls[event.stream_id]._ended(event)
                    self.connection.wake_senders()
                case _:
                    self.connection.shared_event(event)
                    self._freed.unpark_all()

    async def run(self) -> None:
        """Serve the connection until it ends."""
        try:
            await self.connection.run()
        finally:
            self._freed.unpark_all()
            for call in self._calls.values():
                call._progressed()


@asynccontextmanager
async def open_channel(
    host: str,
    port: int,
    ssl_context: ssl.SSLContext | None = None,
    server_hostname: str | None = None,
    limits: GrpcLimits = GrpcLimits(),
) -> AsyncIterator[Channel]:
    """Connect to a gRPC server.

    Args:
        host: name or address.
        port: TCP port.
        ssl_context: TLS with ALPN ``h2``; None for plain text.
        server_hostname: the name the server's certificate must have, if not ``host``.
        limits: bounds and keepalive.

    Raises:
        ConnectFailed: no TCP connection.
        TlsFailure: no TLS session, or the server's certificate is not acceptable.
        ConnectionLost: the server is no HTTP/2 server.
    """
    name = server_hostname or host
    stream = await _connect(host, port, ssl_context, name, limits)
    bracketed = f"[{name}]" if ":" in name else name
    async with channel_over(stream, f"{bracketed}:{port}", "https" if ssl_context else "http", limits) as channel:
        yield channel


@asynccontextmanager
async def channel_over(
    stream: Stream, authority: str, scheme: str = "http", limits: GrpcLimits = GrpcLimits()
) -> AsyncIterator[Channel]:
    """Speak gRPC over a connection that is there already, and close it at the end.

    Args:
        stream: the connection.
        authority: of requests: host and port.
        scheme: of requests.
        limits: bounds and keepalive.

    Raises:
        ConnectionLost: the server is no HTTP/2 server.
    """
    channel = Channel(stream, authority, scheme, limits)
    # An error of the block is raised again outside the nursery, which would wrap it in a group.
    raised: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(channel.run)
        channel.connection.wake_writer()
        await channel.connection.settled.wait()
        raised = channel.connection.failure
        if raised is None:
            try:
                yield channel
            except Exception as error:
                raised = error
            channel.connection.machine.go_away()
            await channel.connection.flush(1.0)
        nursery.cancel_scope.cancel()
    await trio.aclose_forcefully(stream)
    if raised is not None:
        raise raised


async def _connect(
    host: str, port: int, ssl_context: ssl.SSLContext | None, server_hostname: str, limits: GrpcLimits
) -> Stream:
    try:
        with trio.fail_after(limits.connect_seconds):
            stream = await trio.open_tcp_stream(host, port)
    except trio.TooSlowError as error:
        raise ConnectFailed(f"no connection to {host}:{port} within {limits.connect_seconds:g} s") from error
    except OSError as error:
        raise ConnectFailed(f"cannot connect to {host}:{port}: {error}") from error
    if ssl_context is None:
        return stream
    secure = trio.SSLStream(stream, ssl_context, server_hostname=server_hostname, https_compatible=True)
    try:
        with trio.fail_after(limits.handshake_seconds):
            await secure.do_handshake()
        if secure.selected_alpn_protocol() != "h2":
            raise TlsFailure(f"{host}:{port} does not speak HTTP/2 (no ALPN h2): is this the right port?")
    except BaseException as error:
        await trio.aclose_forcefully(secure)
        if isinstance(error, trio.TooSlowError):
            raise TlsFailure(f"no TLS handshake with {host}:{port} in {limits.handshake_seconds:g} s") from error
        if isinstance(error, trio.BrokenResourceError):
            raise TlsFailure(f"TLS handshake with {host}:{port} failed: {error.__cause__ or error}") from error
        raise
    return secure
