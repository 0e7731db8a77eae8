"""HTTP/2 with whole messages, on the machine that HBONE's tunnels run on.

``mesh.hbone.machine`` knows frames, windows, settings, resets, going away and abuse, but only messages as CONNECT has
them. Here is what HTTP has besides: heads as bytes, requests that end with their head, trailers, interim answers, and
blocks longer than a frame. ``h2`` would bring the same at ten times the cost (``docs/measurements/http2_machines.py``);
it is the oracle in the tests, in both roles.
"""

from __future__ import annotations

from typing import Final, Protocol

from mesh.hbone.codec import END_HEADERS, END_STREAM, ErrorCode, FrameType, frame, pack_frame_header
from mesh.hbone.contract import MAX_STREAM_ID, ConnectionOwner, HboneSettings, HboneStream, Http2Violation, Role
from mesh.hbone.machine import HboneMachine
from waypoint.http.h2_header_codec import BlockReader
from waypoint.http.h2_past_streams import Past, PastStreams
from waypoint.http.limits import HttpLimits

Fields = tuple[tuple[bytes, bytes], ...]

_HEADERS: Final = int(FrameType.HEADERS)
_CONTINUATION: Final = int(FrameType.CONTINUATION)
_MAX_FRAME: Final = HboneSettings().initial_stream_window
"""No larger than what a stream's first window lets a peer send."""
_RESET_COST: Final = 12
"""Of the budget of 4000 per second (``mesh.hbone.control_machine``), on top of its own 4: a request that is reset at
once has cost a request to an endpoint (CVE-2023-44487)."""


class StreamParty:
    """Who is told about one stream (``mesh.hbone.contract.StreamOwner``, and heads)."""

    __slots__ = ()

    def stream_head(self, fields: Fields, *, end: bool) -> None:
        """A head after the first one of a server's stream: an answer, interim or not, or trailers."""
        raise NotImplementedError

    def stream_answered(self, headers: list[tuple[str, str]]) -> None:
        """HBONE's form of an answer: not used here."""
        raise NotImplementedError

    def stream_data(self, payload: memoryview) -> None:
        """Some of the body."""
        raise NotImplementedError

    def stream_ended(self) -> None:
        """The peer's message is complete."""
        raise NotImplementedError

    def stream_reset(self, code: int) -> None:
        """The peer gave the stream up, or broke its rules."""
        raise NotImplementedError

    def stream_writable(self) -> None:
        """A window that was empty has opened."""
        raise NotImplementedError


class Http2Owner(ConnectionOwner, Protocol):
    """Who is told about the connection."""

    def head_received(self, stream: HboneStream, fields: Fields, *, end: bool) -> None:
        """A request (server only): set ``stream.owner``, or answer or reset the stream."""


def settings_of(limits: HttpLimits) -> HboneSettings:
    """What a connection allows its peer."""
    return HboneSettings(
        max_frame=_MAX_FRAME,
        max_header_list=limits.head_bytes,
        max_streams=limits.streams,
    )


class Http2Machine(HboneMachine):
    """One end of one HTTP/2 connection."""

    def __init__(self, role: Role, owner: Http2Owner, limits: HttpLimits) -> None:
        super().__init__(role, owner, settings_of(limits))
        self._http_owner = owner
        self._blocks = BlockReader(limits.head_bytes)
        self._headers = self._blocks
        self._past = PastStreams()
        if role is Role.CLIENT:
            # Until the peer's settings say otherwise; RFC 9113 section 6.5.2 advises at least 100.
            self.peer_max_streams = 100

    @property
    def in_head(self) -> bool:
        """A header block is open, or the preface is not complete."""
        return bool(self._blocks.stream_id or self._preface_left)

    # -- commands ----------------------------------------------------------------------------------------------------

    def request(self, block: bytes, party: StreamParty, *, end: bool) -> HboneStream:
        """Open a stream (client); the caller has looked at ``free_streams``."""
        stream = HboneStream(self._next_id, party, self._peer_initial_window, self.settings.initial_stream_window)
        self.streams[self._next_id] = stream
        self._next_id += 2
        if self._next_id > MAX_STREAM_ID - 2:
            self.draining = True
        self.send_head(stream, block, end=end)
        return stream

    def send_head(self, stream: HboneStream, block: bytes, *, end: bool) -> None:
        """Send an answer's head, interim or not, or trailers (``end``). The caller flushes."""
        if stream.id not in self.streams:
            return
        outgoing, most = self.outgoing, self.peer_max_frame
        if len(block) <= most:
            outgoing += pack_frame_header(
                len(block) << 8 | _HEADERS, END_HEADERS | END_STREAM if end else END_HEADERS, stream.id
            )
            outgoing += block
        else:
            outgoing += pack_frame_header(most << 8 | _HEADERS, END_STREAM if end else 0, stream.id)
            outgoing += block[:most]
            for start in range(most, len(block), most):
                part = block[start : start + most]
                flags = END_HEADERS if start + most >= len(block) else 0
                outgoing += pack_frame_header(len(part) << 8 | _CONTINUATION, flags, stream.id)
                outgoing += part
        if end:
            self._local_end(stream)

    def end_with_data(self, stream: HboneStream) -> None:
        """Half close with an empty frame. The caller flushes."""
        if stream.local_ended or stream.id not in self.streams:
            return
        self.outgoing += pack_frame_header(0, END_STREAM, stream.id)
        self._local_end(stream)

    def reset_stream(self, stream: HboneStream, code: ErrorCode) -> None:
        """Give the stream up; what the peer has sent on it by now will be borne."""
        if stream.id in self.streams:
            self._past.reset(stream.id)
        super().reset_stream(stream, code)

    def _local_end(self, stream: HboneStream) -> None:
        super()._local_end(stream)
        if stream.remote_ended:
            self._let_go(stream)

    def _remote_end(self, stream: HboneStream) -> None:
        super()._remote_end(stream)
        if stream.local_ended:
            self._let_go(stream)

    def _let_go(self, stream: HboneStream) -> None:
        """Nothing more comes of it. It and its party refer to each other: a circle for each request would be left to
        the collector, which then takes milliseconds at a time, and the slowest requests are those that meet it.
        """
        stream.owner = None

    # -- events ------------------------------------------------------------------------------------------------------

    def _on_reset(self, stream_id: int, flags: int, payload: bytes) -> None:
        stream = self.streams.get(stream_id)
        if self.role is Role.SERVER and stream is not None and not stream.answered:
            self._spend(_RESET_COST)
        super()._on_reset(stream_id, flags, payload)

    def _finish_headers(self) -> None:
        blocks = self._blocks
        stream_id, end = blocks.stream_id, bool(blocks.flags & END_STREAM)
        fields = blocks.finish_fields()
        stream = self.streams.get(stream_id)
        if stream is not None:
            self._message_head(stream, fields, end=end)
        elif self.role is Role.SERVER and stream_id & 1 and stream_id > self._last_peer_id:
            self._new_request(stream_id, fields, end=end)
        else:
            self._check_known(stream_id, "HEADERS")
            self._spend(4)

    def _check_known(self, stream_id: int, what: str) -> None:
        super()._check_known(stream_id, what)
        if self.role is not Role.SERVER or what not in ("HEADERS", "DATA"):
            return
        past = self._past.look_up(stream_id)
        if past is Past.BORNE:
            return
        if past is Past.SKIPPED or what == "HEADERS":
            code = ErrorCode.PROTOCOL_ERROR if past is Past.SKIPPED else ErrorCode.STREAM_CLOSED
            raise Http2Violation(code, f"{what} for stream {stream_id}: {past.value}")
        self._spend(4)
        self.outgoing += frame(FrameType.RST_STREAM, 0, stream_id, int(ErrorCode.STREAM_CLOSED).to_bytes(4, "big"))

    def _new_request(self, stream_id: int, fields: Fields, *, end: bool) -> None:
        if stream_id - self._last_peer_id > 2:
            self._past.skip(self._last_peer_id + 1, stream_id - 1)
        self._last_peer_id = stream_id
        stream = HboneStream(stream_id, None, self._peer_initial_window, self.settings.initial_stream_window)
        if self.draining or len(self.streams) >= self.settings.max_streams:
            self._spend(4)
            self.streams[stream_id] = stream
            self.reset_stream(stream, ErrorCode.REFUSED_STREAM)
            return
        self.streams[stream_id] = stream
        stream.remote_ended = end
        self._http_owner.head_received(stream, fields, end=end)

    def _message_head(self, stream: HboneStream, fields: Fields, *, end: bool) -> None:
        if stream.remote_ended:
            self._fail_stream(stream, ErrorCode.STREAM_CLOSED)
            return
        trailers = self.role is Role.SERVER or stream.answered
        if trailers and not end:
            self._fail_stream(stream, ErrorCode.PROTOCOL_ERROR)
            return
        party = stream.owner
        if isinstance(party, StreamParty):
            party.stream_head(fields, end=end)
        if end and stream.id in self.streams:
            self._remote_end(stream)
