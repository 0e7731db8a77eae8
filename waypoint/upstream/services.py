"""Where requests go: the endpoints of services, and the connections to each of them.

Connections are kept per endpoint and version of HTTP, and shared by all routes that lead there. An endpoint of the mesh
is reached through its tunnel, any other one by plain TCP.
"""

from __future__ import annotations

from collections.abc import Callable

from mesh.addresses import is_ipv4, parse_ip, to_sockaddr
from mesh.errors import ConfigurationError
from mesh.hbone.codec import Baggage
from mesh.model.workload import Workload
from mesh.relay.engine import Engine
from mesh.relay.pool import PoolKey, TunnelPool
from mesh.state.routes import ToWorkload
from mesh.state.store import MeshState
from waypoint.config import GatewayGroup
from waypoint.exchange.decision import Unavailable
from waypoint.host import WaypointHost
from waypoint.http.contract import Failure
from waypoint.http.limits import HttpLimits
from waypoint.http.message import RequestHead
from waypoint.upstream.connector import TunnelConnector
from waypoint.upstream.pool_contract import EndpointPool, PoolLimits
from waypoint.upstream.pool_h1 import H1Pool
from waypoint.wire.dialling import Connector
from waypoint.wire.socket_connector import SocketConnector
from waypoint.wire.timers import Timers

_DRAWS = 4
"""How often another endpoint is drawn when one was tried before."""
_UNUSED_SECONDS = 60.0


class Endpoint(H1Pool):
    """The connections to one endpoint."""

    __slots__ = ("route", "used_at")

    def __init__(
        self, route: ToWorkload, connector: Connector, timers: Timers, limits: PoolLimits, http: HttpLimits
    ) -> None:
        super().__init__(str(route.target), connector, timers, limits, http)
        self.route = route
        self.used_at = 0.0


class Services:
    """The endpoints that this waypoint sends to."""

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
    ) -> None:
        self._engine = engine
        self._timers = timers
        self._host = host
        self._tunnels = tunnels
        self._state = state
        self._gateway = gateway
        self._draw = draw
        self._http = http
        self._own_ip = parse_ip(gateway.pod_ip)
        self._endpoints: dict[tuple[object, ...], Endpoint] = {}
        self._backends: dict[tuple[str, int], ServiceBackend] = {}
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

    def backend(self, service: str, port: int) -> ServiceBackend:
        """A service's port as a place for requests; the same object each time."""
        key = (service, port)
        found = self._backends.get(key)
        if found is None:
            found = self._backends[key] = ServiceBackend(self, service, port)
        return found

    def draw_endpoint(self, service: str, port: int) -> Endpoint | Unavailable:
        """One of a service's endpoints."""
        view = self._state.service_named(service)
        if view is None or view.service is None:
            return Unavailable("NC", f"no such service: {service}")
        if port not in view.ports:
            return Unavailable("NC", f"service {service} has no port {port}")
        source = self._state.workload_at(self._gateway.network, self._own_ip) or self._self
        pool = view.pool(view.service, port, ipv4=is_ipv4(self._own_ip), source=source)
        route = pool.pick(self._draw())
        if route is None:
            return Unavailable("UH", f"no healthy endpoint of {service}")
        return self.endpoint(route)

    def endpoint(self, route: ToWorkload) -> Endpoint:
        """The connections to where a route leads."""
        key = (route.target, route.tunnel, route.expected_identities)
        endpoint = self._endpoints.get(key)
        if endpoint is None:
            endpoint = self._endpoints[key] = Endpoint(
                route, self._connector(route), self._timers, PoolLimits(), self._http
            )
        endpoint.used_at = self._timers.clock()
        return endpoint

    def _connector(self, route: ToWorkload) -> Connector:
        if route.tunnel is None:
            return SocketConnector(self._engine, to_sockaddr(route.target))
        if is_ipv4(route.tunnel.ip) is not is_ipv4(self._own_ip):
            raise ConfigurationError(f"this waypoint has no address of the family of {route.tunnel}")
        key = PoolKey(self._host.identity, self._own_ip, route.expected_identities, route.tunnel)
        return TunnelConnector(self._tunnels, self._host.tasks, key, str(route.target), self._baggage)

    def tick(self, now: float) -> None:
        """Once per second: let go of endpoints that nobody has used for a while."""
        for key, endpoint in list(self._endpoints.items()):
            if not endpoint.active and not endpoint.connections and now - endpoint.used_at > _UNUSED_SECONDS:
                del self._endpoints[key]

    def drain(self) -> None:
        """Close what is idle, and the rest as requests end."""
        for endpoint in self._endpoints.values():
            endpoint.drain()

    def describe(self) -> list[dict[str, object]]:
        """For the admin port."""
        return [
            {
                "address": endpoint.name,
                "workload": f"{endpoint.route.workload.namespace}/{endpoint.route.workload.name}",
                "connections": endpoint.connections,
                "requests": endpoint.active,
            }
            for endpoint in self._endpoints.values()
        ]


class ServiceBackend:
    """One port of a service (``waypoint.exchange.decision.Backend``)."""

    __slots__ = ("_port", "_services", "service")

    def __init__(self, services: Services, service: str, port: int) -> None:
        self._services = services
        self.service = service
        self._port = port

    def choose(self, head: RequestHead, tried: list[EndpointPool]) -> EndpointPool | Unavailable:
        """An endpoint for the next attempt, another one than those tried if there is."""
        found = self._services.draw_endpoint(self.service, self._port)
        for _ in range(_DRAWS if tried else 0):
            if found not in tried:
                break
            found = self._services.draw_endpoint(self.service, self._port)
        return found

    def finished(self, pool: EndpointPool, status: int, failure: Failure | None) -> None:
        """An attempt is over."""
