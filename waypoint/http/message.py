"""A request's and a response's head, in one form for HTTP/1.1 and HTTP/2 (RFC 9110).

Header names are lower case. Pseudo-headers, ``host`` and everything that concerns one connection only (RFC 9110 section
7.6.1: ``connection`` and what it names, ``transfer-encoding``, ``keep-alive``, ``upgrade``, ``te`` but ``trailers``,
``proxy-connection``) are taken out on arrival and put back as the other side's version needs them. ``content-length``
stays: it is part of the message, and whoever frames the body looks there.
"""

from __future__ import annotations

from typing import TypeAlias

Headers: TypeAlias = list[tuple[bytes, bytes]]
"""In order of arrival; a name may occur several times."""


class RequestHead:
    """What a client asks for. Changed in place by the filters."""

    __slots__ = ("authority", "headers", "method", "path", "scheme", "upgrade")

    # Written out, as below: what a dataclass makes is never compiled, and there is one for each request.
    def __init__(
        self,
        *,
        method: bytes,
        path: bytes,
        authority: bytes,
        scheme: bytes = b"http",
        headers: Headers | None = None,
        upgrade: bytes = b"",
    ) -> None:
        self.method = method
        self.path = path
        """Path and query as received (origin form), or ``*``."""
        self.authority = authority
        """Host and port as the client named them; empty only for HTTP/1.0 without ``host``."""
        self.scheme = scheme
        self.headers: Headers = [] if headers is None else headers
        self.upgrade = upgrade
        """The protocol that an HTTP/1.1 client offers to change to, in lower case; or ``:protocol`` of an extended
        CONNECT (RFC 8441)."""


class ResponseHead:
    """What an upstream, or the waypoint itself, answers."""

    __slots__ = ("headers", "status")

    def __init__(self, *, status: int, headers: Headers | None = None) -> None:
        self.status = status
        self.headers: Headers = [] if headers is None else headers


def first(headers: Headers, name: bytes) -> bytes | None:
    """The value of the first header of this name."""
    for key, value in headers:
        if key == name:
            return value
    return None
