"""A port of a service, or of a subset of it, as a place for requests (``waypoint.exchange.decision.Backend``).

Joins what is decided (``cluster``: endpoints, balancing, limits, outliers) with what carries requests: a pool of
connections for each endpoint. What is asked of a backend for one request only (a hash, a session) travels in a
:class:`Chooser` of that request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Final, NamedTuple, Protocol

from mesh.addresses import HboneTarget, SocketAddress
from mesh.model.upstream_policy import TrafficPolicy, UpstreamPolicy
from mesh.state.routes import ToWorkload
from waypoint.http.contract import Failure, FailureKind
from waypoint.http.limits import HttpLimits
from waypoint.http.message import RequestHead
from waypoint.upstream.cluster import Cluster
from waypoint.upstream.endpoint import Endpoint
from waypoint.upstream.pool_contract import EndpointPool, PoolLimits, Unavailable
from waypoint.upstream.pool_h1 import H1Pool
from waypoint.upstream.pool_h2 import H2Pool
from waypoint.wire.dialling import Connector
from waypoint.wire.timers import Timers

_LOCAL: Final = frozenset({FailureKind.CONNECT, FailureKind.CONNECT_TIMEOUT})


class ServiceBackend:
    """One port of a service, spoken to in one version of HTTP."""

    __slots__ = (
        *("_connector", "_endpoints", "_http", "_http2", "_limits", "_pools", "_refresh", "_sweep_due"),
        *("_timers", "cluster", "name"),
    )

    def __init__(
        self,
        name: str,
        cluster: Cluster,
        refresh: Callable[[Cluster], list[Endpoint] | Unavailable],
        connector: Callable[[ToWorkload], Connector],
        timers: Timers,
        http: HttpLimits,
        *,
        http2: bool,
    ) -> None:
        """Begin without endpoints.

        Args:
            name: the service's.
            cluster: its endpoints.
            refresh: brings them up to date; returns those that are gone, or why there are none.
            connector: makes connections to where a route leads.
            timers: the process's.
            http: bounds of connections.
            http2: speak HTTP/2 to it, by prior knowledge.
        """
        self.name = name
        self.cluster = cluster
        self._refresh = refresh
        self._connector = connector
        self._timers = timers
        self._http = http
        self._http2 = http2
        self._limits = pool_limits(cluster.policy)
        self._pools: dict[Endpoint, EndpointPool] = {}
        self._endpoints: dict[EndpointPool, Endpoint] = {}
        self._sweep_due = timers.clock() + (
            cluster.policy.outlier.interval_seconds if cluster.policy.outlier is not None else 0.0
        )

    def pick(self, hashed: int | None, session: str | None, tried: list[Endpoint]) -> Endpoint | Unavailable:
        """An endpoint, counted as busy until :meth:`release`."""
        gone = self._refresh(self.cluster)
        if isinstance(gone, Unavailable):
            return gone
        if gone:
            self.forget(gone)
        picked = self.cluster.by_key(session) if session is not None and not tried else None
        if picked is None:
            picked = self.cluster.pick(self._timers.clock(), hashed, tried)
        if picked is None:
            return Unavailable("UH", f"no healthy endpoint of {self.name}")
        if not self.cluster.limits.take_request():
            return Unavailable("UO", f"too many requests to {self.name} are under way")
        picked.active += 1
        return picked

    def release(self, endpoint: Endpoint) -> None:
        """What was picked is done with."""
        endpoint.active -= 1
        self.cluster.limits.give_request()

    def pool_of(self, endpoint: Endpoint) -> EndpointPool:
        """The connections to an endpoint."""
        pool = self._pools.get(endpoint)
        if pool is None:
            kind = H2Pool if self._http2 else H1Pool
            connector = self.connector_to(endpoint)
            if endpoint.connector is None:  # else it is spoken to in another version, too: the far end is the same
                endpoint.connector = connector
            pool = kind(str(endpoint.to.target), connector, self._timers, self._limits, self._http)
            self._pools[endpoint] = pool
            self._endpoints[pool] = endpoint
        return pool

    def refresh(self) -> None:
        """Bring the endpoints up to date without a request."""
        gone = self._refresh(self.cluster)
        if not isinstance(gone, Unavailable):
            self.forget(gone)

    def pool_for_check(self, endpoint: Endpoint, port: int | None, seconds: float) -> EndpointPool:
        """A connection of one's own for one health check, made as requests' are.

        Args:
            endpoint: whose.
            port: the application's; None: the one that requests go to.
            seconds: for making the connection.
        """
        kind = H2Pool if self._http2 else H1Pool
        limits = PoolLimits(connections=1, connect_seconds=seconds)
        return kind(str(endpoint.to.target), self.connector_for_check(endpoint, port), self._timers, limits, self._http)

    def connector_for_check(self, endpoint: Endpoint, port: int | None) -> Connector:
        """As requests are carried to the endpoint, but to another of its ports, if one is given."""
        to = endpoint.to
        if port is not None:
            to = replace(to, target=HboneTarget(SocketAddress(to.target.ip, port)))
        return self._connector(to)

    def connector_to(self, endpoint: Endpoint) -> Connector:
        """For a connection of one's own."""
        return self._connector(endpoint.to)

    def endpoint_of(self, pool: EndpointPool) -> Endpoint | None:
        """Whose pool this is; None once the endpoint is gone."""
        return self._endpoints.get(pool)

    def judge(self, endpoint: Endpoint, status: int, failure: Failure | None) -> None:
        """What became of an attempt, for outlier detection."""
        outliers = self.cluster.outliers
        if outliers is None:
            return
        now = self._timers.clock()
        if failure is not None and failure.kind in _LOCAL:
            outliers.failed_locally(endpoint, now)
        elif status or failure is not None:
            outliers.answered(endpoint, status or 503, now)

    def tick(self, now: float) -> None:
        """Once per second."""
        outliers = self.cluster.outliers
        if outliers is not None and now >= self._sweep_due:
            self._sweep_due = now + outliers.policy.interval_seconds
            outliers.sweep(now)

    def forget(self, gone: Iterable[Endpoint]) -> None:
        """Close the connections to endpoints that are no more, as their requests end."""
        for endpoint in gone:
            pool = self._pools.pop(endpoint, None)
            if pool is not None:
                self._endpoints.pop(pool, None)
                pool.drain()

    def drain(self) -> None:
        """Close what is idle, and the rest as requests end."""
        for pool in self._pools.values():
            pool.drain()

    def describe(self) -> list[dict[str, object]]:
        """For the admin port."""
        return [
            {
                "service": self.name,
                "address": str(endpoint.to.target),
                "workload": f"{endpoint.to.workload.namespace}/{endpoint.to.workload.name}",
                "healthy": endpoint.healthy,
                "ejected": endpoint.ejected_until > 0,
                "requests": endpoint.active,
            }
            for endpoint in self.cluster.endpoints
        ]


class Chooser:
    """Chooses the endpoints for one request (``waypoint.exchange.decision.Backend``)."""

    __slots__ = ("_backend", "_hashed", "_picked", "_session", "chosen")

    def __init__(self, backend: ServiceBackend, hashed: int | None = None, session: str | None = None) -> None:
        self._backend = backend
        self._hashed = hashed
        self._session = session
        self._picked: Endpoint | None = None
        self.chosen: Endpoint | None = None
        """That of the last attempt."""

    @property
    def service(self) -> str:
        """``namespace/hostname`` of the service whose endpoints these are."""
        return self._backend.name

    def choose(self, head: RequestHead, tried: list[EndpointPool]) -> EndpointPool | Unavailable:
        """An endpoint for the next attempt, another one than those tried if there is."""
        backend = self._backend
        before = [endpoint for pool in tried if (endpoint := backend.endpoint_of(pool)) is not None] if tried else []
        found = backend.pick(self._hashed, self._session, before)
        if isinstance(found, Unavailable):
            return found
        self._picked = self.chosen = found
        return backend.pool_of(found)

    def finished(self, pool: EndpointPool, status: int, failure: Failure | None) -> None:
        """An attempt is over."""
        endpoint, self._picked = self._picked, None
        if endpoint is not None:
            self._backend.release(endpoint)
            self._backend.judge(endpoint, status, failure)


class Place(NamedTuple):
    """Where a route or a provider leads."""

    service: str
    """``namespace/hostname``, or the uid of a workload."""
    port: int
    """As clients dial it."""
    subset: str | None = None
    """One of those that the service's policy names."""


class Backends(Protocol):
    """Knows the backends of all places (``waypoint.upstream.services``)."""

    def backend(
        self, place: Place, policies: Mapping[str, UpstreamPolicy], *, http2: bool
    ) -> ServiceBackend | Unavailable:
        """What takes requests for a place; the same object each time.

        Args:
            place: where they are to go.
            policies: by service; what the destination says about its backends.
            http2: how the client speaks, for ports that do not say how they are spoken to.
        """
        ...


class RetryLimit:
    """How many retries may be under way to one service (``waypoint.exchange.retry.RetryBudget``)."""

    __slots__ = ("_limits",)

    def __init__(self, backend: ServiceBackend) -> None:
        self._limits = backend.cluster.limits

    def take(self) -> bool:
        """Whether one more may be."""
        return self._limits.take_retry()

    def give_back(self) -> None:
        """One is over."""
        self._limits.give_retry()


def pool_limits(policy: TrafficPolicy) -> PoolLimits:
    """What a policy says about connections to one endpoint."""
    pool = policy.pool
    return PoolLimits(
        connections=pool.max_connections,
        pending=pool.max_pending_requests,
        requests_per_connection=pool.max_requests_per_connection,
        idle_seconds=pool.idle_seconds,
        connect_seconds=pool.connect_seconds,
    )
