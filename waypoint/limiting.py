"""Rate limits of routes, counted by this replica, or by all of them together in a store.

Buckets belong to the process, not to a version of a destination: a change of routes fills nothing up. They go when no
request has taken from them for as long as they need to be full again, for then they are as good as new.

A shared limit without a store, or while its store does not answer, is counted here: then each replica admits as much as
all of them should together, which is a limit still. A configuration may choose otherwise (``WhenAway``).
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from math import ceil

import structlog
from prometheus_client import CollectorRegistry, Counter

from mesh.errors import ConfigurationError
from mesh.model.http_route import HttpRoute, RateLimit
from mesh.relay.owned_tasks import OwnedTasks
from waypoint.client import Client
from waypoint.exchange.decision import Answer, Decision, Resume, decided_by
from waypoint.exchange.facts import Facts
from waypoint.http.message import RequestHead
from waypoint.security.rate_limit_machine import CompiledLimit, TokenBuckets
from waypoint.security.shared_limit_driver import SharedLimits

_log = structlog.get_logger("limits")


class WhenAway(enum.StrEnum):
    """What becomes of requests while the store does not answer."""

    COUNT_HERE = "count-here"
    """Each replica counts for itself."""
    ADMIT = "admit"
    REFUSE = "refuse"
    """They are answered 500."""


class SharedCounting:
    """The store and what goes with it."""

    def __init__(
        self,
        store: SharedLimits,
        when_away: WhenAway,
        tasks: OwnedTasks,
        registry: CollectorRegistry,
    ) -> None:
        """Prepare.

        Args:
            store: kept connected by whoever runs it.
            when_away: what becomes of requests while it does not answer.
            tasks: where answers are waited for.
            registry: the process's.
        """
        self.store = store
        self.when_away = when_away
        self.tasks = tasks
        self.counter = Counter(
            "ambimesh_waypoint_shared_limit_answers",
            "What the store of shared rate limits has said about requests: admitted, limited, or away (no answer).",
            ("answer",),
            registry=registry,
        )


class Limiter:
    """All limits of the process."""

    def __init__(self, clock: Callable[[], float], shared: SharedCounting | None = None) -> None:
        """Prepare.

        Args:
            clock: monotonic seconds.
            shared: for limits that all replicas count together; None: they are counted here.
        """
        self._clock = clock
        self._shared = shared
        self._kept: dict[tuple[str, str, RateLimit], _Counted] = {}

    def of(self, destination: str, route: HttpRoute) -> RouteLimits:
        """The limits of a route; buckets that were there before go on."""
        counted = []
        for limit in route.rate_limits:
            key = (destination, route.name, limit)
            found = self._kept.get(key)
            if found is None:
                found = self._kept[key] = _Counted(limit, f"{destination}|{route.name}")
                if found.compiled is None:
                    _log.warning("rate limit not usable: it refuses everything", route=route.name, limit=limit.name)
                elif limit.shared and self._shared is None:
                    _log.warning(
                        "no store is configured: each replica counts this shared limit for itself",
                        route=route.name,
                        limit=limit.name,
                    )
            counted.append(found)
        return RouteLimits(route.name, counted, self._clock, self._shared)

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

    __slots__ = ("_clock", "_counted", "_route", "_shared", "_shares")

    def __init__(
        self, route: str, counted: list[_Counted], clock: Callable[[], float], shared: SharedCounting | None
    ) -> None:
        self._route = route
        self._clock = clock
        self._shared = shared
        at_store = [
            each for each in counted if shared is not None and each.compiled is not None and each.compiled.limit.shared
        ]
        self._shares = at_store
        self._counted = [each for each in counted if each not in at_store]

    def check(self, head: RequestHead, client: Client, facts: Facts, go_on: Callable[[], Decision]) -> Decision:
        """Take a token of each limit; an answer if one has none.

        Args:
            head: the request's.
            client: whose it is.
            facts: the request's.
            go_on: decides about a request that got its tokens.
        """
        for counted in self._counted:
            wait = counted.take(head, client, self._clock())
            if wait > 0:
                return self.refusal(wait)
        if not self._shares or self._shared is None:
            return go_on()
        if self._shared.store.answering:
            now, asked = self._clock(), []
            for each in self._shares:
                each.used_at = now
                if each.compiled is not None:
                    asked.append((each, each.compiled, each.compiled.key(head, client)))
            return _LimitWait(self, self._shared, asked, head, client, facts, go_on)
        return self.without_store(self._shared, self._shares, head, client, facts) or go_on()

    def refusal(self, wait: float) -> Answer:
        """What a request is answered for which there is a token in so many seconds."""
        headers = [(b"retry-after", b"%d" % ceil(wait))]
        return Answer(429, headers, b"too many requests", flag="RL", route=self._route, details="request_rate_limited")

    def without_store(
        self,
        shared: SharedCounting,
        counted: Sequence[_Counted],
        head: RequestHead,
        client: Client,
        facts: Facts,
    ) -> Answer | None:
        """Decide about limits that the store has not answered for; an answer if that is no."""
        shared.counter.labels("away").inc()
        if shared.when_away is WhenAway.REFUSE:
            details = "rate_limiter_error"
            return Answer(500, [], b"rate limiter error", flag="RLSE", route=self._route, details=details)
        facts.add_flag("RLSE")
        if shared.when_away is WhenAway.COUNT_HERE:
            for each in counted:
                wait = each.take(head, client, self._clock())
                if wait > 0:
                    return self.refusal(wait)
        return None


class _LimitWait:
    """A request that waits for the store."""

    body_bytes = 0

    def __init__(
        self,
        limits: RouteLimits,
        shared: SharedCounting,
        asked: list[tuple[_Counted, CompiledLimit, bytes]],
        head: RequestHead,
        client: Client,
        facts: Facts,
        go_on: Callable[[], Decision],
    ) -> None:
        self._limits = limits
        self._shared = shared
        self._asked = asked
        self._request = (head, client, facts)
        self._go_on = go_on
        self._resume: Resume | None = None

    def start(self, resume: Resume, body: bytes, *, whole: bool) -> None:
        self._resume = resume
        self._shared.tasks.start(self.run)

    def cancel(self) -> None:
        self._resume = None

    async def run(self) -> None:
        """Ask the store about one limit after the other."""
        refused = await self._take()
        resume, self._resume = self._resume, None
        if resume is not None:
            resume(decided_by(self._go_on) if refused is None else refused)

    async def _take(self) -> Answer | None:
        shared = self._shared
        for number, (_, compiled, key) in enumerate(self._asked):
            wait = await shared.store.take(compiled, key)
            if wait is None:
                rest = [each for each, _, _ in self._asked[number:]]
                return self._limits.without_store(shared, rest, *self._request)
            shared.counter.labels("limited" if wait > 0 else "admitted").inc()
            if wait > 0:
                return self._limits.refusal(wait)
        return None
