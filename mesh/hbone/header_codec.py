"""Header blocks as they arrive: HEADERS and CONTINUATION put together, bounded before they are decoded.

Blocks in the form our own codec writes are read here; they leave no trace in HPACK's shared state, so that reading
them elsewhere would change nothing. All others go to the ``hpack`` library, which takes five times as long.
"""

from __future__ import annotations

from typing import Any, Final

from hpack import Decoder
from hpack.exceptions import HPACKError

from mesh.hbone.codec import PADDED, PRIORITY_FLAG, ErrorCode
from mesh.hbone.contract import MAX_STREAM_ID, Http2Violation

_CONTINUATIONS: Final = 16


_INDEXED_NAMES: Final = {1: ":authority", 2: ":method", 8: ":status"}
"""Literals without indexing that take their name from the static table (RFC 7541 section 6.2.2, appendix A)."""
_STATUS_200: Final = 0x88


def read_plain_block(block: bytes) -> list[tuple[str, str]] | None:
    """The fields of a block of plain literals; None if it uses any other form, or is not well formed."""
    fields: list[tuple[str, str]] = []
    position, end = 0, len(block)
    try:
        while position < end:
            form = block[position]
            position += 1
            if form == _STATUS_200:
                fields.append((":status", "200"))
                continue
            name = _INDEXED_NAMES.get(form)
            if name is None:
                size = block[position]
                position += 1 + size
                if form or size > 126 or position > end:
                    return None
                name = str(block[position - size : position], "utf-8")
            size = block[position]
            position += 1
            if size == 127:  # continued: RFC 7541 section 5.1
                size += block[position]
                if size >= 127 + 128:
                    size += (block[position + 1] << 7) - 128
                    if block[position + 1] > 127:
                        return None
                    position += 1
                position += 1
            elif size > 127:  # Huffman
                return None
            position += size
            if position > end:
                return None
            fields.append((name, str(block[position - size : position], "utf-8")))
    except (IndexError, UnicodeDecodeError):
        return None
    return fields


class HeaderAssembler:
    """Collects one header block at a time (RFC 9113 section 4.3: no other frame may come between its parts)."""

    def __init__(self, max_size: int) -> None:
        self._max_size = max_size
        self._decoder = Decoder(max_header_list_size=max_size)
        self._block = b""
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
            if int.from_bytes(payload[:4], "big") & MAX_STREAM_ID == stream_id:
                raise Http2Violation(ErrorCode.PROTOCOL_ERROR, "a stream that depends on itself")
            payload = payload[5:]
        self.stream_id = stream_id
        self.flags = flags
        self._block = payload
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
        fields = read_plain_block(self._block)
        if fields is not None and len(self._block) + 32 * len(fields) <= self._max_size:
            return fields
        try:
            decoded: Any = self._decoder.decode(self._block)  # pairs of text, which its published types do not say
            return [(str(name), str(value)) for name, value in decoded]
        except (HPACKError, UnicodeDecodeError) as error:
            raise Http2Violation(ErrorCode.COMPRESSION_ERROR, "a header block that cannot be decoded") from error
