"""Bytes of HBONE: HTTP/2 frame headers and the header blocks of CONNECT requests and responses.

Header blocks are written as HPACK literals without indexing (RFC 7541 section 6.2.2) and without Huffman coding: no
state is shared between requests, so a block is a pure function of its values and costs some two microseconds. Blocks
are read by ``header_codec``, with the ``hpack`` library where they need it, as peers may use every form.
"""

from __future__ import annotations

import enum
import random
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from mesh.addresses import SocketAddress, parse_port, parse_socket_address
from mesh.errors import BadConnectRequest, InvalidAddress

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAME_HEADER_SIZE: Final = 9

_FRAME: Final = struct.Struct(">IBI")
"""Length (24 bits) and type, flags, stream id (RFC 9113 section 4.1), with length and type read as one number."""


class FrameType(enum.IntEnum):
    """RFC 9113 section 6."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


SMALL_FRAMES: Final = frozenset(
    {
        *(FrameType.PRIORITY, FrameType.RST_STREAM, FrameType.SETTINGS),
        *(FrameType.PING, FrameType.GOAWAY, FrameType.WINDOW_UPDATE),
    }
)
"""Those of a few bytes."""

END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
PRIORITY_FLAG: Final = 0x20


class ErrorCode(enum.IntEnum):
    """RFC 9113 section 7."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11


def error_name(code: int) -> str:
    """The name of an error code, or its number where it has none."""
    try:
        return ErrorCode(code).name
    except ValueError:
        return f"code {code}"


class Setting(enum.IntEnum):
    """RFC 9113 section 6.5.2."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """One whole frame."""
    return _FRAME.pack(len(payload) << 8 | kind, flags, stream_id) + payload


pack_frame_header: Final = _FRAME.pack
"""``(length << 8 | type, flags, stream id) -> 9 bytes``; bound here because it runs once per DATA frame."""
pack_frame_header_into: Final = _FRAME.pack_into
unpack_frame_header: Final = _FRAME.unpack_from


def settings_frame(values: Iterable[tuple[Setting, int]]) -> bytes:
    """A SETTINGS frame."""
    return frame(FrameType.SETTINGS, 0, 0, b"".join(struct.pack(">HI", key, value) for key, value in values))


def window_update_frame(stream_id: int, increment: int) -> bytes:
    """A WINDOW_UPDATE frame; stream 0 is the connection."""
    return frame(FrameType.WINDOW_UPDATE, 0, stream_id, increment.to_bytes(4, "big"))


# -- header blocks -----------------------------------------------------------------------------------------------------

_METHOD_CONNECT: Final = b"\x02\x07CONNECT"  # literal without indexing, name = static table entry 2 (:method)
_AUTHORITY: Final = b"\x01"  # static table entry 1
_STATUS_200: Final = b"\x88"  # indexed field, static table entry 8
_STATUS: Final = b"\x08"  # literal without indexing, name = entry 8 (:status)


def _string(text: bytes) -> bytes:
    """RFC 7541 section 5.2, without Huffman coding."""
    size = len(text)
    if size < 127:
        return bytes((size,)) + text
    rest = size - 127
    prefix = bytearray((127,))
    while rest >= 128:
        prefix.append(rest & 127 | 128)
        rest >>= 7
    prefix.append(rest)
    return bytes(prefix) + text


def _named(name: bytes) -> bytes:
    return b"\x00" + _string(name)


_FORWARDED: Final = _named(b"forwarded")
_BAGGAGE: Final = _named(b"baggage")
_TRACEPARENT: Final = _named(b"traceparent")


@dataclass(frozen=True, slots=True, kw_only=True)
class Baggage:
    """What the peer says of its workload: for telemetry only, never for authorization."""

    cluster: str = ""
    namespace: str = ""
    workload_type: str = ""
    workload_name: str = ""
    service_name: str = ""
    revision: str = ""
    region: str = ""
    zone: str = ""

    def encode(self) -> str:
        """The header value; empty parts are left out."""
        parts = (
            ("k8s.cluster.name", self.cluster),
            ("k8s.namespace.name", self.namespace),
            (f"k8s.{self.workload_type}.name", self.workload_name if self.workload_type else ""),
            ("service.name", self.service_name),
            ("service.version", self.revision),
            ("cloud.region", self.region),
            ("cloud.availability_zone", self.zone),
        )
        return ",".join(f"{name}={value}" for name, value in parts if value)

    @staticmethod
    def decode(text: str) -> Baggage:
        """Read a header value; what is not understood is left out, since nothing depends on it."""
        found: dict[str, str] = {}
        for item in text[:4096].split(","):
            name, separator, value = item.strip().partition("=")
            if not separator:
                continue
            field = _BAGGAGE_FIELDS.get(name)
            if field is not None:
                found[field] = value
            elif name.startswith("k8s.") and name.endswith(".name") and name[4:-5] in _WORKLOAD_TYPES:
                found["workload_type"] = name[4:-5]
                found["workload_name"] = value
        return Baggage(**found)


_WORKLOAD_TYPES: Final = frozenset({"deployment", "cronjob", "pod", "job"})
_BAGGAGE_FIELDS: Final = {
    "k8s.cluster.name": "cluster",
    "k8s.namespace.name": "namespace",
    "service.name": "service_name",
    "service.version": "revision",
    "cloud.region": "region",
    "cloud.availability_zone": "zone",
}


_random = random.Random()


def new_traceparent() -> str:
    """A W3C trace context, version 00, not sampled: one per application connection.

    It need be unique, not secret: no system call for entropy.
    """
    digits = f"{_random.getrandbits(192):048x}"
    return f"00-{digits[:32]}-{digits[32:]}-00"


def encode_connect(authority: str, *, forwarded: str = "", baggage: str = "", traceparent: str = "") -> bytes:
    """The header block of a CONNECT request (plain CONNECT: no ``:scheme``, no ``:path``)."""
    block = _METHOD_CONNECT + _AUTHORITY + _string(authority.encode())
    if forwarded:
        block += _FORWARDED + _string(forwarded.encode())
    if baggage:
        block += _baggage_field(baggage)
    if traceparent:
        block += _TRACEPARENT + _string(traceparent.encode())
    return block


@lru_cache(maxsize=4096)
def _baggage_field(baggage: str) -> bytes:
    """Of the sender's own workload, so the same again and again."""
    return _BAGGAGE + _string(baggage.encode())


def encode_response(status: int, *, baggage: str = "") -> bytes:
    """The header block of a response."""
    block = _STATUS_200 if status == 200 else _STATUS + _string(str(status).encode())
    if baggage:
        block += _baggage_field(baggage)
    return block


class ConnectRequest:
    """A CONNECT request as received. Not a dataclass: one is made for every connection, and theirs are not compiled."""

    __slots__ = (
        *("baggage", "forwarded_for", "forwarded_host", "forwarded_network", "hostname", "port", "target"),
        "traceparent",
    )

    def __init__(
        self,
        target: SocketAddress | None,
        hostname: str,
        port: int,
        forwarded_for: SocketAddress | None,
        forwarded_host: str,
        baggage: str,
        traceparent: str,
        forwarded_network: str,
    ) -> None:
        self.target = target
        """The address in ``:authority``; None when it names a host instead."""
        self.hostname = hostname
        """The host in ``:authority`` when it is not an address, else empty."""
        self.port = port
        self.forwarded_for = forwarded_for
        """The client application's socket, as the sender says."""
        self.forwarded_host = forwarded_host
        self.baggage = baggage
        self.traceparent = traceparent
        self.forwarded_network = forwarded_network

    @property
    def authority(self) -> str:
        """``:authority``, in its usual form."""
        return f"{self.hostname}:{self.port}" if self.target is None else str(self.target)


def decode_connect(headers: Iterable[tuple[str, str]]) -> ConnectRequest:
    """Read the decoded header list of a request.

    Raises:
        BadConnectRequest: not a CONNECT, or its authority cannot be read.
    """
    fields: dict[str, str] = {}
    for name, value in headers:
        if name in fields and name.startswith(":"):
            raise BadConnectRequest(f"the request has two {name} fields")
        fields[name] = value
    method = fields.get(":method", "")
    if method != "CONNECT":
        raise BadConnectRequest(f"method {method[:16]!r}: HBONE takes only CONNECT")
    if ":path" in fields or ":scheme" in fields or ":protocol" in fields:
        raise BadConnectRequest("the CONNECT request has a :path, :scheme or :protocol, which HBONE's has not")
    target, hostname, port = _authority(fields.get(":authority", "")[:_LONGEST_AUTHORITY])
    forwarded_for, forwarded_host = _forwarded(fields.get("forwarded", ""))
    return ConnectRequest(
        target=target,
        hostname=hostname,
        port=port,
        forwarded_for=forwarded_for,
        forwarded_host=forwarded_host,
        baggage=fields.get("baggage", ""),
        traceparent=fields.get("traceparent", ""),
        forwarded_network=fields.get("x-forwarded-network", ""),
    )


_LONGEST_AUTHORITY: Final = 320
"""A host name has 253 characters at most; what is longer is cut, and then no authority."""


@lru_cache(maxsize=4096)
def _authority(text: str) -> tuple[SocketAddress | None, str, int]:
    try:
        address = parse_socket_address(text)
    except InvalidAddress as error:
        host, _, port_text = text.rpartition(":")
        plausible = host and len(host) <= 253 and all(c.isascii() and (c.isalnum() or c in ".-_") for c in host)
        if plausible and not host.replace(".", "").isdigit() and (port := parse_port(port_text)):
            return None, host, port
        raise BadConnectRequest(f"authority {text[:64]!r} is neither an address nor a host with a port") from error
    return address, "", address.port


def _forwarded(text: str) -> tuple[SocketAddress | None, str]:
    """RFC 7239, the part HBONE senders use: ``for="10.0.0.1:4711";host=name``."""
    address: SocketAddress | None = None
    host = ""
    for part in text[:1024].split(";"):
        name, _, value = part.strip().partition("=")
        value = value.strip('"')
        if name == "for":
            try:
                address = parse_socket_address(value)
            except InvalidAddress:
                address = None  # only telemetry reads it
        elif name == "host":
            host = value
    return address, host


def response_status(headers: Iterable[tuple[str, str]]) -> int | None:
    """The ``:status`` of a response, None when it has none that is a number."""
    for name, value in headers:
        if name == ":status":
            return int(value) if len(value) == 3 and value.isascii() and value.isdigit() else None
    return None
