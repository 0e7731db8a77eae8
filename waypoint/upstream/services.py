"""The services that this waypoint sends to: their endpoints as the mesh's state has them, kept up to date.

An endpoint of the mesh is reached through its tunnel, any other one by plain TCP. Endpoints are looked up again only
after a change that concerns their service.

A port that does not say how it is spoken to is spoken to as each client speaks. So it may have a backend for each
version of HTTP, with connections of its own to each endpoint; what is known of the endpoints (health, ejections, turns)
and the limits are one for both, since the endpoints are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from mesh.addresses import is_ipv4, parse_ip, to_sockaddr
from mesh.errors import ConfigurationError, EnvironmentLacks
from mesh.hbone.codec import Baggage
from mesh.model.service import LoadBalancing
from mesh.model.upstream_policy import Subset, TrafficPolicy, UpstreamPolicy
from mesh.model.workload import AppProtocol, Workload
from mesh.relay.engine import Engine
from mesh.relay.pool import PoolKey, TunnelPool
from mesh.state.routes import ToWorkload
from mesh.state.service_index import pick_address, route_to
from mesh.state.store import Changes, MeshState
from waypoint.config import GatewayGroup
from waypoint.host import WaypointHost
from waypoint.http.limits import HttpLimits
from waypoint.upstream.backend import Place, ServiceBackend
from waypoint.upstream.cluster import Cluster
from waypoint.upstream.connector import TunnelConnector
from waypoint.upstream.endpoint import Endpoint, LabelsOf, routes_of
from waypoint.upstream.health_driver import HealthChecks
from waypoint.upstream.pool_contract import Unavailable
from waypoint.wire.dialling import Connector
from waypoint.wire.socket_connector import SocketConnector
from waypoint.wire.timers import Timers
from waypoint.wire.tls_wire import TlsConnector, terms_of

_HTTP2: Final = frozenset({AppProtocol.HTTP2, AppProtocol.GRPC})
_PLAIN: Final = TrafficPolicy()
_Key = tuple[Place, TrafficPolicy]


class Services:
    """All backends of the process, shared by the destinations that lead there."""

    def __init__(
        self,
        engine: Engine,
        timers: Timers,
        host: WaypointHost,
        tunnels: TunnelPool,
        state: MeshState,
        gateway: GatewayGroup,
        draw: Callable[[], float],
        http: HttpLimits,
        labels_of: LabelsOf,
        health: HealthChecks,
    ) -> None:
        self._engine = engine
        self._timers = timers
        self._host = host
        self._tunnels = tunnels
        self._state = state
        self._gateway = gateway
        self._draw = draw
        self._http = http
        self._labels_of = labels_of
        self._health = health
        self._own_ip = parse_ip(gateway.pod_ip)
        self._backends: dict[tuple[_Key, bool], ServiceBackend] = {}
        self._clusters: dict[_Key, Cluster] = {}
        self._speakers: dict[Cluster, list[ServiceBackend]] = {}
        """The backends of a cluster: one for each version of HTTP that it is spoken to in."""
        self._stale: set[Cluster] = set()
        self._of_service: dict[str, list[Cluster]] = {}
        # Until the control plane has described this pod: only place and network matter.
        self._self = Workload(
            uid="",
            name=gateway.pod_name,
            namespace=gateway.namespace,
            network=gateway.network,
            trust_domain=gateway.trust_domain,
            service_account=gateway.service_account,
            node=gateway.node,
            cluster_id=gateway.cluster_id,
        )
        self._baggage = Baggage(
            cluster=gateway.cluster_id,
            namespace=gateway.namespace,
            workload_type="deployment",
            workload_name=gateway.name,
            service_name=gateway.name,
        ).encode()
        state.subscribe(self._changed)

    def backend(
        self, place: Place, policies: Mapping[str, UpstreamPolicy], *, http2: bool
    ) -> ServiceBackend | Unavailable:
        """See :class:`waypoint.upstream.backend.Backends`."""
        service, port, subset = place
        upstream = policies.get(service)
        found: Subset | None = None
        if subset is not None:
            found = next((each for each in upstream.subsets if each.name == subset), None) if upstream else None
            if found is None:
                return Unavailable("NC", f"service {service} has no subset {subset}")
        policy = _policy(upstream, found, port)
        spoken = self._protocol(service, port)
        if spoken is not AppProtocol.UNKNOWN:
            http2 = spoken in _HTTP2
        http2 = http2 or policy.pool.upgrade_to_http2
        key = (place, policy)
        backend = self._backends.get((key, http2))
        if backend is None:
            try:
                connector = self._connector_by(policy, http2=http2)
            except (ConfigurationError, EnvironmentLacks) as error:
                return Unavailable("NC", f"TLS to service {service}: {error}")
            cluster = self._clusters.get(key)
            known = cluster is not None
            if cluster is None:
                cluster = self._clusters[key] = Cluster(policy, self._where(), self._draw)
                self._of_service.setdefault(service, []).append(cluster)
                self._stale.add(cluster)
            refresh = partial(self._refresh, service, port, () if found is None else found.labels)
            backend = self._backends[key, http2] = ServiceBackend(
                service, cluster, refresh, connector, self._timers, self._http, http2=http2
            )
            self._speakers.setdefault(cluster, []).append(backend)
            if not known:
                # Whether an endpoint is healthy is asked once, as the first client speaks.
                self._health.add(backend)
        return backend

    def _protocol(self, service: str, port: int) -> AppProtocol:
        view = self._state.service_named(service)
        if view is None or view.service is None:
            return AppProtocol.UNKNOWN
        return next(
            (each.app_protocol for each in view.service.ports if each.service_port == port), AppProtocol.UNKNOWN
        )

    def _where(self) -> Workload:
        return self._state.workload_at(self._gateway.network, self._own_ip) or self._self

    def _refresh(
        self, service: str, port: int, labels: tuple[tuple[str, str], ...], cluster: Cluster
    ) -> list[Endpoint] | Unavailable:
        view = self._state.service_named(service)
        if view is None or view.service is None:
            workload = self._state.workloads.by_uid.get(service)
            if workload is None:
                return Unavailable("NC", f"no such service: {service}")
            return self._refresh_workload(workload, port, cluster)
        if port not in view.ports:
            return Unavailable("NC", f"service {service} has no port {port}")
        if cluster not in self._stale:
            return []
        self._stale.discard(cluster)
        routes = routes_of(
            view,
            port,
            self._gateway.network,
            ipv4=is_ipv4(self._own_ip),
            labels=labels,
            labels_of=self._labels_of,
        )
        reachable = [to for to in routes if to.tunnel is None or is_ipv4(to.tunnel.ip) is is_ipv4(self._own_ip)]
        gone = cluster.update(reachable, view.service.load_balancing, self._timers.clock())
        for backend in self._speakers[cluster]:
            # Whoever looks tells all: each has connections of its own to those that are gone.
            backend.forget(gone)
        return gone

    def _refresh_workload(self, workload: Workload, port: int, cluster: Cluster) -> list[Endpoint] | Unavailable:
        """Clients called the workload itself, so it is called, ready or not."""
        if not workload.addresses or workload.network != self._gateway.network:
            return Unavailable("UH", f"workload {workload.uid} has no address on this network")
        if cluster not in self._stale:
            return []
        self._stale.discard(cluster)
        ip = pick_address(workload, ipv4=is_ipv4(self._own_ip))
        return cluster.update([route_to(workload, ip, port)], LoadBalancing(), self._timers.clock())

    def labels_changed(self) -> None:
        """Labels of workloads are other ones: subsets are to be made anew."""
        for clusters in self._of_service.values():
            self._stale.update(clusters)

    def _changed(self, changes: Changes) -> None:
        services = {*changes.services, *changes.workloads}  # a workload that is called itself stands under its uid
        for uid in changes.workloads:
            workload = self._state.workloads.by_uid.get(uid)
            if workload is None:
                # Gone, and with it what it served.
                services.update(self._of_service)
                break
            services.update(workload.services)
        for service in services:
            self._stale.update(self._of_service.get(service, ()))

    def _connector(self, to: ToWorkload) -> Connector:
        if to.tunnel is None:
            return SocketConnector(self._engine, to_sockaddr(to.target))
        key = PoolKey(self._host.identity, self._own_ip, to.expected_identities, to.tunnel)
        return TunnelConnector(self._tunnels, self._host.tasks, key, str(to.target), self._baggage)

    def _connector_by(self, policy: TrafficPolicy, *, http2: bool) -> Callable[[ToWorkload], Connector]:
        """How endpoints are reached under a policy."""
        if policy.tls is None:
            return self._connector
        terms = terms_of(policy.tls, http2=http2)
        return lambda to: TlsConnector(self._connector(to), terms)

    def tick(self, now: float) -> None:
        """Once per second."""
        for speakers in self._speakers.values():
            speakers[0].tick(now)

    def drain(self) -> None:
        """Close what is idle, and the rest as requests end."""
        for backend in self._backends.values():
            backend.drain()

    def describe(self) -> list[dict[str, object]]:
        """For the admin port."""
        return [entry for speakers in self._speakers.values() for entry in speakers[0].describe()]


def _policy(upstream: UpstreamPolicy | None, subset: Subset | None, port: int) -> TrafficPolicy:
    if upstream is None:
        return _PLAIN
    if subset is not None and subset.policy is not None:
        return subset.policy
    return next((policy for number, policy in upstream.ports if number == port), upstream.policy)
