"""gRPC's own encodings: length-prefixed messages, timeouts, status text, metadata.

Facts: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import unquote_to_bytes

from mesh.grpc.status import GrpcError, StatusCode

Headers = Sequence[tuple[bytes, bytes]]

PREFIX_BYTES = 5
CONTENT_TYPE = b"application/grpc"

_TIMEOUT = re.compile(r"([0-9]{1,8})([HMSmun])")
_SECONDS_OF_UNIT = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_METADATA_KEY = re.compile(r"[a-z0-9_.-]+")
_METADATA_VALUE = re.compile(r"[\x20-\x7e]*")
_RESERVED = frozenset({"content-type", "te"})
_STATUS_TEXT_BYTES = 2048


def message_prefix(size: int) -> bytes:
    """The five bytes before an uncompressed message."""
    return b"\x00" + size.to_bytes(4, "big")


class MessageBuffer:
    """Bytes of one direction of a call, from which whole messages are taken."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._data = bytearray()

    def __len__(self) -> int:
        return len(self._data)

    def feed(self, data: bytes) -> None:
        """Append what arrived.

        Raises:
            GrpcError: the message at the front is compressed or too large; known from its prefix, before its bytes.
        """
        self._data += data
        self._front()

    def complete(self) -> bool:
        """Whether a whole message can be taken."""
        size = self._front()
        return size is not None and len(self._data) >= PREFIX_BYTES + size

    def take(self) -> bytes | None:
        """The next message, or None until more arrived.

        Raises:
            GrpcError: as ``feed``.
        """
        size = self._front()
        if size is None or len(self._data) < PREFIX_BYTES + size:
            return None
        with memoryview(self._data) as view:
            message = bytes(view[PREFIX_BYTES : PREFIX_BYTES + size])
        del self._data[: PREFIX_BYTES + size]
        return message

    def _front(self) -> int | None:
        if len(self._data) < PREFIX_BYTES:
            return None
        if self._data[0]:
            raise GrpcError(StatusCode.UNIMPLEMENTED, "the message is compressed, which was not offered")
        size = int.from_bytes(self._data[1:PREFIX_BYTES], "big")
        if size > self._limit:
            raise GrpcError(StatusCode.RESOURCE_EXHAUSTED, f"message of {size} bytes, the limit is {self._limit}")
        return size


def encode_timeout(seconds: float) -> bytes:
    """The ``grpc-timeout`` header: at most eight digits, in the finest unit that holds them, never rounded to zero."""
    if seconds <= 0:
        return b"1n"
    for unit, length in (("n", 1e-9), ("u", 1e-6), ("m", 1e-3), ("S", 1.0), ("M", 60.0), ("H", 3600.0)):
        count = int(seconds / length)
        if count <= 99_999_999:
            return f"{max(count, 1)}{unit}".encode()
    return b"99999999H"


def decode_timeout(text: str) -> float:
    """Seconds.

    Raises:
        GrpcError: not a timeout.
    """
    found = _TIMEOUT.fullmatch(text)
    if found is None:
        raise GrpcError(StatusCode.INVALID_ARGUMENT, f"grpc-timeout {text[:32]!r} is not of the form 100m")
    return int(found[1]) * _SECONDS_OF_UNIT[found[2]]


def encode_status_text(text: str) -> bytes:
    """``grpc-message``: UTF-8 with everything but printable ASCII, and the percent sign, percent-encoded."""
    raw = text.encode("utf-8", "replace")[:_STATUS_TEXT_BYTES]
    return b"".join(b"%c" % byte if 0x20 <= byte <= 0x7E and byte != 0x25 else b"%%%02X" % byte for byte in raw)


def decode_status_text(text: str) -> str:
    """The reverse; what is not valid is kept as well as can be, as the protocol asks."""
    return unquote_to_bytes(text.encode("utf-8", "replace")).decode("utf-8", "replace")


def encode_metadata(pairs: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    """Header fields of a call.

    Raises:
        GrpcError: a key or value that HTTP/2 or gRPC does not allow. The value is not shown: it may be a token.
    """
    fields = []
    for key, value in pairs:
        lower = key.lower()
        if not _METADATA_KEY.fullmatch(lower) or lower.startswith("grpc-") or lower in _RESERVED:
            raise GrpcError(StatusCode.INTERNAL, f"metadata key {key[:64]!r} is not allowed")
        if not _METADATA_VALUE.fullmatch(value):
            raise GrpcError(StatusCode.INTERNAL, f"the value of metadata {key[:64]!r} is not printable ASCII")
        fields.append((lower.encode(), value.strip().encode()))
    return fields


def decode_headers(fields: Iterable[tuple[bytes, bytes]]) -> Mapping[str, str]:
    """All header fields by lower-case name, pseudo ones included; repeated ones joined by commas."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in fields:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]},{value}" if name in headers else value
    return headers


def metadata_of(headers: Mapping[str, str]) -> dict[str, str]:
    """What the application set: neither pseudo headers nor those of the protocol."""
    return {
        name: value
        for name, value in headers.items()
        if not name.startswith((":", "grpc-")) and name not in _RESERVED
    }


def is_grpc(content_type: str) -> bool:
    """Whether this is the content type of uncoded gRPC: ``application/grpc``, with ``+proto`` or parameters."""
    return re.fullmatch(r"application/grpc(\+[a-z0-9.-]+)?(;.*)?", content_type.strip().lower()) is not None
