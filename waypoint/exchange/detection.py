"""Which protocol a client speaks, from its first bytes."""

from __future__ import annotations

import enum
import re

from mesh.hbone.codec import PREFACE

MOST = 16 * 1024 + 512
"""Bytes to look at: a TLS record of the largest size holds a ClientHello."""

_METHOD = re.compile(rb"(?:\r\n){0,4}[A-Z-]{1,16}(?: |\Z)")
_HANDSHAKE, _CLIENT_HELLO = 22, 1


class Spoken(enum.Enum):
    """What it is."""

    UNDECIDED = "undecided"
    """More bytes are needed."""
    HTTP1 = "http/1"
    HTTP2 = "http/2"
    """With prior knowledge: the connection's preface was sent."""
    TLS = "tls"
    OTHER = "other"


def detect_http(start: bytes) -> Spoken:
    """Tell the versions of HTTP from one another, where nothing else is expected."""
    if not PREFACE.startswith(start[: len(PREFACE)]):
        return Spoken.HTTP1
    return Spoken.HTTP2 if len(start) >= len(PREFACE) else Spoken.UNDECIDED


def detect(start: bytes) -> Spoken:
    """Tell from a connection's first bytes, whatever they are."""
    if not start:
        return Spoken.UNDECIDED
    if PREFACE.startswith(start[: len(PREFACE)]):
        return Spoken.HTTP2 if len(start) >= len(PREFACE) else Spoken.UNDECIDED
    if start[0] == _HANDSHAKE:
        return Spoken.TLS if start[1:2] in (b"\x03", b"") and _hello_complete(start) else _tls_or_other(start)
    match = _METHOD.match(start)
    if match is not None:
        return Spoken.HTTP1 if match[0].endswith(b" ") else Spoken.UNDECIDED
    return Spoken.UNDECIDED if start in (b"\r", b"\r\n", b"\r\n\r") else Spoken.OTHER


def _hello_complete(start: bytes) -> bool:
    return len(start) >= 5 and len(start) >= 5 + int.from_bytes(start[3:5], "big")


def _tls_or_other(start: bytes) -> Spoken:
    if start[1:2] not in (b"\x03", b"") or len(start) >= MOST:
        return Spoken.OTHER
    return Spoken.UNDECIDED


def server_name(start: bytes) -> str:
    """The name in a TLS ClientHello's ``server_name`` extension (RFC 6066), in lower case; empty without one.

    Only the first record is read; a ClientHello that spans several is taken to have no name.
    """
    try:
        return _server_name(start)
    except (IndexError, UnicodeDecodeError):
        return ""


def _server_name(start: bytes) -> str:
    body = memoryview(start)[5 : 5 + int.from_bytes(start[3:5], "big")]
    if body[0] != _CLIENT_HELLO:
        return ""
    position = 4 + 2 + 32  # the message's header, version, random
    position += 1 + body[position]  # session
    position += 2 + int.from_bytes(body[position : position + 2], "big")  # cipher suites
    position += 1 + body[position]  # compression methods
    end = min(len(body), position + 2 + int.from_bytes(body[position : position + 2], "big"))
    position += 2
    while position + 4 <= end:
        kind = int.from_bytes(body[position : position + 2], "big")
        size = int.from_bytes(body[position + 2 : position + 4], "big")
        position += 4
        if kind == 0 and size >= 5 and position + size <= end and body[position + 2] == 0:
            length = int.from_bytes(body[position + 3 : position + 5], "big")
            name = bytes(body[position + 5 : position + 5 + min(length, size - 5)])
            return name.decode("ascii").lower()
        position += size
    return ""
