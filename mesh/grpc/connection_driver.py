"""The tasks of one gRPC connection: reader, writer, keepalive.

Theory of operation. The machine is only touched between awaits, so no lock guards it. Calls write into the machine and
wake the writer; the writer alone writes to the socket, so a frame is never cut in two by a cancelled call. Calls stop
writing when the machine's backlog passes ``send_buffer_bytes`` and wait in a parking lot until the writer has caught up
or the peer opened a window. The reader never waits for a call: back-pressure towards the peer is the machine's credit.
It only waits for the writer when answers to the peer's control frames pile up.

The first failure ends the connection: it is kept, calls are told, the socket is closed.

Closing a socket over bytes that nobody read makes the kernel send a reset, and a reset takes back what the peer had not
read yet: the GOAWAY, the status of the last calls. So an end that has something to say is said, then our half is
closed, and what still arrives is read and dropped for a bounded moment.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import trio

from mesh.errors import ConnectionLost, MeshError, ProtocolViolation, TlsFailure
from mesh.grpc.limits import GrpcLimits
from mesh.grpc.machine import ConnectionMachine, SettingsReceived, WindowOpened
from mesh.grpc.status import GrpcError, StatusCode

Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]

MachineT = TypeVar("MachineT", bound=ConnectionMachine)

_READ_BYTES = 128 * 1024
_UNANSWERED_BYTES = 1024 * 1024
_LAST_WORDS_SECONDS = 1.0
_LINGER_SECONDS = 1.0
_LINGER_BYTES = 16 * 1024 * 1024


class Connection(Generic[MachineT]):
    """One connection under way."""

    def __init__(
        self, stream: Stream, machine: MachineT, limits: GrpcLimits, handle: Callable[[bytes], None]
    ) -> None:
        """``handle`` feeds what arrived to the machine and acts on its events; it does not wait."""
        self.machine = machine
        self.settled = trio.Event()
        """The peer's settings have arrived, or the connection has ended."""
        self.ended = trio.Event()
        self.failure: MeshError | None = None
        """Why it ended, once it has."""
        self._stream = stream
        self._limits = limits
        self._handle = handle
        self._to_write = trio.Event()
        self._writing = False
        self._writable = trio.lowlevel.ParkingLot()
        self._received_at = trio.current_time()

    # -- for calls ---------------------------------------------------------------------------------------------------

    def wake_writer(self) -> None:
        """The machine may have bytes to send."""
        self._to_write.set()

    def shared_event(self, event: object) -> None:
        """Act on the events that are the same for both ends."""
        if isinstance(event, SettingsReceived):
            self.settled.set()
            self._writable.unpark_all()
        elif isinstance(event, WindowOpened):
            self._writable.unpark_all()

    def wake_senders(self) -> None:
        """A call ended or a window opened: whoever waits to send shall look again."""
        self._writable.unpark_all()

    async def send(self, stream_id: int, parts: tuple[bytes, memoryview], check: Callable[[], None]) -> None:
        """Write a message as fast as the peer and the socket take it.

        Args:
            stream_id: the call.
            parts: prefix and body.
            check: raises when the call has ended in the meantime.

        Raises:
            GrpcError: the call or the connection has ended.
        """
        prefix, body = parts
        position = 0
        first = True
        while first or position < len(body):
            room = await self._room(stream_id, check)
            if first and room < len(prefix) + min(len(body), 1):
                # A window of a few bytes: the prefix goes alone, in pieces if it must.
                self.machine.send_data(stream_id, prefix[:room])
                prefix = prefix[room:]
                first = bool(prefix)
            elif first:
                chunk = prefix + bytes(body[: room - len(prefix)])
                position = len(chunk) - len(prefix)
                self.machine.send_data(stream_id, chunk)
                first = False
            else:
                self.machine.send_data(stream_id, body[position : position + room])
                position += min(room, len(body) - position)
            self.wake_writer()
        await trio.lowlevel.checkpoint()

    async def _room(self, stream_id: int, check: Callable[[], None]) -> int:
        while True:
            if self.failure is not None:
                raise GrpcError(StatusCode.UNAVAILABLE, str(self.failure)) from self.failure
            check()
            room = self.machine.sendable(stream_id)
            if room and self.machine.backlog < self._limits.send_buffer_bytes:
                return room
            await self._writable.park()

    # -- the tasks -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve the connection until it ends; ``failure`` then says why."""
        try:
            async with trio.open_nursery() as nursery:
                for task in (self._read, self._write, self._keep_alive):
                    nursery.start_soon(self._until_failure, task, nursery.cancel_scope)
        finally:
            self.fail(ConnectionLost("the connection was closed here"))
            await trio.aclose_forcefully(self._stream)

    async def _until_failure(self, task: Callable[[], Awaitable[None]], scope: trio.CancelScope) -> None:
        try:
            await task()
        except MeshError as error:
            self.fail(error)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            cause = error.__cause__
            if isinstance(cause, ssl.SSLError):
                # In TLS 1.3 a client learns only here that the server refused its certificate.
                self.fail(TlsFailure(f"TLS failed: {cause.reason or cause}"))
            else:
                self.fail(ConnectionLost(f"the connection broke: {cause or error}"))
        scope.cancel()

    def fail(self, error: MeshError) -> None:
        """Record why the connection ends and tell whoever waits; only the first reason counts."""
        if self.failure is None:
            self.failure = error
        self.settled.set()
        self.ended.set()
        self._writable.unpark_all()

    async def _read(self) -> None:
        while True:
            data = await self._stream.receive_some(_READ_BYTES)
            if not data:
                raise ConnectionLost("the other side closed the connection")
            self._received_at = trio.current_time()
            try:
                self._handle(bytes(data))
            except ProtocolViolation as error:
                self.fail(error)
                await self._last_words()
                raise
            self.wake_writer()
            while self.machine.backlog > _UNANSWERED_BYTES:
                await self._writable.park()

    async def _last_words(self) -> None:
        # The writer may be at work: it then takes the GOAWAY along, and gets a moment to do so.
        self.wake_writer()
        with trio.move_on_after(_LAST_WORDS_SECONDS):
            while self._writing or self.machine.backlog:
                await self._writable.park()
        raw = self._close_our_half()
        dropped = 0
        with trio.move_on_after(_LINGER_SECONDS):
            while dropped < _LINGER_BYTES and (data := await raw.receive_some(_READ_BYTES)):
                dropped += len(data)

    def _close_our_half(self) -> trio.SocketStream:
        # Below TLS, which has no half-close: whoever speaks HTTP/2 takes the end of the bytes for the end.
        raw = self._stream.transport_stream if isinstance(self._stream, trio.SSLStream) else self._stream
        try:
            raw.socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the peer has reset the connection: there is nobody to tell
        return raw

    async def _write(self) -> None:
        while True:
            await self._to_write.wait()
            self._to_write = trio.Event()
            data = self.machine.data_to_send()
            if data:
                self._writing = True
                with trio.move_on_after(self._limits.write_seconds) as patience:
                    await self._stream.send_all(data)
                if patience.cancelled_caught:
                    raise ConnectionLost(f"the other side took no data for {self._limits.write_seconds:g} s")
            self._writing = False
            self._writable.unpark_all()

    async def _keep_alive(self) -> None:
        with trio.move_on_after(self._limits.handshake_seconds) as patience:
            await self.settled.wait()
        if patience.cancelled_caught:
            raise ConnectionLost(f"no HTTP/2 settings for {self._limits.handshake_seconds:g} s")
        while True:
            await trio.sleep(self._limits.keepalive_interval_seconds)
            asked_at = trio.current_time()
            self.machine.ping()
            self.wake_writer()
            while self._received_at < asked_at:
                left = asked_at + self._limits.keepalive_timeout_seconds - trio.current_time()
                if left <= 0:
                    patience_seconds = self._limits.keepalive_timeout_seconds
                    raise ConnectionLost(f"no answer to a PING for {patience_seconds:g} s: the other side is dead")
                await trio.sleep(min(left, 1.0))

    async def flush(self, seconds: float) -> None:
        """Give what is queued that long to leave."""
        self.wake_writer()
        with trio.move_on_after(seconds):
            while (self._writing or self.machine.backlog) and not self.ended.is_set():
                await self._writable.park()

    async def finish(self, seconds: float) -> None:
        """Send what is queued, close our half and wait for the peer's end: together at most that many seconds."""
        with trio.move_on_after(seconds):
            await self.flush(seconds)
            self._close_our_half()
            await self.ended.wait()
