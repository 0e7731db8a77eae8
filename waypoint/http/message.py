"""A request's and a response's head, in one form for HTTP/1.1 and HTTP/2 (RFC 9110).

Header names are lower case. Pseudo-headers, ``host`` and everything that concerns one connection only (RFC 9110 section
7.6.1: ``connection`` and what it names, ``transfer-encoding``, ``keep-alive``, ``upgrade``, ``te`` but ``trailers``,
``proxy-connection``) are taken out on arrival and put back as the other side's version needs them. ``content-length``
stays: it is part of the message, and whoever frames the body looks there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

Headers: TypeAlias = list[tuple[bytes, bytes]]
"""In order of arrival; a name may occur several times."""


@dataclass(slots=True, kw_only=True)
class RequestHead:
    """What a client asks for. Changed in place by the filters."""

    method: bytes
    path: bytes
    """Path and query as received (origin form), or ``*``."""
    authority: bytes
    """Host and port as the client named them; empty only for HTTP/1.0 without ``host``."""
    scheme: bytes = b"http"
    headers: Headers = field(default_factory=list)
    upgrade: bytes = b""
    """The protocol that an HTTP/1.1 client offers to change to, in lower case; or ``:protocol`` of an extended CONNECT
    (RFC 8441)."""


@dataclass(slots=True, kw_only=True)
class ResponseHead:
    """What an upstream, or the waypoint itself, answers."""

    status: int
    headers: Headers = field(default_factory=list)


def first(headers: Headers, name: bytes) -> bytes | None:
    """The value of the first header of this name."""
    for key, value in headers:
        if key == name:
            return value
    return None
