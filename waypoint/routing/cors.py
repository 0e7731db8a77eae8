"""Cross-origin requests: answers to preflights, and headers of answers (the Fetch standard, "CORS protocol").

``*`` among the origins, methods or headers admits any. Where credentials are allowed the standard does not let an
answer say ``*``; what the request named is then named back.
"""

from __future__ import annotations

from typing import Final

from mesh.model.http_route import Cors, TextMatchKind
from waypoint.http.message import Headers, RequestHead, ResponseHead, first
from waypoint.routing.header_change import header_bytes
from waypoint.routing.text import compile_any

_ANY: Final = "*"
_OWN: Final = frozenset(
    {b"access-control-allow-origin", b"access-control-allow-credentials", b"access-control-expose-headers"}
)


class CompiledCors:
    """A route's CORS settings."""

    __slots__ = (
        "_allow_headers",
        "_allow_methods",
        "_any_header",
        "_any_method",
        "_any_origin",
        "_credentials",
        "_expose",
        "_forward_unmatched",
        "_max_age",
        "_origin_matches",
    )

    def __init__(self, cors: Cors) -> None:
        """Compile.

        Raises:
            ConfigurationError: a regular expression that is none, or a text that is no header value.
        """
        self._any_origin = any(
            match.kind is TextMatchKind.PRESENT or (match.kind is TextMatchKind.EXACT and match.value == _ANY)
            for match in cors.allow_origins
        )
        self._origin_matches = compile_any(cors.allow_origins)
        self._credentials = cors.allow_credentials
        self._any_method = _ANY in cors.allow_methods
        self._allow_methods = header_bytes(", ".join(cors.allow_methods))
        self._any_header = _ANY in cors.allow_headers
        self._allow_headers = header_bytes(", ".join(cors.allow_headers))
        self._expose = header_bytes(", ".join(cors.expose_headers))
        self._max_age = b"" if cors.max_age_seconds is None else b"%d" % cors.max_age_seconds
        self._forward_unmatched = cors.forward_unmatched_preflights

    def preflight(self, head: RequestHead) -> ResponseHead | None:
        """The answer to a preflight request; None if it is none, or is to be forwarded."""
        if head.method != b"OPTIONS":
            return None
        origin = first(head.headers, b"origin")
        method = first(head.headers, b"access-control-request-method")
        if not origin or not method:
            return None
        if not self._admits(origin):
            return None if self._forward_unmatched else ResponseHead(status=200, headers=[(b"content-length", b"0")])
        headers = self._origin_headers(origin)
        methods = (method if self._credentials else b"*") if self._any_method else self._allow_methods
        if methods:
            headers.append((b"access-control-allow-methods", methods))
        wanted = first(head.headers, b"access-control-request-headers")
        names = ((wanted or b"") if self._credentials else b"*") if self._any_header else self._allow_headers
        if names:
            headers.append((b"access-control-allow-headers", names))
        if self._max_age:
            headers.append((b"access-control-max-age", self._max_age))
        headers.append((b"content-length", b"0"))
        return ResponseHead(status=200, headers=headers)

    def answer(self, origin: bytes | None, headers: Headers) -> None:
        """Add what belongs on the answer to any other request, in place of what the upstream says.

        Args:
            origin: the request's ``origin``.
            headers: the answer's.
        """
        if not origin or not self._admits(origin):
            return
        headers[:] = [field for field in headers if field[0] not in _OWN]
        headers += self._origin_headers(origin)
        if self._expose:
            headers.append((b"access-control-expose-headers", self._expose))

    def _admits(self, origin: bytes) -> bool:
        return self._any_origin or self._origin_matches(origin)

    def _origin_headers(self, origin: bytes) -> Headers:
        if self._any_origin and not self._credentials:
            return [(b"access-control-allow-origin", b"*")]
        headers = [(b"access-control-allow-origin", origin), (b"vary", b"origin")]
        if self._credentials:
            headers.append((b"access-control-allow-credentials", b"true"))
        return headers
