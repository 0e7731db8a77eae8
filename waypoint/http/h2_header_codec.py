"""Header blocks of HTTP/2 (RFC 7541), made cheap for what repeats.

Writing uses no dynamic table: literals without indexing, each remembered as bytes, so a block is a join. On a link
inside a node or a data centre the few bytes that indexing would save cost less than keeping the table.

Reading must follow the peer's table. Peers that index send the same short block for the same request again and again;
as long as no block has changed the table since, the same bytes mean the same fields, so what was decoded is kept under
its bytes and thrown away when the table changes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

from hpack import Decoder
from hpack.exceptions import HPACKError, OversizedHeaderListError

from mesh.hbone.codec import ErrorCode
from mesh.hbone.contract import Http2Violation
from mesh.hbone.header_codec import HeaderAssembler
from waypoint.http.message import Headers

_KEPT_BLOCKS: Final = 256
_KEPT_BLOCK_BYTES: Final = 1024
_KEPT_FIELDS: Final = 4096
_SECRET: Final = frozenset({b"authorization", b"cookie", b"set-cookie", b"proxy-authorization"})
"""Never indexed by whoever passes them on (section 7.1.3), and not kept here."""

_STATIC: Final = {
    (b":method", b"GET"): b"\x82",
    (b":method", b"POST"): b"\x83",
    (b":path", b"/"): b"\x84",
    (b":scheme", b"http"): b"\x86",
    (b":scheme", b"https"): b"\x87",
    (b":status", b"200"): b"\x88",
    (b":status", b"204"): b"\x89",
    (b":status", b"206"): b"\x8a",
    (b":status", b"304"): b"\x8b",
    (b":status", b"400"): b"\x8c",
    (b":status", b"404"): b"\x8d",
    (b":status", b"500"): b"\x8e",
}
_STATIC_NAMES: Final = {b":authority": 1, b":method": 2, b":path": 4, b":scheme": 6, b":status": 8}

VALID_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
BAD_VALUE: Final = re.compile(rb"[\x00\r\n]|\A[ \t]|[ \t]\Z")


def _text(value: bytes) -> bytes:
    """A string literal (section 5.2), without Huffman's code."""
    size = len(value)
    if size < 127:
        return bytes((size,)) + value
    prefix = bytearray((127,))
    size -= 127
    while size >= 128:
        prefix.append(size & 127 | 128)
        size >>= 7
    prefix.append(size)
    return bytes(prefix) + value


def _encode_field(field: tuple[bytes, bytes]) -> bytes:
    static = _STATIC.get(field)
    if static is not None:
        return static
    name, value = field
    form = 0x10 if name in _SECRET else 0
    index = _STATIC_NAMES.get(name)
    start = bytes((form | index,)) if index is not None else bytes((form,)) + _text(name)
    return start + _text(value)


class FieldCache(dict[tuple[bytes, bytes], bytes]):
    """Encoded fields by name and value."""

    def __missing__(self, field: tuple[bytes, bytes]) -> bytes:
        encoded = _encode_field(field)
        if len(encoded) < 256 and field[0] not in _SECRET:
            if len(self) >= _KEPT_FIELDS:
                self.clear()
            self[field] = encoded
        return encoded


_fields = FieldCache()


def encode_fields(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A whole block."""
    return b"".join(map(_fields.__getitem__, fields))


class BlockReader(HeaderAssembler):
    """Collects and decodes one connection's header blocks."""

    def __init__(self, max_size: int) -> None:
        super().__init__(max_size)
        self._reader = Decoder(max_header_list_size=max_size)
        self._known: dict[bytes, tuple[tuple[bytes, bytes], ...]] = {}

    def finish_fields(self) -> tuple[tuple[bytes, bytes], ...]:
        """Decode the whole block.

        Raises:
            Http2Violation: it cannot be decoded, or is larger than allowed: the table is not what the peer thinks then.
        """
        self.stream_id = 0
        block = self._block
        known = self._known.get(block)
        if known is not None:
            return known
        # As any objects: compiled code would make another pair of each entry, and no two would be the same one.
        table: Any = self._reader.header_table
        entries = table.dynamic_entries
        count, newest, size = len(entries), entries[0] if entries else None, table.maxsize
        try:
            fields = tuple([(bytes(name), bytes(value)) for name, value in self._reader.decode(block, raw=True)])
        except OversizedHeaderListError as error:
            raise Http2Violation(ErrorCode.ENHANCE_YOUR_CALM, "a header list larger than allowed") from error
        except HPACKError as error:
            raise Http2Violation(ErrorCode.COMPRESSION_ERROR, "a header block that cannot be decoded") from error
        entries = table.dynamic_entries
        if len(entries) != count or (entries[0] if entries else None) is not newest or table.maxsize != size:
            self._known.clear()
        elif len(block) <= _KEPT_BLOCK_BYTES:
            if len(self._known) >= _KEPT_BLOCKS:
                self._known.clear()
            self._known[block] = fields
        return fields


class MalformedMessage(Exception):
    """A message that HTTP/2 forbids (RFC 9113 section 8.1.1): a stream error."""


_FORBIDDEN: Final = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"})


def read_fields(fields: Iterable[tuple[bytes, bytes]], pseudo: frozenset[bytes]) -> tuple[dict[bytes, bytes], Headers]:
    """Pseudo-headers, and the others.

    Args:
        fields: of a head.
        pseudo: those that may be there; empty for trailers.

    Raises:
        MalformedMessage: it is not to be passed on.
    """
    control: dict[bytes, bytes] = {}
    headers: Headers = []
    cookie = b""
    for field in fields:
        name, value = field
        if BAD_VALUE.search(value) is not None:
            raise MalformedMessage("a header's value")
        if name[:1] == b":":
            if headers or cookie or name not in pseudo or name in control:
                raise MalformedMessage("a pseudo-header that is unknown, doubled or out of place")
            control[name] = value
        elif VALID_NAME.fullmatch(name) is None:
            raise MalformedMessage("a header's name")
        elif name in _FORBIDDEN or (name == b"te" and value.lower() != b"trailers"):
            raise MalformedMessage("a header that belongs to a connection")
        elif name == b"cookie":
            cookie = cookie + b"; " + value if cookie else value  # RFC 9113 section 8.2.3
        else:
            headers.append(field)
    if cookie:
        headers.append((b"cookie", cookie))
    return control, headers
