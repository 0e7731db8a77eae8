"""Redirections: the status and ``location`` of the answer.

A new scheme brings its own port, 80 or 443; otherwise the port stays the request's own. A port that the scheme implies
is not written (Gateway API, ``HTTPRequestRedirectFilter``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mesh.errors import ConfigurationError
from mesh.model.http_route import PathMatch, Redirect
from waypoint.http.message import RequestHead, ResponseHead
from waypoint.routing.rewrite import PathChange, compile_path
from waypoint.routing.text import encoded

_IMPLIED: Final = {b"http": b"80", b"https": b"443"}
_STATUSES: Final = frozenset({301, 302, 303, 307, 308})

RedirectAnswer = Callable[[RequestHead], ResponseHead]


def split_authority(authority: bytes) -> tuple[bytes, bytes]:
    """Host, with the brackets of an IPv6 address, and port; empty if none is written."""
    host, separator, port = authority.rpartition(b":")
    if separator and (port.isdigit() or not port) and not (b":" in host and not host.endswith(b"]")):
        return host, port
    return authority, b""


def compile_redirect(redirect: Redirect, matched: PathMatch | None) -> RedirectAnswer:
    """The answer as a function of the request.

    Raises:
        ConfigurationError: a status that redirects nowhere, or a part that cannot be in an address.
    """
    status = redirect.status
    if status not in _STATUSES:
        raise ConfigurationError(f"status {status} does not redirect; use one of {sorted(_STATUSES)}")
    new_scheme = None if redirect.scheme is None else _part(redirect.scheme).lower()
    new_host, new_port = (None, b"") if redirect.authority is None else split_authority(_part(redirect.authority))
    if redirect.port is not None:
        new_port = b"%d" % redirect.port
    change: PathChange | None = None if redirect.path is None else compile_path(redirect.path, matched)

    def answer(head: RequestHead) -> ResponseHead:
        scheme = new_scheme or head.scheme
        host, own_port = split_authority(head.authority)
        port = new_port or (own_port if new_scheme is None else b"")
        if port == _IMPLIED.get(scheme):
            port = b""
        authority = (host if new_host is None else new_host) + (b":" + port if port else b"")
        path = head.path if change is None else change(head.path)
        return ResponseHead(status=status, headers=[(b"location", scheme + b"://" + authority + path)])

    return answer


def _part(text: str) -> bytes:
    value = encoded(text)
    if not value or any(byte <= 32 or byte == 127 for byte in value) or b"/" in value:
        raise ConfigurationError(f"{text[:64]!r} cannot be part of an address")
    return value
