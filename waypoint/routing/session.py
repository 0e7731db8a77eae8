"""Session persistence: which endpoint a session belongs to, kept by the client.

Theory of operation. The waypoint keeps nothing. The endpoint's name travels in a token, in a cookie or header of the
answer, and comes back with the next request; every replica reads every token. A token is signed (HMAC-SHA256, cut to
128 bits) with a key that the replicas share, over the route's name as well: a client can neither choose an endpoint nor
use a token of one route on another. It is not encrypted: it holds the endpoint's uid, as ``<time><uid>`` in base64.

A token that is not valid, too old, or names an endpoint that is gone is no error; the request is balanced as any other,
and answered with a new token.
"""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Final

from mesh.errors import ConfigurationError
from mesh.model.http_route import SessionPersistence
from waypoint.http.message import Headers, first
from waypoint.routing.header_change import header_bytes, header_name
from waypoint.routing.text import encoded

_TAG: Final = 16
_TIMES: Final = 8
MAX_TOKEN_BYTES: Final = 1024


def cookie(headers: Headers, name: bytes) -> bytes | None:
    """The value of a request's cookie, without quotes; the first one of that name (RFC 6265 section 4.2)."""
    for key, line in headers:
        if key != b"cookie" or name not in line:
            continue
        for pair in line.split(b";"):
            found, _, value = pair.strip().partition(b"=")
            if found == name:
                return value.strip(b'"')
    return None


class SessionTokens:
    """A route's session persistence."""

    __slots__ = ("_attributes", "_by_header", "_idle", "_key", "_lifetime", "_name", "_route")

    def __init__(self, session: SessionPersistence, route: str, key: bytes) -> None:
        """Compile.

        Args:
            session: the model's.
            route: its name; a token is good for this route only.
            key: the secret of the waypoint's replicas, 16 bytes or more.

        Raises:
            ConfigurationError: a name that no cookie or header can have, or a key too short.
        """
        if len(key) < 16:
            raise ConfigurationError("the key of session tokens needs 16 bytes or more")
        # A cookie's name is a token as a header's is, but for its case.
        lowered = header_name(session.name)
        self._name = lowered if session.by_header else encoded(session.name)
        self._by_header = session.by_header
        self._lifetime = session.lifetime_seconds
        self._idle = session.idle_seconds
        self._key = key
        self._route = encoded(route)
        path = header_bytes(session.path)
        if b";" in path:
            raise ConfigurationError(f"{session.path[:64]!r} is no path of a cookie")
        self._attributes = b"; Path=" + path + b"; HttpOnly"
        if self._lifetime is not None:
            self._attributes += b"; Max-Age=%d" % int(self._lifetime)

    def endpoint(self, headers: Headers, now: float) -> tuple[str, int] | None:
        """Whom a request belongs to, and since when; None without a valid token.

        Args:
            headers: the request's.
            now: seconds since 1970.
        """
        token = first(headers, self._name) if self._by_header else cookie(headers, self._name)
        if token is None or not _TAG < len(token) <= MAX_TOKEN_BYTES:
            return None
        try:
            raw = urlsafe_b64decode(token + b"=" * (-len(token) % 4))
        except ValueError:
            return None
        tag, signed = raw[:_TAG], raw[_TAG:]
        if len(signed) <= _TIMES or not hmac.compare_digest(tag, self._tag(signed)):
            return None
        began, seen = int.from_bytes(signed[:4], "big"), int.from_bytes(signed[4:_TIMES], "big")
        if self._lifetime is not None and now - began > self._lifetime:
            return None
        if self._idle is not None and now - seen > self._idle:
            return None
        return signed[_TIMES:].decode(errors="replace"), began

    def remember(self, headers: Headers, endpoint: str, now: float, held: tuple[str, int] | None) -> None:
        """Put a token on an answer, if the client does not have the right one.

        Args:
            headers: the answer's.
            endpoint: uid of who has served the request.
            now: seconds since 1970.
            held: what ``endpoint`` found in the request.
        """
        if held is not None and held[0] == endpoint:
            if self._idle is None:
                return  # What the client has is as good as a new one.
            began = held[1]
        else:
            began = int(now)
        signed = began.to_bytes(4, "big") + int(now).to_bytes(4, "big") + endpoint.encode()
        token = urlsafe_b64encode(self._tag(signed) + signed).rstrip(b"=")
        if self._by_header:
            headers.append((self._name, token))
        else:
            headers.append((b"set-cookie", self._name + b"=" + token + self._attributes))

    def _tag(self, signed: bytes) -> bytes:
        return hmac.digest(self._key, self._route + b"\0" + signed, "sha256")[:_TAG]
