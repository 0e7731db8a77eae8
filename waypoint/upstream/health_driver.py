"""Active health checks, run: whom ``health_machine`` names is asked, and the machine is told.

Theory of operation. One loop looks at every backend that has health checks, brings its endpoints up to date and asks
those that are due: by a request (any answer from 200 to 399 is good, as for kubelet), or by a connection alone. Each
check has a connection of its own, made the way requests' are: through the endpoint's tunnel, with the waypoint's
identity, so that what it finds is what requests would find. Answers arrive in the relay's handlers, and are told to the
machine there; the loop is woken when something it waits for has changed. At most :data:`AT_ONCE` checks are under way,
so that many endpoints that hang cost neither descriptors nor the others' time.

A backend is looked at as long as a destination that is served asks for its checks; who it is that asks is held weakly
(:class:`Interest`), so that nothing need be told when a destination goes. Of a backend nobody asks for any more, what
was found is forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, Never
from weakref import WeakSet

import structlog
import trio
from prometheus_client import CollectorRegistry, Counter

from mesh.errors import MeshError
from mesh.model.upstream_policy import HealthCheck, TrafficPolicy, UpstreamPolicy
from waypoint.http.contract import Failure
from waypoint.http.message import RequestHead
from waypoint.upstream.backend import ServiceBackend
from waypoint.upstream.endpoint import Endpoint
from waypoint.upstream.health_machine import HealthMachine
from waypoint.upstream.inquiry import Inquiry, Outcome
from waypoint.upstream.pool_contract import EndpointPool, Unavailable
from waypoint.wire.contract import Wire
from waypoint.wire.timers import Timers

AT_ONCE: Final = 64
_LOOK_SECONDS: Final = 1.0
"""At most between two looks: endpoints that are new are asked that soon."""
_LEAST_SECONDS: Final = 0.01
_MAX_BODY: Final = 1 << 20

_log = structlog.get_logger("health")


class Interest:
    """The health checks that one version of a destination asks for; it lasts while somebody holds it."""

    __slots__ = ("__weakref__", "said")

    def __init__(self, policies: Iterable[UpstreamPolicy]) -> None:
        self.said: frozenset[tuple[str, TrafficPolicy]] = frozenset(
            (upstream.service, policy)
            for upstream in policies
            for policy in _policies_of(upstream)
            if policy.health_check is not None
        )
        """Services and policies."""


def _policies_of(upstream: UpstreamPolicy) -> list[TrafficPolicy]:
    subsets = [subset.policy for subset in upstream.subsets if subset.policy is not None]
    return [upstream.policy, *(policy for _, policy in upstream.ports), *subsets]


class HealthChecks:
    """All health checks of the process."""

    def __init__(self, timers: Timers, registry: CollectorRegistry) -> None:
        """Prepare; :meth:`run` asks."""
        self._timers = timers
        self._counter = Counter(
            "ambimesh_waypoint_health_checks",
            "Active health checks of endpoints, by what came of them: passed or failed.",
            ("service", "result"),
            registry=registry,
        )
        self._backends: dict[ServiceBackend, bool] = {}
        """Whether each was asked for when it was last looked at."""
        self._interests: WeakSet[Interest] = WeakSet()
        self._running: set[_Check] = set()
        self._woken = trio.Event()

    def interest(self, policies: Iterable[UpstreamPolicy]) -> Interest:
        """What a destination asks for: to be held as long as it does."""
        made = Interest(policies)
        if made.said:
            self._interests.add(made)
            self._wake()
        return made

    def add(self, backend: ServiceBackend) -> None:
        """A backend that requests go to; one without health checks is not looked at."""
        if backend.cluster.health is not None:
            self._backends[backend] = False
            self._wake()

    @property
    def under_way(self) -> int:
        """Checks that wait for an answer."""
        return len(self._running)

    async def run(self) -> Never:
        """Ask, until cancelled."""
        try:
            while True:
                self._woken = trio.Event()
                with trio.move_on_after(self.start_due()):
                    await self._woken.wait()
        finally:
            for check in list(self._running):
                check.cancel()

    def start_due(self) -> float:
        """Ask whoever is due. Returns in how many seconds to look again; infinite: when something has changed."""
        wait = float("inf")
        now = self._timers.clock()
        # Who is served goes to the end, so the next look begins with the others: nobody is kept waiting for ever.
        for backend in list(self._backends):
            health = backend.cluster.health
            if health is None or not self._wanted(backend, health):
                continue
            backend.refresh()
            room = AT_ONCE - len(self._running)
            if room <= 0:
                return float("inf")
            del self._backends[backend]
            self._backends[backend] = True
            for endpoint in health.due(now, room):
                self._start(backend, health, endpoint)
            due = health.next_due()
            wait = min(wait, _LOOK_SECONDS, _LOOK_SECONDS if due is None else max(due - now, _LEAST_SECONDS))
        return wait

    def _wanted(self, backend: ServiceBackend, health: HealthMachine) -> bool:
        key = (backend.name, backend.cluster.policy)
        wanted = any(key in interest.said for interest in self._interests)
        if self._backends[backend] and not wanted:
            health.forget()
        self._backends[backend] = wanted
        return wanted

    def _start(self, backend: ServiceBackend, health: HealthMachine, endpoint: Endpoint) -> None:
        check = _Check(backend, health.policy, endpoint, self._timers)

        def over(problem: str) -> None:
            self._running.discard(check)
            self._over(backend, health, endpoint, problem)

        self._running.add(check)
        check.start(over)

    def _over(self, backend: ServiceBackend, health: HealthMachine, endpoint: Endpoint, problem: str) -> None:
        before, now = endpoint.healthy, self._timers.clock()
        self._counter.labels(backend.name, "failed" if problem else "passed").inc()
        if problem:
            health.failed(endpoint, now)
        else:
            health.succeeded(endpoint, now)
        if endpoint.healthy is not before:
            _log.info(
                "endpoint is healthy again" if endpoint.healthy else "endpoint fails its health checks",
                service=backend.name,
                endpoint=str(endpoint.to.target),
                **({} if endpoint.healthy else {"error": problem}),
            )
        self._wake()

    def _wake(self) -> None:
        self._woken.set()


class _Check:
    """One question to one endpoint."""

    def __init__(self, backend: ServiceBackend, policy: HealthCheck, endpoint: Endpoint, timers: Timers) -> None:
        self._backend = backend
        self._policy = policy
        self._endpoint = endpoint
        self._timers = timers
        self._cancel: Callable[[], None] | None = None

    def start(self, over: Callable[[str], None]) -> None:
        """Ask; ``over`` is told once what the problem is, or nothing."""
        if self._policy.path is None:
            self._connect(over)
        else:
            self._ask(self._policy.path, over)

    def cancel(self) -> None:
        """Nobody wants to know any more."""
        if self._cancel is not None:
            self._cancel()

    def _ask(self, path: str, over: Callable[[str], None]) -> None:
        policy = self._policy
        pool = self._backend.pool_for_check(self._endpoint, policy.port, policy.timeout_seconds)

        def report(outcome: Outcome) -> None:
            pool.drain()
            if isinstance(outcome, str):
                over(outcome)
            else:
                over("" if 200 <= outcome.status < 400 else f"status {outcome.status}")

        host = self._backend.name.partition("/")[2].encode()
        head = RequestHead(
            method=b"GET", path=path.encode(), authority=host, headers=[(b"user-agent", b"ambimesh-health-check")]
        )
        inquiry = Inquiry(
            self._timers, _Only(pool), head, b"", report, timeout=policy.timeout_seconds, max_body=_MAX_BODY
        )

        def cancel() -> None:
            inquiry.cancel()
            pool.drain()

        self._cancel = cancel
        inquiry.start()

    def _connect(self, over: Callable[[str], None]) -> None:
        policy = self._policy
        done = False

        def report(wire: Wire | None, error: MeshError | None) -> None:
            nonlocal done
            if wire is not None:
                wire.end()  # not a reset, which applications log
            if not done:
                done = True
                self._timers.cancel(timer)
                over("" if error is None else str(error))

        def too_slow() -> None:
            nonlocal done
            if not done:
                done = True
                dial.cancel()
                over(f"no connection within {policy.timeout_seconds:g} s")

        timer = self._timers.after(policy.timeout_seconds, too_slow)
        dial = self._backend.connector_for_check(self._endpoint, policy.port).connect(report)

        def cancel() -> None:
            nonlocal done
            done = True
            self._timers.cancel(timer)
            dial.cancel()

        self._cancel = cancel


class _Only:
    """One pool, for :class:`Inquiry`."""

    def __init__(self, pool: EndpointPool) -> None:
        self._pool = pool

    def choose(self, head: RequestHead, tried: list[EndpointPool]) -> EndpointPool | Unavailable:
        return self._pool

    def finished(self, pool: EndpointPool, status: int, failure: Failure | None) -> None:
        """What came of it is told otherwise."""
