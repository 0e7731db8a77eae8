"""The part of a gRPC connection that client and server share, without I/O: frames, windows, messages.

Theory of operation. ``h2`` owns HTTP/2 semantics; a ``FrameGuard`` stands before it. This class adds what gRPC needs:

- **Messages.** Each stream has a ``MessageBuffer``. ``take`` gives the application whole messages.
- **Back-pressure towards the peer.** Bytes are credited (WINDOW_UPDATE) at once while no whole message waits, since a
  message may be larger than the window; as soon as one waits, credit is held until the application took every waiting
  message. So a stream buffers at most one message and one window.
- **Back-pressure from the peer.** ``sendable`` says how much may be written to a stream now; callers write no more.
- **A budget of memory per connection**: a stream that would exceed it is ended with RESOURCE_EXHAUSTED. Holding back
  credit instead could leave every stream with half a message and none able to finish.
- **GOAWAY** in both directions, see ``frame_guard_machine``.

Every method may leave bytes to write: the driver calls ``data_to_send`` after each. Time comes in as an argument.
"""

from __future__ import annotations

from dataclasses import dataclass

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings

from mesh.errors import ProtocolViolation
from mesh.grpc.codec import Headers, MessageBuffer, message_prefix
from mesh.grpc.frame_guard_machine import FrameGuard, GoAway, goaway_frame
from mesh.grpc.limits import GrpcLimits
from mesh.grpc.status import GrpcError, StatusCode

_FRAME_BYTES = 16384
_DEFAULT_WINDOW = 65535


@dataclass(frozen=True, slots=True)
class SettingsReceived:
    """The peer's first or changed settings; windows may have moved."""


@dataclass(frozen=True, slots=True)
class WindowOpened:
    """Some stream may be able to send again."""


@dataclass(frozen=True, slots=True)
class GoAwayReceived:
    """The peer takes no new calls."""

    goaway: GoAway


@dataclass(frozen=True, slots=True)
class CallProgressed:
    """Bytes arrived: ``take`` may have a message, or the peer's half may have ended."""

    stream_id: int


SharedEvent = SettingsReceived | WindowOpened | GoAwayReceived | CallProgressed


class Inbound:
    """What arrived of one call and was not taken."""

    def __init__(self, limit: int) -> None:
        self.buffer = MessageBuffer(limit)
        self.held = 0
        """Flow-controlled bytes not yet credited."""
        self.ended = False
        """The peer has ended its half."""


class ConnectionMachine:
    """What ``ClientMachine`` and ``ServerMachine`` build on."""

    def __init__(self, limits: GrpcLimits, *, client: bool, largest_message: int) -> None:
        self._limits = limits
        self._guard = FrameGuard(max_frame_bytes=_FRAME_BYTES, expect_preface=not client)
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=client, header_encoding=None))
        codes = h2.settings.SettingCodes
        initial = {
            codes.MAX_CONCURRENT_STREAMS: limits.concurrent_calls,
            codes.MAX_HEADER_LIST_SIZE: limits.header_bytes,
            codes.INITIAL_WINDOW_SIZE: limits.stream_window_bytes,
            codes.ENABLE_PUSH: 0,
        }
        self._h2.local_settings = h2.settings.Settings(client=client, initial_values=initial)
        self._h2.decoder.max_header_list_size = limits.header_bytes
        self._h2.initiate_connection()
        if limits.connection_window_bytes > _DEFAULT_WINDOW:
            self._h2.increment_flow_control_window(limits.connection_window_bytes - _DEFAULT_WINDOW)
        self._output = bytearray()
        self._inbound: dict[int, Inbound] = {}
        self._buffered = 0
        self._buffer_limit = max(limits.connection_buffer_bytes, largest_message + limits.connection_window_bytes)

    # -- bytes -----------------------------------------------------------------------------------------------------

    @property
    def backlog(self) -> int:
        """Bytes that wait for ``data_to_send``."""
        self._collect()
        return len(self._output)

    def data_to_send(self) -> bytes:
        """Everything that can be written now."""
        self._collect()
        data = bytes(self._output)
        self._output.clear()
        return data

    def _collect(self) -> None:
        self._output += self._h2.data_to_send()

    def _receive(self, data: bytes, now: float) -> tuple[list[h2.events.Event], list[GoAway]]:
        queued = self.backlog
        try:
            passed, goaways = self._guard.pass_on(data, now)
            return self._h2.receive_data(passed), goaways
        except ProtocolViolation as error:
            self.go_away(h2.errors.ErrorCodes.ENHANCE_YOUR_CALM, str(error))
            raise
        except h2.exceptions.H2Error as error:
            if self.backlog == queued:
                self.go_away(h2.errors.ErrorCodes.PROTOCOL_ERROR)  # h2 itself is silent about a wrong preface
            raise ProtocolViolation(f"the peer broke HTTP/2: {error or type(error).__name__}") from error

    # -- messages towards us ---------------------------------------------------------------------------------------

    def take(self, stream_id: int) -> bytes | None:
        """The next whole message of a call, or None.

        Raises:
            GrpcError: the message is compressed or too large; the caller shall end the call.
        """
        inbound = self._inbound.get(stream_id)
        if inbound is None:
            return None
        before = len(inbound.buffer)
        message = inbound.buffer.take()
        self._buffered -= before - len(inbound.buffer)
        if inbound.held and not inbound.buffer.complete():
            self._credit(stream_id, inbound)
        return message

    def half_closed(self, stream_id: int) -> bool:
        """Whether the peer has ended its half; ``take`` may still have messages."""
        inbound = self._inbound.get(stream_id)
        return inbound is None or inbound.ended

    def truncated(self, stream_id: int) -> bool:
        """Whether bytes of an unfinished message are left."""
        inbound = self._inbound.get(stream_id)
        return inbound is not None and len(inbound.buffer) > 0

    def _accept_data(self, event: h2.events.DataReceived) -> GrpcError | None:
        inbound = self._inbound.get(event.stream_id)
        length = event.flow_controlled_length or 0
        if inbound is None:
            if length:
                # The call is over for us, but the connection's window is shared.
                self._h2.acknowledge_received_data(length, event.stream_id)
            return None
        inbound.held += length
        self._buffered += len(event.data)
        try:
            inbound.buffer.feed(event.data)
        except GrpcError as error:
            return error
        if self._buffered > self._buffer_limit:
            return GrpcError(StatusCode.RESOURCE_EXHAUSTED, "too many bytes wait on this connection")
        if inbound.held and not inbound.buffer.complete():
            self._credit(event.stream_id, inbound)
        return None

    def _credit(self, stream_id: int, inbound: Inbound) -> None:
        self._h2.acknowledge_received_data(inbound.held, stream_id)
        inbound.held = 0

    def _open_inbound(self, stream_id: int, limit: int) -> None:
        self._inbound[stream_id] = Inbound(limit)

    def release(self, stream_id: int, error_code: int) -> None:
        """Forget a call; if a half of it is still open, reset the stream with that HTTP/2 code."""
        inbound = self._inbound.pop(stream_id, None)
        if inbound is None:
            return
        self._buffered -= len(inbound.buffer)
        stream = self._h2.streams.get(stream_id)
        if stream is not None and not stream.closed:
            self._h2.reset_stream(stream_id, error_code)
        if inbound.held:
            self._credit(stream_id, inbound)

    # -- towards the peer ------------------------------------------------------------------------------------------

    def sendable(self, stream_id: int) -> int:
        """How many bytes of data the peer's windows and frame size admit now.

        Raises:
            GrpcError: the stream is gone.
        """
        try:
            window = self._h2.local_flow_control_window(stream_id)
        except h2.exceptions.ProtocolError as error:
            raise GrpcError(StatusCode.CANCELLED, "the other side has ended the call") from error
        return max(0, min(window, self._h2.max_outbound_frame_size))

    def send_data(self, stream_id: int, data: bytes | memoryview, *, end: bool = False) -> None:
        """Queue one DATA frame of at most ``sendable`` bytes.

        Raises:
            GrpcError: the stream is gone.
        """
        try:
            self._h2.send_data(stream_id, data, end_stream=end)
        except (h2.exceptions.ProtocolError, KeyError) as error:
            raise GrpcError(StatusCode.CANCELLED, "the other side has ended the call") from error

    def _send_headers(self, stream_id: int, headers: Headers, *, end: bool) -> None:
        try:
            self._h2.send_headers(stream_id, headers, end_stream=end)
        except (h2.exceptions.ProtocolError, KeyError) as error:
            raise GrpcError(StatusCode.CANCELLED, "the other side has ended the call") from error

    def ping(self) -> None:
        """Ask the peer for a sign of life."""
        self._h2.ping(b"ambimesh")

    def go_away(self, error_code: int = 0, debug: str = "") -> None:
        """Tell the peer that no new calls are taken."""
        self._collect()
        self._output += goaway_frame(self._h2.highest_inbound_stream_id, error_code, debug.encode()[:256])


def prefixed(message: bytes) -> tuple[bytes, memoryview]:
    """A message as it goes on the wire: prefix and body, which is not copied."""
    return message_prefix(len(message)), memoryview(message)
