"""The HBONE protocol: HTTP/2 restricted to CONNECT streams, as a machine with no I/O and no clock.

Theory of operation
-------------------
One machine is one end of one connection. Bytes received are given to :meth:`HboneMachine.receive`, which calls the
owners of the streams they are for; bytes to send collect in :attr:`HboneMachine.outgoing`, which the caller encrypts
and writes whenever it likes. A bulk sender may skip that buffer: :meth:`HboneMachine.data_header_into` writes only a
frame header into the caller's own buffer, in front of the payload it has just read there.

Why not ``h2``? Its general state machine costs ten times as much (``docs/measurements/http2_machines.py``). HBONE uses
a small part of HTTP/2: requests without bodies other than DATA, no trailers, no push, no priorities. That part is
written out below; ``h2`` is the oracle in the tests, in both roles.

Windows. A receiver must bound what a fast sender can make it hold, and must not let one slow stream stall the others on
the connection. So the *connection* window is given back as soon as bytes arrive, and each *stream* window only when its
application has taken them: what a stream can pile up is its own window. That starts small and doubles, up to a limit,
each time half a window was consumed without a backlog, as long as all windows together stay within the connection's: a
bulk flow soon has a large one, a slow reader never.

Abuse. Frames that cost us work and bring no data (resets of unanswered requests, PING, SETTINGS, empty DATA,
CONTINUATION) draw on a budget that the caller refills once per second with :meth:`HboneMachine.refill_budget`; a peer
that exhausts it is told to calm down and the connection ends. Header blocks are bounded before they are decoded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mesh.hbone.codec import (
    END_HEADERS,
    END_STREAM,
    FRAME_HEADER_SIZE,
    PADDED,
    PREFACE,
    SMALL_FRAMES,
    ErrorCode,
    FrameType,
    Setting,
    pack_frame_header,
    pack_frame_header_into,
    settings_frame,
    unpack_frame_header,
    window_update_frame,
)
from mesh.hbone.contract import (
    DEFAULT_WINDOW,
    MAX_STREAM_ID,
    ConnectionOwner,
    HboneSettings,
    HboneStream,
    Http2Violation,
    Role,
    StreamOwner,
)
from mesh.hbone.control_machine import ControlFrames
from mesh.hbone.header_codec import HeaderAssembler

_DATA: Final = int(FrameType.DATA)
_HEADERS: Final = int(FrameType.HEADERS)


class HboneMachine(ControlFrames):
    """One end of one HBONE connection."""

    def __init__(self, role: Role, owner: ConnectionOwner, settings: HboneSettings | None = None) -> None:
        settings = settings or HboneSettings()
        super().__init__(role, owner, settings)
        self._receive_window = settings.connection_window
        self._connection_credit = 0
        self._preface_left = PREFACE if role is Role.SERVER else b""
        self._data_left = 0
        self._data_ends = False
        self._skip_left = 0
        self._headers = HeaderAssembler(settings.max_header_list)
        self._handlers: dict[int, Callable[[int, int, bytes], None]] = {
            FrameType.HEADERS: self._on_headers,
            FrameType.PRIORITY: self._on_priority,
            FrameType.RST_STREAM: self._on_reset,
            FrameType.SETTINGS: self._on_settings,
            FrameType.PING: self._on_ping,
            FrameType.GOAWAY: self._on_goaway,
            FrameType.WINDOW_UPDATE: self._on_window_update,
            FrameType.CONTINUATION: self._on_continuation,
        }
        values = [
            (Setting.INITIAL_WINDOW_SIZE, settings.initial_stream_window),
            (Setting.MAX_FRAME_SIZE, settings.max_frame),
            (Setting.MAX_HEADER_LIST_SIZE, settings.max_header_list),
        ]
        if role is Role.CLIENT:
            self.outgoing += PREFACE
            values.append((Setting.ENABLE_PUSH, 0))
        else:
            values.append((Setting.MAX_CONCURRENT_STREAMS, settings.max_streams))
        self.outgoing += settings_frame(values)
        self.outgoing += window_update_frame(0, settings.connection_window - DEFAULT_WINDOW)

    # -- commands ------------------------------------------------------------------------------------------------------

    @property
    def free_streams(self) -> int:
        """How many more streams the peer takes now (client)."""
        return 0 if self.draining else self.peer_max_streams - len(self.streams)

    def open_stream(self, block: bytes, owner: StreamOwner) -> HboneStream:
        """Send a request; ``block`` comes from ``codec.encode_connect``. The caller has looked at
        :attr:`free_streams`.
        """
        stream = HboneStream(self._next_id, owner, self._peer_initial_window, self.settings.initial_stream_window)
        self.streams[self._next_id] = stream
        self._next_id += 2
        if self._next_id > MAX_STREAM_ID - 2:
            self.draining = True
        self.outgoing += pack_frame_header(len(block) << 8 | _HEADERS, END_HEADERS, stream.id)
        self.outgoing += block
        self.owner.output_ready()
        return stream

    def respond(self, stream: HboneStream, block: bytes, *, end: bool = False, hurry: bool = True) -> None:
        """Answer a request; ``block`` comes from ``codec.encode_response``. ``hurry``: somebody waits for it."""
        if stream.id not in self.streams:
            return
        stream.answered = True
        self.outgoing += pack_frame_header(
            len(block) << 8 | _HEADERS, END_HEADERS | END_STREAM if end else END_HEADERS, stream.id
        )
        self.outgoing += block
        if end:
            self._local_end(stream)
        (self.owner.output_ready if hurry else self.owner.output_can_wait)()

    def sendable(self, stream: HboneStream) -> int:
        """How many bytes one DATA frame may carry now. After 0, ``stream_writable`` is called when that changes."""
        limit = stream.send_window
        if limit > self.send_window:
            limit = self.send_window
        if limit > self.peer_max_frame:
            limit = self.peer_max_frame
        if limit <= 0:
            if stream.id in self.streams:
                self._waiting[stream.id] = stream
            return 0
        return limit

    def send_data(self, stream: HboneStream, payload: memoryview, size: int) -> None:
        """Put a DATA frame of ``payload`` (``size`` bytes, at most :meth:`sendable`) into ``outgoing``.

        ``output_ready`` is not called: the caller knows.
        """
        stream.send_window -= size
        self.send_window -= size
        self.outgoing += pack_frame_header(size << 8, 0, stream.id)
        self.outgoing += payload

    def data_header_into(self, buffer: bytearray | memoryview, stream: HboneStream, size: int) -> None:
        """Write a DATA frame's header into the first 9 bytes of the caller's buffer and account for ``size`` bytes."""
        stream.send_window -= size
        self.send_window -= size
        pack_frame_header_into(buffer, 0, size << 8, 0, stream.id)

    def end_stream(self, stream: HboneStream) -> None:
        """Half close: no more DATA from here."""
        if stream.local_ended or stream.id not in self.streams:
            return
        self.outgoing += pack_frame_header(0, END_STREAM, stream.id)
        self._local_end(stream)
        self.owner.output_ready()

    def consumed(self, stream: HboneStream, size: int) -> None:
        """The application took ``size`` bytes: give window back, more of it if it keeps up."""
        stream.backlog -= size
        stream.credit += size
        window = stream.window
        if stream.credit < window >> 1 or stream.remote_ended or stream.id not in self.streams:
            return
        if stream.backlog == 0 and window < self.settings.max_stream_window:
            grown = min(window * 2, self.settings.max_stream_window)
            if sum(s.window for s in self.streams.values()) + grown - window <= self.settings.connection_window:
                stream.window = grown
                stream.credit += grown - window
        stream.receive_window += stream.credit
        self.outgoing += window_update_frame(stream.id, stream.credit)
        stream.credit = 0
        self.owner.output_ready()

    # -- events --------------------------------------------------------------------------------------------------------

    def receive(self, view: memoryview, end: int) -> int:
        """Take the bytes ``view[:end]``; returns how many were consumed. The rest is to be given again, with more.

        What is left over is part of one frame that is no DATA, so never more than ``max_header_list`` or 16 KiB,
        whichever is larger, and a frame header.

        Raises:
            Http2Violation: the connection is to be ended with GOAWAY of its code.
        """
        position = 0
        if self._preface_left:
            position = self._take_preface(view, end)
            if self._preface_left:
                return position
        while True:
            if self._data_left:
                size = min(self._data_left, end - position)
                if not size:
                    return position
                self._data_left -= size
                self._deliver(view[position : position + size], size)
                position += size
                continue
            if self._skip_left:
                size = min(self._skip_left, end - position)
                self._skip_left -= size
                position += size
                if self._skip_left:
                    return position
            if end - position < FRAME_HEADER_SIZE:
                return position
            word, flags, stream_id = unpack_frame_header(view, position)
            size = word >> 8
            kind = word & 255
            if kind == _DATA and not flags & PADDED:
                position += FRAME_HEADER_SIZE
                self._begin_data(stream_id, size, flags)
                continue
            self._check_order(kind, stream_id & MAX_STREAM_ID, size)
            if kind == _DATA:
                if size and end - position <= FRAME_HEADER_SIZE:
                    return position
                position += FRAME_HEADER_SIZE + 1
                self._begin_padded_data(stream_id, size, flags, view[position - 1] if size else 0)
                continue
            if kind not in self._handlers:
                # Unknown types are skipped as they arrive (RFC 9113 section 4.1).
                self._spend(1)
                position += FRAME_HEADER_SIZE
                self._skip_left = size
                continue
            if end - position - FRAME_HEADER_SIZE < size:
                return position
            start = position + FRAME_HEADER_SIZE
            position = start + size
            self._handlers[kind](stream_id & MAX_STREAM_ID, flags, bytes(view[start:position]))

    def _take_preface(self, view: memoryview, end: int) -> int:
        size = min(end, len(self._preface_left))
        if view[:size] != self._preface_left[:size]:
            raise Http2Violation(ErrorCode.PROTOCOL_ERROR, "the connection does not start with HTTP/2's preface")
        self._preface_left = self._preface_left[size:]
        return size

    def _check_order(self, kind: int, stream_id: int, size: int) -> None:
        if not self._settings_seen and kind != FrameType.SETTINGS:
            raise Http2Violation(ErrorCode.PROTOCOL_ERROR, "the first frame is not SETTINGS")
        if self._headers.stream_id and (kind != FrameType.CONTINUATION or stream_id != self._headers.stream_id):
            raise Http2Violation(ErrorCode.PROTOCOL_ERROR, "a header block is interrupted by another frame")
        if kind == FrameType.PUSH_PROMISE:
            raise Http2Violation(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE, which HBONE has not")
        if size > self.settings.max_frame:
            raise Http2Violation(ErrorCode.FRAME_SIZE_ERROR, f"a frame of {size} bytes")
        if kind in (FrameType.HEADERS, FrameType.CONTINUATION) and size > self.settings.max_header_list:
            raise Http2Violation(ErrorCode.ENHANCE_YOUR_CALM, f"a header block of {size} bytes")
        if kind in SMALL_FRAMES and size > 16384:
            raise Http2Violation(ErrorCode.FRAME_SIZE_ERROR, f"a {FrameType(kind).name} frame of {size} bytes")

    # DATA: the hot path ---------------------------------------------------------------------------------------------

    def _begin_data(self, stream_id: int, size: int, flags: int) -> None:
        if self._headers.stream_id or not self._settings_seen:
            self._check_order(_DATA, stream_id, 0)
        if size > self.settings.max_frame:
            raise Http2Violation(ErrorCode.FRAME_SIZE_ERROR, f"a DATA frame of {size} bytes")
        if stream_id > MAX_STREAM_ID:
            stream_id &= MAX_STREAM_ID  # the reserved bit
        stream = self.streams.get(stream_id)
        if stream is None:
            self._check_known(stream_id, "DATA")
            if not size:
                self._spend(1)
        elif stream.remote_ended:
            self._fail_stream(stream, ErrorCode.STREAM_CLOSED)
            stream = None
        elif not stream.answered and self.role is Role.CLIENT:
            self._fail_stream(stream, ErrorCode.PROTOCOL_ERROR)
            stream = None
        # Both windows are charged; the connection's is given back at once.
        self._receive_window -= size
        if self._receive_window < 0:
            raise Http2Violation(ErrorCode.FLOW_CONTROL_ERROR, "more DATA than the connection's window")
        self._connection_credit += size
        if self._connection_credit > self.settings.connection_window >> 2:
            self._return_connection_credit()
        if stream is not None:
            stream.receive_window -= size
            if stream.receive_window < 0:
                self._fail_stream(stream, ErrorCode.FLOW_CONTROL_ERROR)
                stream = None
        self._data_stream = stream
        self._data_left = size
        self._data_ends = bool(flags & END_STREAM)
        if not size:
            if self._data_ends:
                self._finish_data()
            else:
                self._spend(1)

    def _return_connection_credit(self) -> None:
        self.outgoing += window_update_frame(0, self._connection_credit)
        self._receive_window += self._connection_credit
        self._connection_credit = 0
        self.owner.output_ready()

    def _deliver(self, payload: memoryview, size: int) -> None:
        stream = self._data_stream
        if stream is not None and stream.owner is not None:
            stream.backlog += size
            stream.owner.stream_data(payload)
        if not self._data_left and self._data_ends:
            self._finish_data()

    def _finish_data(self) -> None:
        stream = self._data_stream
        self._data_ends = False
        self._data_stream = None
        if stream is not None and stream.id in self.streams:
            self._remote_end(stream)

    def _begin_padded_data(self, stream_id: int, size: int, flags: int, padding: int) -> None:
        if padding >= size:
            raise Http2Violation(ErrorCode.PROTOCOL_ERROR, "padding longer than its frame")
        if padding * 2 >= size:
            self._spend(1)
        self._begin_data(stream_id, size, flags)
        if self._data_stream is not None:
            # Padding is charged like payload, but no application will ever consume it.
            self._data_stream.backlog += padding + 1
            self.consumed(self._data_stream, padding + 1)
        self._data_left = size - padding - 1
        self._skip_left = padding
        if not self._data_left and self._data_ends:
            self._finish_data()

    # Everything else ------------------------------------------------------------------------------------------------

    def _on_headers(self, stream_id: int, flags: int, payload: bytes) -> None:
        self._headers.start(stream_id, flags, payload)
        if flags & END_HEADERS:
            self._finish_headers()

    def _on_continuation(self, _stream_id: int, flags: int, payload: bytes) -> None:
        self._headers.go_on(payload)
        if flags & END_HEADERS:
            self._finish_headers()

    def _finish_headers(self) -> None:
        stream_id = self._headers.stream_id
        end = bool(self._headers.flags & END_STREAM)
        fields = self._headers.finish()
        stream = self.streams.get(stream_id)
        if stream is not None:
            self._later_headers(stream, fields, end)
        elif self.role is Role.SERVER and stream_id & 1 and stream_id > self._last_peer_id:
            self._request(stream_id, fields, end)
        else:
            self._check_known(stream_id, "HEADERS")
            self._spend(4)

    def _later_headers(self, stream: HboneStream, fields: list[tuple[str, str]], end: bool) -> None:
        if stream.remote_ended:
            self._fail_stream(stream, ErrorCode.STREAM_CLOSED)
            return
        if self.role is Role.CLIENT and not stream.answered:
            if any(name == ":status" and value.startswith("1") for name, value in fields):
                self._spend(1)
                if end:
                    self._fail_stream(stream, ErrorCode.PROTOCOL_ERROR)
                return
            stream.answered = True
            if stream.owner is not None:
                stream.owner.stream_answered(fields)
        elif not end:
            self._fail_stream(stream, ErrorCode.PROTOCOL_ERROR)
            return
        if end and stream.id in self.streams:
            self._remote_end(stream)

    def _request(self, stream_id: int, fields: list[tuple[str, str]], end: bool) -> None:
        self._last_peer_id = stream_id
        refused = self.draining or len(self.streams) >= self.settings.max_streams
        if refused:
            self._spend(4)
        stream = HboneStream(stream_id, None, self._peer_initial_window, self.settings.initial_stream_window)
        self.streams[stream_id] = stream
        if refused:
            self.reset_stream(stream, ErrorCode.REFUSED_STREAM)
            return
        self.owner.stream_requested(stream, fields)
        if end and stream_id in self.streams:
            self._remote_end(stream)
