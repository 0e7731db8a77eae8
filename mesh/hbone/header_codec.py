"""Header blocks as they arrive: HEADERS and CONTINUATION put together, bounded before they are decoded."""

from __future__ import annotations

from hpack import Decoder
from hpack.exceptions import HPACKError

from mesh.hbone.codec import PADDED, PRIORITY_FLAG, ErrorCode
from mesh.hbone.contract import Http2Violation

_CONTINUATIONS = 16


class HeaderAssembler:
    """Collects one header block at a time (RFC 9113 section 4.3: no other frame may come between its parts)."""

    def __init__(self, max_size: int) -> None:
        self._max_size = max_size
        self._decoder = Decoder(max_header_list_size=max_size)
        self._block = bytearray()
        self._continuations = 0
        self.stream_id = 0
        """The stream whose block is open, 0 when none is."""
        self.flags = 0
        """Of the HEADERS frame."""

    def start(self, stream_id: int, flags: int, payload: bytes) -> None:
        """A HEADERS frame."""
        if not stream_id:
            raise Http2Violation(ErrorCode.PROTOCOL_ERROR, "HEADERS for stream 0")
        if flags & PADDED:
            if not payload or payload[0] >= len(payload):
                raise Http2Violation(ErrorCode.PROTOCOL_ERROR, "padding longer than its frame")
            payload = payload[1 : len(payload) - payload[0]]
        if flags & PRIORITY_FLAG:
            if len(payload) < 5:
                raise Http2Violation(ErrorCode.FRAME_SIZE_ERROR, "a HEADERS frame too short for its priority")
            payload = payload[5:]
        self.stream_id = stream_id
        self.flags = flags
        self._block = bytearray(payload)
        self._continuations = 0

    def go_on(self, payload: bytes) -> None:
        """A CONTINUATION frame."""
        if not self.stream_id:
            raise Http2Violation(ErrorCode.PROTOCOL_ERROR, "CONTINUATION without HEADERS")
        self._continuations += 1
        self._block += payload
        if self._continuations > _CONTINUATIONS or len(self._block) > self._max_size:
            raise Http2Violation(ErrorCode.ENHANCE_YOUR_CALM, "a header block without end")

    def finish(self) -> list[tuple[str, str]]:
        """Decode the whole block.

        Raises:
            Http2Violation: it cannot be decoded, or is larger than allowed.
        """
        self.stream_id = 0
        try:
            return [(str(name), str(value)) for name, value in self._decoder.decode(bytes(self._block))]
        except (HPACKError, UnicodeDecodeError) as error:
            raise Http2Violation(ErrorCode.COMPRESSION_ERROR, "a header block that cannot be decoded") from error
