"""The server: accepts connections and runs a handler for each call."""

from __future__ import annotations

import math
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import structlog
import trio

from mesh.addresses import PeerAddress, from_sockaddr
from mesh.errors import ConnectionLost, InvalidValue, MeshError
from mesh.grpc.connection_driver import Connection, Stream
from mesh.grpc.limits import GrpcLimits
from mesh.grpc.machine import CallProgressed, prefixed
from mesh.grpc.server_machine import CallCancelled, CallFailed, CallStarted, ServerMachine
from mesh.grpc.status import GrpcError, StatusCode

log = structlog.get_logger("grpc")


@dataclass(frozen=True, slots=True, kw_only=True)
class CallContext:
    """What a handler may know of its call."""

    method: str
    metadata: Mapping[str, str]
    """Header fields by lower-case name."""
    peer: PeerAddress
    deadline: float
    """On trio's clock; infinite if the client named none."""


class ServerStream:
    """The messages of a call, for its handler."""

    def __init__(self, connection: Connection[ServerMachine], stream_id: int) -> None:
        self._connection = connection
        self._stream_id = stream_id
        self._sending = trio.Lock()
        self._changed = trio.lowlevel.ParkingLot()
        self._gone = False

    async def send(self, message: bytes) -> None:
        """Send one message; waits while the client takes no more.

        Raises:
            GrpcError: the client has ended the call.
        """
        async with self._sending:
            self._check()
            self._connection.machine.answer(self._stream_id)
            try:
                await self._connection.send(self._stream_id, prefixed(message), self._check)
            except trio.Cancelled:
                self._gone = True  # half a message may be on its way: nothing sensible can follow it
                raise

    async def receive(self) -> bytes | None:
        """The next message, or None when the client sends no more.

        Raises:
            GrpcError: the message is too large or compressed, or the client broke off within one.
        """
        await trio.lowlevel.checkpoint()
        machine = self._connection.machine
        while True:
            self._check()
            message = machine.take(self._stream_id)
            if message is not None:
                self._connection.wake_writer()
                return message
            if machine.half_closed(self._stream_id):
                if machine.truncated(self._stream_id):
                    raise GrpcError(StatusCode.INTERNAL, "the client stopped within a message")
                return None
            await self._changed.park()

    def _check(self) -> None:
        if self._gone:
            raise GrpcError(StatusCode.CANCELLED, "the client has ended the call")

    def _progressed(self) -> None:
        self._changed.unpark_all()

    def _cancelled(self) -> None:
        self._gone = True
        self._changed.unpark_all()


UnaryHandler = Callable[[CallContext, bytes], Awaitable[bytes]]
StreamHandler = Callable[[CallContext, ServerStream], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Handler:
    """What serves a method; made by ``unary`` or ``streaming``."""

    run: StreamHandler
    request_bytes: int | None
    is_unary: bool


def unary(handler: UnaryHandler, *, request_bytes: int | None = None) -> Handler:
    """Serve a method with one request and one response.

    Args:
        handler: gets the request's bytes; raises ``GrpcError`` to fail the call.
        request_bytes: largest request, instead of the server's own limit.
    """

    async def run(context: CallContext, stream: ServerStream) -> None:
        request = await stream.receive()
        if request is None or await stream.receive() is not None:
            raise GrpcError(StatusCode.INVALID_ARGUMENT, "a unary call carries exactly one message")
        await stream.send(await handler(context, request))

    return Handler(run, request_bytes, True)


def streaming(handler: StreamHandler, *, request_bytes: int | None = None) -> Handler:
    """Serve a method with a stream of messages each way.

    Args:
        handler: the call ends when it returns, or raises ``GrpcError``; it is cancelled when the client gives up.
        request_bytes: largest message, instead of the server's own limit.
    """
    return Handler(handler, request_bytes, False)


async def serve_grpc(
    listeners: list[trio.SocketListener],
    handlers: Mapping[str, Handler],
    *,
    ssl_context: ssl.SSLContext | None = None,
    limits: GrpcLimits = GrpcLimits(),
    drain: trio.Event | None = None,
    task_status: trio.TaskStatus[list[trio.SocketListener]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled, or until ``drain`` is set and calls have ended or had ``drain_seconds`` to.

    Args:
        listeners: taken over, closed at the end.
        handlers: by method, ``/package.Service/Method``.
        ssl_context: TLS with ALPN ``h2``; None for plain text.
        limits: bounds and keepalive.
        drain: stop accepting, tell clients to go elsewhere (GOAWAY), let calls end.
        task_status: reports the listeners once connections are accepted.
    """
    server = _Server(handlers, ssl_context, limits)
    async with trio.open_nursery() as nursery:
        accepting = trio.CancelScope()

        async def accept() -> None:
            with accepting:
                task_status.started(listeners)
                await trio.serve_listeners(server.serve, listeners, handler_nursery=nursery)

        nursery.start_soon(accept)
        if drain is not None:
            await drain.wait()
            accepting.cancel()
            await server.drain()
            nursery.cancel_scope.cancel()


class _Server:
    def __init__(
        self, handlers: Mapping[str, Handler], ssl_context: ssl.SSLContext | None, limits: GrpcLimits
    ) -> None:
        self.handlers = handlers
        self.limits = limits
        self.request_bytes_of = {
            method: handler.request_bytes for method, handler in handlers.items() if handler.request_bytes is not None
        }
        self._ssl_context = ssl_context
        self._connections: set[_ServerConnection] = set()
        self._opening = 0
        self.call_ended = trio.lowlevel.ParkingLot()

    async def serve(self, raw: trio.SocketStream) -> None:
        if len(self._connections) + self._opening >= self.limits.connections:
            log.warning("grpc_connection_refused", reason="too many connections", limit=self.limits.connections)
            await trio.aclose_forcefully(raw)
            return
        self._opening += 1
        try:
            peer = PeerAddress(from_sockaddr(raw.socket.getpeername()))
            stream = await self._secure(raw, peer)
        except (OSError, MeshError) as error:
            log.info("grpc_connection_failed", error=str(error))
            await trio.aclose_forcefully(raw)
            return
        finally:
            self._opening -= 1
        connection = _ServerConnection(self, stream, peer)
        self._connections.add(connection)
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)
            self.call_ended.unpark_all()

    async def _secure(self, raw: trio.SocketStream, peer: PeerAddress) -> Stream:
        if self._ssl_context is None:
            return raw
        stream = trio.SSLStream(raw, self._ssl_context, server_side=True, https_compatible=True)
        try:
            with trio.fail_after(self.limits.handshake_seconds):
                await stream.do_handshake()
        except trio.BrokenResourceError as error:
            raise ConnectionLost(f"TLS handshake with {peer} failed: {error.__cause__ or error}") from error
        except trio.TooSlowError as error:
            raise ConnectionLost(f"no TLS handshake with {peer} in {self.limits.handshake_seconds:g} s") from error
        if stream.selected_alpn_protocol() != "h2":
            raise ConnectionLost(f"{peer} does not speak HTTP/2: it did not offer ALPN h2")
        return stream

    async def drain(self) -> None:
        for connection in self._connections:
            connection.start_draining()
        with trio.move_on_after(self.limits.drain_seconds):
            while any(connection.calls for connection in self._connections):
                await self.call_ended.park()
        async with trio.open_nursery() as nursery:
            for connection in tuple(self._connections):
                nursery.start_soon(connection.end, "the server is shutting down")


class _ServerConnection:
    def __init__(self, server: _Server, stream: Stream, peer: PeerAddress) -> None:
        self._server = server
        self._peer = peer
        self._machine = ServerMachine(server.limits, server.request_bytes_of)
        self._connection: Connection[ServerMachine] = Connection(stream, self._machine, server.limits, self._handle)
        self._calls: dict[int, tuple[ServerStream, trio.CancelScope]] = {}
        self._nursery: trio.Nursery

    @property
    def calls(self) -> int:
        return self._machine.calls

    async def run(self) -> None:
        async with trio.open_nursery() as self._nursery:
            self._connection.wake_writer()
            await self._connection.run()
            self._nursery.cancel_scope.cancel()
        log.debug("grpc_connection_ended", peer=str(self._peer), reason=str(self._connection.failure))

    def start_draining(self) -> None:
        self._machine.drain()
        self._connection.wake_writer()

    async def end(self, why: str) -> None:
        for stream_id, (_, scope) in tuple(self._calls.items()):
            self._machine.finish(stream_id, StatusCode.UNAVAILABLE, why)
            scope.cancel()
        await self._connection.finish(1.0)

    def _handle(self, data: bytes) -> None:
        for event in self._machine.receive(data, trio.current_time()):
            match event:
                case CallStarted():
                    self._start(event)
                case CallProgressed(stream_id):
                    if stream_id in self._calls:
                        self._calls[stream_id][0]._progressed()
                case CallCancelled(stream_id):
                    self._stop(stream_id)
                case CallFailed(stream_id, error):
                    self._machine.finish(stream_id, error.status, error.message)
                    self._stop(stream_id)
                case _:
                    self._connection.shared_event(event)

    def _stop(self, stream_id: int) -> None:
        if stream_id in self._calls:
            stream, scope = self._calls[stream_id]
            stream._cancelled()
            scope.cancel()
        self._connection.wake_senders()

    def _start(self, event: CallStarted) -> None:
        handler = self._server.handlers.get(event.method)
        if handler is None:
            self._machine.finish(event.stream_id, StatusCode.UNIMPLEMENTED, f"no method {event.method[:256]}")
            return
        deadline = trio.current_time() + event.timeout if event.timeout is not None else math.inf
        context = CallContext(method=event.method, metadata=event.metadata, peer=self._peer, deadline=deadline)
        patience = deadline
        if handler.is_unary:
            patience = min(deadline, trio.current_time() + self._server.limits.unary_seconds)
        scope = trio.CancelScope(deadline=patience)
        stream = ServerStream(self._connection, event.stream_id)
        self._calls[event.stream_id] = (stream, scope)
        self._nursery.start_soon(self._run_call, event.stream_id, handler, context, stream, scope)

    async def _run_call(
        self, stream_id: int, handler: Handler, context: CallContext, stream: ServerStream, scope: trio.CancelScope
    ) -> None:
        status, message = StatusCode.DEADLINE_EXCEEDED, "the deadline passed before the call was answered"
        try:
            with scope:
                status, message = await _outcome(handler, context, stream)
        finally:
            del self._calls[stream_id]
        if self._connection.failure is None:
            self._machine.finish(stream_id, status, message)
            self._connection.wake_writer()
        self._server.call_ended.unpark_all()


async def _outcome(handler: Handler, context: CallContext, stream: ServerStream) -> tuple[StatusCode, str]:
    try:
        await handler.run(context, stream)
    except Exception as error:
        cause: Exception = error
        while isinstance(cause, ExceptionGroup) and len(cause.exceptions) == 1:
            cause = cause.exceptions[0]  # what a handler's nursery wrapped
        if isinstance(cause, GrpcError):
            return cause.status, cause.message
        if isinstance(cause, InvalidValue):
            return StatusCode.INVALID_ARGUMENT, str(cause)
        # One handler's bug ends one call. What went wrong is for our log, not for the client.
        log.exception("grpc_handler_failed", method=context.method, peer=str(context.peer))
        return StatusCode.INTERNAL, "internal error, see the server's log"
    return StatusCode.OK, ""
