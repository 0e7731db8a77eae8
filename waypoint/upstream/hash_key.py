"""What a request is hashed by, where the balancing asks for it."""

from __future__ import annotations

from collections.abc import Sequence

from mesh.model.upstream_policy import HashKey, HashKind
from waypoint.client import Client
from waypoint.http.message import Headers, RequestHead
from waypoint.routing.header_change import header_bytes, header_name
from waypoint.routing.query import parameter
from waypoint.routing.session import cookie
from waypoint.routing.text import encoded, header_value
from waypoint.upstream.hashing import hash64


class RequestHash:
    """The hash keys of a policy, compiled."""

    __slots__ = ("_keys", "_names")

    def __init__(self, keys: Sequence[HashKey]) -> None:
        """Raises:
        ConfigurationError: a name that no header or cookie can have.
        """
        self._keys = tuple(keys)
        self._names = []
        for key in keys:
            if key.kind is HashKind.HEADER:
                self._names.append(header_name(key.name))
            else:
                if key.kind is HashKind.COOKIE:
                    header_name(key.name)
                    header_bytes(key.cookie_path)
                self._names.append(encoded(key.name))

    def of(self, head: RequestHead, client: Client, given: bytes | None = None) -> int | None:
        """The hash of what is there; None if nothing is, so that any endpoint will do.

        Args:
            head: the request.
            client: whose it is.
            given: value of the cookie that the answer to this request will bring (``new_cookie``).
        """
        values = []
        for key, name in zip(self._keys, self._names, strict=True):
            value = _value(key.kind, name, head, client)
            if value is None and given is not None and key.kind is HashKind.COOKIE and key.cookie_seconds is not None:
                value = given
            if value is not None:
                values.append(value)
        return hash64(b"\0".join(values)) if values else None

    def new_cookie(self, head: RequestHead, token: bytes) -> Headers:
        """``set-cookie`` for a request that should have a cookie and does not; empty if nothing is missing.

        Args:
            head: the request.
            token: a random value, as text; ``of`` is then given the same.
        """
        headers: Headers = []
        for key, name in zip(self._keys, self._names, strict=True):
            if key.kind is HashKind.COOKIE and key.cookie_seconds is not None and cookie(head.headers, name) is None:
                line = name + b"=" + token + b"; Path=" + key.cookie_path.encode() + b"; HttpOnly"
                if key.cookie_seconds:
                    line += b"; Max-Age=%d" % int(key.cookie_seconds)
                headers.append((b"set-cookie", line))
        return headers


def _value(kind: HashKind, name: bytes, head: RequestHead, client: Client) -> bytes | None:
    match kind:
        case HashKind.HEADER:
            return head.authority if name == b"host" else header_value(head.headers, name)
        case HashKind.COOKIE:
            return cookie(head.headers, name)
        case HashKind.QUERY:
            return parameter(head.path, name)
        case HashKind.SOURCE_ADDRESS:
            return client.address.ip
