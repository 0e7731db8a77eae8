"""The half of the HBONE machine that moves no data: settings, windows, resets, pings, going away.

Kept apart from the data path so that each can be read whole; :class:`mesh.hbone.machine.HboneMachine` is both.
"""

from __future__ import annotations

import struct
from typing import Final

from mesh.hbone.codec import ACK, ErrorCode, FrameType, Setting, frame
from mesh.hbone.contract import (
    DEFAULT_WINDOW,
    MAX_STREAM_ID,
    MAX_WINDOW,
    ConnectionOwner,
    HboneSettings,
    HboneStream,
    Http2Violation,
    Role,
)

_CONTROL_BUDGET: Final = 4000
"""Per refill, that is per second. A PING, SETTINGS or GOAWAY costs 10; a reset of an unanswered request, a refused
request or a header block for a stream that is gone 4; an empty or unknown frame, an acknowledgement, a setting 1.
"""


class ControlFrames:
    """State of the connection as a whole, and the frames that change it."""

    def __init__(self, role: Role, owner: ConnectionOwner, settings: HboneSettings) -> None:
        self.role = role
        self.owner = owner
        self.settings = settings
        self.outgoing = bytearray()
        """Bytes to send, in order. The caller takes them all and clears it."""
        self.streams: dict[int, HboneStream] = {}
        self.peer_max_streams = 100
        self.peer_max_frame = 16384
        self.send_window = DEFAULT_WINDOW
        self.draining = False
        """No new streams: GOAWAY was sent or received, or ids ran out."""
        self._peer_initial_window = DEFAULT_WINDOW
        self._next_id = 1
        self._last_peer_id = 0
        self._settings_seen = False
        self._budget = _CONTROL_BUDGET
        self._waiting: dict[int, HboneStream] = {}
        """Streams with something to send and no window for it, those that wait longest first."""
        self._data_stream: HboneStream | None = None
        """The stream whose DATA frame is being received, None when it is gone."""

    def _spend(self, cost: int) -> None:
        self._budget -= cost
        if self._budget < 0:
            raise Http2Violation(ErrorCode.ENHANCE_YOUR_CALM, "too many frames that bring no data")

    def refill_budget(self) -> None:
        """To be called about once per second; see *Abuse* above."""
        self._budget = _CONTROL_BUDGET

    def _fail_stream(self, stream: HboneStream, code: ErrorCode) -> None:
        """A stream error of the peer's: reset it and tell its owner."""
        self._spend(4)
        owner = stream.owner
        self.reset_stream(stream, code)
        if owner is not None:
            owner.stream_reset(code)

    def _local_end(self, stream: HboneStream) -> None:
        stream.local_ended = True
        self._waiting.pop(stream.id, None)
        if stream.remote_ended:
            self._forget(stream)

    def _remote_end(self, stream: HboneStream) -> None:
        stream.remote_ended = True
        owner = stream.owner
        if stream.local_ended:
            self._forget(stream)
        if owner is not None:
            owner.stream_ended()

    def _forget(self, stream: HboneStream) -> bool:
        """The stream is over, and its owner hears no more; returns False if it was over before.

        It lets go of the owner, who knows the stream: a circle would wait for the collector with all of its connection.
        """
        stream.owner = None
        return self.streams.pop(stream.id, None) is not None

    def _wake_waiting(self) -> None:
        """First come, first served, and only while the connection's window lasts: else a peer that grants one byte at a
        time would wake every stream for each.
        """
        for stream in list(self._waiting.values()):
            if self.send_window <= 0:
                return
            if stream.send_window > 0 and stream.id in self._waiting:
                del self._waiting[stream.id]
                if stream.owner is not None:
                    stream.owner.stream_writable()

    def _check_known(self, stream_id: int, what: str) -> None:
        """Frames for streams that were closed may still be on their way; for streams that never were, they may not.

        All streams are the client's, so their ids are odd.
        """
        newest = self._next_id - 2 if self.role is Role.CLIENT else self._last_peer_id
        if not stream_id & 1 or stream_id > newest:
            raise Http2Violation(ErrorCode.PROTOCOL_ERROR, f"{what} for stream {stream_id}, which was never opened")

    def _on_reset(self, stream_id: int, _flags: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise Http2Violation(ErrorCode.FRAME_SIZE_ERROR, "a RST_STREAM frame of the wrong size")
        stream = self.streams.get(stream_id)
        if stream is None:
            self._check_known(stream_id, "RST_STREAM")
            self._spend(1)
            return
        owner = stream.owner
        self._forget(stream)
        if not stream.answered:
            self._spend(4)
        self._waiting.pop(stream_id, None)
        if owner is not None:
            owner.stream_reset(int.from_bytes(payload, "big"))

    def _on_priority(self, stream_id: int, _flags: int, payload: bytes) -> None:
        """Priorities are deprecated and count for nothing (RFC 9113 section 5.3.2); its form does, and that no stream
        depends on itself (RFC 7540 section 5.3.1).
        """
        if not stream_id:
            raise Http2Violation(ErrorCode.PROTOCOL_ERROR, "PRIORITY without a stream")
        self._spend(1)
        if len(payload) != 5:
            stream = self.streams.get(stream_id)
            if stream is None:
                raise Http2Violation(ErrorCode.FRAME_SIZE_ERROR, "a PRIORITY frame of the wrong size")
            self._fail_stream(stream, ErrorCode.FRAME_SIZE_ERROR)
        elif int.from_bytes(payload[:4], "big") & MAX_STREAM_ID == stream_id:
            raise Http2Violation(ErrorCode.PROTOCOL_ERROR, "a stream that depends on itself")

    def _on_settings(self, stream_id: int, flags: int, payload: bytes) -> None:
        if stream_id:
            raise Http2Violation(ErrorCode.PROTOCOL_ERROR, "SETTINGS on a stream")
        if len(payload) % 6 or (flags & ACK and payload):
            raise Http2Violation(ErrorCode.FRAME_SIZE_ERROR, "a SETTINGS frame of the wrong size")
        if flags & ACK:
            self._spend(1)
            return
        self._spend(len(payload) // 6 + (10 if self._settings_seen else 0))
        self._settings_seen = True
        window_before = self._peer_initial_window
        for key, value in struct.iter_unpack(">HI", payload):
            self._apply_setting(key, value)
        self.outgoing += frame(FrameType.SETTINGS, ACK, 0)
        if self._peer_initial_window > window_before:
            # Not before: what streams send now obeys all of the values, and a peer may take what comes ahead of the
            # acknowledgement for sent under its old settings (RFC 9113 section 6.5.3).
            self._wake_waiting()
        self.owner.output_ready()

    def _apply_setting(self, key: int, value: int) -> None:
        if key == Setting.INITIAL_WINDOW_SIZE:
            if value > MAX_WINDOW:
                raise Http2Violation(ErrorCode.FLOW_CONTROL_ERROR, "an initial window of more than 2 GiB")
            change = value - self._peer_initial_window
            self._peer_initial_window = value
            for stream in self.streams.values():
                stream.send_window += change
                if stream.send_window > MAX_WINDOW:
                    raise Http2Violation(ErrorCode.FLOW_CONTROL_ERROR, "a stream window beyond its limit")
        elif key == Setting.MAX_FRAME_SIZE:
            if not 16384 <= value <= 16777215:
                raise Http2Violation(ErrorCode.PROTOCOL_ERROR, f"a maximum frame size of {value}")
            self.peer_max_frame = value
        elif key == Setting.MAX_CONCURRENT_STREAMS:
            self.peer_max_streams = value
        elif key == Setting.ENABLE_PUSH and value > (1 if self.role is Role.SERVER else 0):
            raise Http2Violation(ErrorCode.PROTOCOL_ERROR, f"ENABLE_PUSH {value}")

    def _on_ping(self, stream_id: int, flags: int, payload: bytes) -> None:
        if stream_id:
            raise Http2Violation(ErrorCode.PROTOCOL_ERROR, "PING on a stream")
        if len(payload) != 8:
            raise Http2Violation(ErrorCode.FRAME_SIZE_ERROR, "a PING frame of the wrong size")
        if flags & ACK:
            self._spend(1)
            self.owner.ping_answered(payload)
            return
        self._spend(10)
        self.outgoing += frame(FrameType.PING, ACK, 0, payload)
        self.owner.output_ready()

    def _on_goaway(self, stream_id: int, _flags: int, payload: bytes) -> None:
        if stream_id:
            raise Http2Violation(ErrorCode.PROTOCOL_ERROR, "GOAWAY on a stream")
        if len(payload) < 8:
            raise Http2Violation(ErrorCode.FRAME_SIZE_ERROR, "a GOAWAY frame of the wrong size")
        self._spend(10)
        last, code = struct.unpack_from(">II", payload)
        self.draining = True
        self.owner.going_away(last & MAX_STREAM_ID, code)
        if self.role is Role.CLIENT:
            # The peer has not looked at these and never will (RFC 9113 section 6.8): they may be tried elsewhere.
            for stream in [s for s in self.streams.values() if s.id > last & MAX_STREAM_ID]:
                self._waiting.pop(stream.id, None)
                owner = stream.owner
                if self._forget(stream) and owner is not None:
                    owner.stream_reset(ErrorCode.REFUSED_STREAM)

    def _on_window_update(self, stream_id: int, _flags: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise Http2Violation(ErrorCode.FRAME_SIZE_ERROR, "a WINDOW_UPDATE frame of the wrong size")
        increment = int.from_bytes(payload, "big") & MAX_WINDOW
        if not stream_id:
            if not increment:
                raise Http2Violation(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE by nothing")
            self.send_window += increment
            if self.send_window > MAX_WINDOW:
                raise Http2Violation(ErrorCode.FLOW_CONTROL_ERROR, "a connection window beyond its limit")
            self._wake_waiting()
            return
        stream = self.streams.get(stream_id)
        if stream is None:
            self._check_known(stream_id, "WINDOW_UPDATE")
            if not increment:
                self._spend(1)
            return
        stream.send_window += increment
        if not increment or stream.send_window > MAX_WINDOW:
            self._fail_stream(stream, ErrorCode.FLOW_CONTROL_ERROR if increment else ErrorCode.PROTOCOL_ERROR)
        elif self._waiting.pop(stream_id, None) is not None and stream.owner is not None:
            stream.owner.stream_writable()

    def ping(self, payload: bytes) -> None:
        """Send a PING of 8 bytes; ``ping_answered`` follows."""
        self.outgoing += frame(FrameType.PING, 0, 0, payload)
        self.owner.output_ready()

    def announce_going_away(self) -> None:
        """Ask for no new streams, but go on taking those that the peer opens before it has read this; ``go_away``
        follows some round trips later (RFC 9113 section 6.8).
        """
        self.outgoing += frame(FrameType.GOAWAY, 0, 0, struct.pack(">II", MAX_STREAM_ID, ErrorCode.NO_ERROR))
        self.owner.output_ready()

    def go_away(self, code: ErrorCode = ErrorCode.NO_ERROR) -> None:
        """Take no new streams; those that are open go on."""
        self.draining = True
        self.outgoing += frame(FrameType.GOAWAY, 0, 0, struct.pack(">II", self._last_peer_id, code))
        self.owner.output_ready()

    def reset_stream(self, stream: HboneStream, code: ErrorCode) -> None:
        """Give the stream up."""
        if not self._forget(stream):
            return
        self._waiting.pop(stream.id, None)
        if self._data_stream is stream:
            self._data_stream = None
        self.outgoing += frame(FrameType.RST_STREAM, 0, stream.id, int(code).to_bytes(4, "big"))
        self.owner.output_can_wait()
