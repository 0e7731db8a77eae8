"""Rate limits: token buckets of this replica.

A bucket starts full and is filled evenly; a request takes one token, and one that finds none is answered 429. What
tells buckets apart (a header's value, an identity) is chosen by clients, so their number is bounded: the one that was
not used for longest is forgotten first, and being forgotten gives a client at most a full bucket. Values are cut by
hashing them, so that a bucket's key has one size whatever a client sends.
"""

from __future__ import annotations

from collections import OrderedDict
from hashlib import blake2b
from typing import Final

from mesh.errors import ConfigurationError
from mesh.model.http_route import RateLimit
from waypoint.client import Client
from waypoint.http.message import RequestHead
from waypoint.routing.header_change import header_name
from waypoint.routing.text import header_value

MAX_BUCKETS: Final = 10_000
_KEY_BYTES: Final = 16


class CompiledLimit:
    """One ``RateLimit`` of a route."""

    __slots__ = ("_header", "_identity", "capacity", "limit", "name", "per_second")

    def __init__(self, limit: RateLimit, route: str) -> None:
        """Compile.

        Args:
            limit: the model's.
            route: the route's name; limits of the same name on two routes are two limits.

        Raises:
            ConfigurationError: no tokens, no time, or a header that cannot be one.
        """
        if limit.tokens < 1 or not limit.interval_seconds > 0:
            raise ConfigurationError(f"rate limit {limit.name!r} needs at least one token and a time above zero")
        self.limit = limit
        self.name = f"{route}/{limit.name}"
        self.capacity = float(limit.tokens)
        self.per_second = limit.tokens / limit.interval_seconds
        self._header = header_name(limit.by_header) if limit.by_header else b""
        self._identity = limit.by_identity

    def key(self, head: RequestHead, client: Client) -> bytes:
        """Which bucket a request takes from; empty if there is only one. A request without the header, or a client
        without identity, shares a bucket with its like."""
        if not self._header and not self._identity:
            return b""
        parts = []
        if self._header:
            value = head.authority if self._header == b"host" else header_value(head.headers, self._header)
            parts.append(b"-" if value is None else b"=" + value)
        if self._identity:
            parts.append(b"-" if client.identity is None else b"=" + str(client.identity).encode())
        # Lengths first: the parts cannot be cut differently.
        text = b"".join([b"%d:%b" % (len(part), part) for part in parts])
        return blake2b(text, digest_size=_KEY_BYTES).digest()


class _Bucket:
    __slots__ = ("tokens", "updated")

    def __init__(self, tokens: float, updated: float) -> None:
        self.tokens = tokens
        self.updated = updated


class TokenBuckets:
    """The buckets of one limit."""

    __slots__ = ("_buckets", "_capacity", "_max_buckets", "_per_second")

    def __init__(self, limit: CompiledLimit, max_buckets: int = MAX_BUCKETS) -> None:
        self._capacity = limit.capacity
        self._per_second = limit.per_second
        self._max_buckets = max_buckets
        self._buckets: OrderedDict[bytes, _Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, key: bytes, now: float) -> float:
        """Take a token.

        Args:
            key: ``CompiledLimit.key``.
            now: on the monotonic clock.

        Returns:
            0 if there was one, else the seconds until there is.
        """
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) >= self._max_buckets:
                self._buckets.popitem(last=False)
            bucket = self._buckets[key] = _Bucket(self._capacity, now)
        else:
            if key:
                self._buckets.move_to_end(key)
            tokens = bucket.tokens + (now - bucket.updated) * self._per_second
            bucket.tokens = min(tokens, self._capacity)
            bucket.updated = now
        # What is missing may be missing by rounding only.
        if bucket.tokens >= 1.0 - 1e-9:
            bucket.tokens -= 1.0
            return 0.0
        return (1.0 - bucket.tokens) / self._per_second
