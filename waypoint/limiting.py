"""Rate limits of routes, counted by this replica.

Buckets belong to the process, not to a version of a destination: a change of routes fills nothing up. They go when no
request has taken from them for as long as they need to be full again, for then they are as good as new.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil

import structlog

from mesh.errors import ConfigurationError
from mesh.model.http_route import HttpRoute, RateLimit
from waypoint.client import Client
from waypoint.exchange.decision import Answer
from waypoint.http.message import RequestHead
from waypoint.security.rate_limit_machine import CompiledLimit, TokenBuckets

_log = structlog.get_logger("limits")


class Limiter:
    """All limits of the process."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """``clock`` returns monotonic seconds."""
        self._clock = clock
        self._kept: dict[tuple[str, str, RateLimit], _Counted] = {}

    def of(self, destination: str, route: HttpRoute) -> RouteLimits:
        """The limits of a route; buckets that were there before go on."""
        counted = []
        for limit in route.rate_limits:
            key = (destination, route.name, limit)
            found = self._kept.get(key)
            if found is None:
                found = self._kept[key] = _Counted(limit, route.name)
                if found.compiled is None:
                    _log.warning("rate limit not usable: it refuses everything", route=route.name, limit=limit.name)
            counted.append(found)
        return RouteLimits(route.name, counted, self._clock)

    def tick(self, now: float) -> None:
        """Once per second: let go of what is full."""
        for key in [key for key, counted in self._kept.items() if now > counted.used_at + 2 * key[2].interval_seconds]:
            del self._kept[key]


class _Counted:
    """One limit with its buckets."""

    __slots__ = ("buckets", "compiled", "used_at")

    def __init__(self, limit: RateLimit, route: str) -> None:
        self.compiled: CompiledLimit | None = None
        self.buckets: TokenBuckets | None = None
        self.used_at = float("inf")
        try:
            self.compiled = CompiledLimit(limit, route)
        except ConfigurationError:
            return
        self.buckets = TokenBuckets(self.compiled)

    def take(self, head: RequestHead, client: Client, now: float) -> float:
        """Seconds until there is a token; 0 if one was taken."""
        self.used_at = now
        if self.compiled is None or self.buckets is None:
            return 1.0
        return self.buckets.take(self.compiled.key(head, client), now)


class RouteLimits:
    """What one route takes tokens from."""

    __slots__ = ("_clock", "_counted", "_route")

    def __init__(self, route: str, counted: list[_Counted], clock: Callable[[], float]) -> None:
        self._route = route
        self._counted = counted
        self._clock = clock

    def check(self, head: RequestHead, client: Client) -> Answer | None:
        """Take a token of each limit; an answer if one has none."""
        for counted in self._counted:
            wait = counted.take(head, client, self._clock())
            if wait > 0:
                headers = [(b"retry-after", b"%d" % ceil(wait))]
                return Answer(
                    429, headers, b"too many requests", flag="RL", route=self._route, details="request_rate_limited"
                )
        return None
