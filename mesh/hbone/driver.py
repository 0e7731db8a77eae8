"""One HBONE connection over a trio stream; its tunnels are trio streams themselves.

Theory of operation
-------------------
Three tasks serve a connection: one reads the stream into the machine, one writes the machine's output, one sends PINGs
and gives up on a peer that does not answer. Tunnels call the machine directly and wait on parking lots: for data, for
a window, for the output to drain. All waiting is in loops that look again, so that a wake-up too many does no harm.

Back-pressure: window is given back only for bytes the application has taken, and ``send_all`` waits while the output
is long. A peer that makes us answer but does not read is not read from either, once that output is very long. The two
limits differ, so that two ends which both send and both wait cannot wait for each other.

The node proxy does not use this module: its relay engine drives the machine itself.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import structlog
import trio

from mesh.errors import BadConnectRequest, ConnectionLost, MeshError, TlsFailure, TunnelRefused
from mesh.hbone.codec import ErrorCode, decode_connect, encode_response, response_status
from mesh.hbone.contract import HboneSettings, HboneStream, Http2Violation, Role
from mesh.hbone.machine import HboneMachine
from mesh.hbone.tunnel_driver import IncomingRequest, Tunnel

_READ_SIZE = 256 * 1024
_STOP_READING = 4 * 1024 * 1024
_HANDSHAKE_SECONDS = 10.0
_PING_EVERY = 10.0
_PING_TIMEOUT = 20.0
_GOODBYE_SECONDS = 1.0
_CONNECTION_ERRORS = (trio.BrokenResourceError, trio.ClosedResourceError, OSError)

_log = structlog.get_logger("hbone")


RequestHandler = Callable[[IncomingRequest], Awaitable[None]]
"""Runs in a task of its own. When it returns the tunnel is closed; an error it raises before it has answered refuses
the request with the error's status.
"""


class HboneConnection:
    """One end of a connection. Made by :func:`open_client` and :func:`serve`."""

    def __init__(
        self, stream: trio.abc.Stream, role: Role, settings: HboneSettings | None, on_request: RequestHandler | None
    ) -> None:
        self.failure: MeshError | None = None
        """Why the connection has ended, None while it has not."""
        self.changed = trio.lowlevel.ParkingLot()
        """Woken when streams end or the peer's limits change."""
        self.flushed = trio.lowlevel.ParkingLot()
        self._stream = stream
        self._on_request = on_request
        self._tunnels: dict[HboneStream, Tunnel] = {}
        self._output = trio.lowlevel.ParkingLot()
        self._sending = False
        self._writer_gone = True
        self._writing = trio.CancelScope(shield=True)
        self._reading = trio.CancelScope()
        self._pong = trio.Event()
        self._nursery: trio.Nursery | None = None
        self.machine = HboneMachine(role, self, settings)

    async def connect(self, request: bytes) -> Tunnel:
        """Open a tunnel; waits while the peer takes no more streams. ``request`` comes from ``codec.encode_connect``.

        Raises:
            TunnelRefused: the peer answered otherwise than 200.
            ConnectionLost: the connection has ended, the peer is going away or has reset the stream.
        """
        while self.failure is None and not self.machine.draining and self.machine.free_streams <= 0:
            await self.changed.park()
        if self.failure is not None:
            raise ConnectionLost(f"the HBONE connection has ended: {self.failure}") from self.failure
        if self.machine.draining:
            raise ConnectionLost("the HBONE connection takes no new streams, one of its ends is going away")
        tunnel = Tunnel(self)
        tunnel.stream = self.machine.open_stream(request, tunnel)
        self._tunnels[tunnel.stream] = tunnel
        try:
            headers = await tunnel.answer()
        except BaseException:
            tunnel.reset(ErrorCode.CANCEL)
            raise
        status = response_status(headers) or 502
        if status != 200:
            tunnel.reset(ErrorCode.CANCEL)
            raise TunnelRefused(status)
        return tunnel

    async def drain(self) -> None:
        """Say GOAWAY and wait until the last tunnel has closed."""
        if self.failure is None:
            self.machine.go_away()
        while self.failure is None and self.machine.streams:
            await self.changed.park()

    # -- tasks -------------------------------------------------------------------------------------------------------

    async def run(self, nursery: trio.Nursery) -> None:
        """Serve the connection until it ends; handlers of requests run in ``nursery``."""
        self._nursery = nursery
        async with trio.open_nursery() as writing:
            try:
                with self._reading:
                    await self._shake_hands()
                    self._writer_gone = False
                    writing.start_soon(self._write)
                    async with trio.open_nursery() as tasks:
                        tasks.start_soon(self._keep_alive)
                        await self._read()
            except* MeshError as errors:
                error = _first(errors)
                assert isinstance(error, MeshError)
                self._end(error)
            finally:
                self._end(ConnectionLost("the HBONE connection was closed here"))
                await self._say_goodbye()

    async def _shake_hands(self) -> None:
        """Before anything else: a task that waits for another's handshake would not hear of its failure."""
        if isinstance(self._stream, trio.SSLStream):
            try:
                with trio.fail_after(_HANDSHAKE_SECONDS):
                    await self._stream.do_handshake()
            except (trio.TooSlowError, *_CONNECTION_ERRORS) as error:
                raise TlsFailure(f"no TLS handshake: {error.__cause__ or error or 'no answer in time'}") from error

    async def _read(self) -> None:
        rest = b""
        refill_at = trio.current_time() + 1
        while True:
            while len(self.machine.outgoing) > _STOP_READING:
                await self.flushed.park()
            try:
                received = await self._stream.receive_some(_READ_SIZE)
            except _CONNECTION_ERRORS as error:
                raise ConnectionLost(f"the HBONE connection broke: {error}") from error
            if not received:
                raise ConnectionLost("the peer closed the HBONE connection")
            if trio.current_time() >= refill_at:
                self.machine.refill_budget()
                refill_at = trio.current_time() + 1
            data = rest + received
            rest = data[self.machine.receive(memoryview(data), len(data)) :]
            self.changed.unpark_all()

    async def _write(self) -> None:
        """Goes on after the other tasks: what was to be sent is sent, and last the reason of the end."""
        try:
            with self._writing:
                while True:
                    while not self.machine.outgoing:
                        await self._output.park()
                    self._sending = True
                    data = bytes(self.machine.outgoing)
                    self.machine.outgoing.clear()
                    await self._stream.send_all(data)
                    self._sending = False
                    self.flushed.unpark_all()
        except _CONNECTION_ERRORS as error:
            failure = ConnectionLost(f"the HBONE connection broke: {error}")
            failure.__cause__ = error
            self._end(failure)
            self._reading.cancel()
        finally:
            self._writer_gone = True
            self.flushed.unpark_all()

    async def _keep_alive(self) -> None:
        while True:
            await trio.sleep(_PING_EVERY)
            self._pong = trio.Event()
            self.machine.ping(b"ambimesh")
            with trio.move_on_after(_PING_TIMEOUT):
                await self._pong.wait()
                continue
            raise ConnectionLost(f"the peer has not answered a PING for {_PING_TIMEOUT:.0f} s")

    def _end(self, error: MeshError) -> None:
        if self.failure is None:
            self.failure = error
            tunnels, self._tunnels = self._tunnels, {}
            for tunnel in tunnels.values():
                tunnel.stream_reset(ErrorCode.CANCEL)
            self.changed.unpark_all()
            self.flushed.unpark_all()

    async def _say_goodbye(self) -> None:
        self.machine.go_away(self.failure.code if isinstance(self.failure, Http2Violation) else ErrorCode.NO_ERROR)
        with trio.move_on_after(_GOODBYE_SECONDS, shield=True):
            while (self.machine.outgoing or self._sending) and not self._writer_gone:
                await self.flushed.park()
            try:
                await self._stream.aclose()
            except _CONNECTION_ERRORS:
                pass  # it is closed all the same
        self._writing.cancel()
        await trio.aclose_forcefully(self._stream)

    async def _handle(self, request: IncomingRequest, tunnel: Tunnel) -> None:
        assert self._on_request is not None
        try:
            await self._on_request(request)
        except* (MeshError, *_CONNECTION_ERRORS) as errors:
            error = _first(errors)
            _log.info("request failed", error=str(error), target=request.connect.target, host=request.connect.hostname)
            if request.answered:
                tunnel.reset(ErrorCode.INTERNAL_ERROR)
            else:
                request.refuse(error.http_status if isinstance(error, MeshError) else 503)
        if not request.answered:
            request.refuse(503)
        await tunnel.aclose()

    # -- ConnectionOwner ---------------------------------------------------------------------------------------------

    def stream_requested(self, stream: HboneStream, headers: list[tuple[str, str]]) -> None:
        """Start the handler, or refuse what is no HBONE request."""
        tunnel = Tunnel(self)
        tunnel.stream = stream
        stream.owner = tunnel
        try:
            connect = decode_connect(headers)
        except BadConnectRequest as error:
            _log.info("bad request", error=str(error))
            self.machine.respond(stream, encode_response(error.http_status), end=True)
            tunnel.reset(ErrorCode.NO_ERROR)
            return
        self._tunnels[stream] = tunnel
        assert self._nursery is not None
        self._nursery.start_soon(self._handle, IncomingRequest(connect, tunnel), tunnel)

    def going_away(self, last_stream: int, code: int) -> None:
        """The peer drains: :meth:`connect` fails from now on."""
        _log.info("peer takes no new streams", code=code, last_stream=last_stream)

    def ping_answered(self, payload: bytes) -> None:
        """The peer lives."""
        self._pong.set()

    def output_ready(self) -> None:
        """Wake the writer."""
        self._output.unpark_all()

    def output_can_wait(self) -> None:
        """Nothing waits here."""
        self.output_ready()

    def forget(self, stream: HboneStream) -> None:
        """A tunnel is over."""
        self._tunnels.pop(stream, None)
        self.changed.unpark_all()


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


@asynccontextmanager
async def open_client(stream: trio.abc.Stream, settings: HboneSettings | None = None) -> AsyncIterator[HboneConnection]:
    """The client's end over ``stream``, which is closed with the block. Tunnels break when the connection does."""
    connection = HboneConnection(stream, Role.CLIENT, settings, None)
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.run, nursery)
        try:
            yield connection
        except Exception as error:
            failure = error  # raised outside the nursery, which would wrap it into a group
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def serve(
    stream: trio.abc.Stream,
    on_request: RequestHandler,
    settings: HboneSettings | None = None,
    *,
    task_status: trio.TaskStatus[HboneConnection] = trio.TASK_STATUS_IGNORED,
) -> None:
    """The server's end over ``stream``: returns when the connection has ended; handlers still running are cancelled.

    Raises:
        Http2Violation: the peer broke the protocol. A lost connection is everyday, and told to the tunnels only.
    """
    connection = HboneConnection(stream, Role.SERVER, settings, on_request)
    async with trio.open_nursery() as nursery:
        task_status.started(connection)
        await connection.run(nursery)
        nursery.cancel_scope.cancel()
    if isinstance(connection.failure, Http2Violation):
        raise connection.failure
