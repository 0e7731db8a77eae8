"""Where a captured connection goes: pure, with chance injected.

1. The destination is a service's virtual address: one of the service's endpoints is drawn, and its port is the target
   port. A service that has none to offer is an error, not a reason to leave the mesh. A service that leaves the choice
   to the client (PASSTHROUGH) counts as if only its address had been dialled.
2. The destination is a workload's address: that workload.
3. Neither: plain TCP to the destination as dialled.

A workload that speaks HBONE is reached through the tunnel, another one in plain TCP.

What is bound to a waypoint goes there, and nowhere else (``mesh.state.waypoints``). What lies on another network and
needs its gateway is refused with a message that says so.
"""

from __future__ import annotations

from collections.abc import Callable

from mesh.addresses import OriginalDestination, SocketAddress, is_ipv4
from mesh.errors import NoHealthyUpstream, SelfCall
from mesh.model.service import BalancingMode, HealthPolicy, Service
from mesh.model.workload import HealthStatus, TunnelProtocol, Workload
from mesh.state.routes import MESH_PORTS, Passthrough, PassthroughReason, ToWorkload, Upstream
from mesh.state.service_index import ServiceView, route_to
from mesh.state.waypoints import MeshView, bound_waypoint, route_to_waypoint


def choose_upstream(
    view: MeshView,
    source: Workload,
    destination: OriginalDestination,
    random: Callable[[], float],
    chosen: SocketAddress | None = None,
) -> Upstream:
    """Decide where a connection goes. A few microseconds.

    Args:
        view: the mesh as known now.
        source: the pod that dials.
        destination: what it dialled.
        random: uniform in [0, 1), asked at most once.
        chosen: the endpoint that was drawn already, from the same weights; used if the service still offers it.

    Raises:
        NoHealthyUpstream: a service of the mesh that cannot be reached now; the text says why.
        WaypointUnavailable: the waypoint that it is bound to cannot be reached now.
        SelfCall: one of the mesh's own ports in an enrolled pod.
    """
    ip, port = destination
    found = view.service_at(source.network, ip)
    reason = PassthroughReason.UNKNOWN_DESTINATION
    if found is not None and (service := found.service) is not None:
        if service.load_balancing.mode is not BalancingMode.PASSTHROUGH:
            return _to_service(view, found, service, source, destination, random, chosen)
        reason = PassthroughReason.PASSTHROUGH_SERVICE
    workload = view.workload_at(source.network, ip)
    if workload is None:
        return Passthrough(destination, reason)
    if workload.waypoint is not None:
        bound = f"workload {workload.namespace}/{workload.name}"
        return route_to_waypoint(view, bound, workload.waypoint, source, destination, random())
    if port in MESH_PORTS and workload.tunnel_protocol is TunnelProtocol.HBONE:
        raise SelfCall(
            f"{SocketAddress(ip, port)} is ztunnel's own port in pod {workload.namespace}/{workload.name}: "
            "applications cannot call it"
        )
    return route_to(workload, ip, port)


def _to_service(
    view: MeshView,
    found: ServiceView,
    service: Service,
    source: Workload,
    destination: OriginalDestination,
    random: Callable[[], float],
    chosen: SocketAddress | None,
) -> ToWorkload:
    ip, port = destination
    if port not in found.ports:
        ports = ", ".join(map(str, sorted(found.ports)[:16])) or "none"
        raise NoHealthyUpstream(f"service {found.key} has no port {port}; it has: {ports}")
    if service.waypoint is not None or service.weighted_waypoints:
        waypoint = bound_waypoint(service, random())
        if waypoint is not None:
            gateway, left = waypoint
            return route_to_waypoint(view, f"service {found.key}", gateway, source, destination, left, found.key)
    pool = found.pool(service, port, ipv4=is_ipv4(ip), source=source)
    if chosen is not None:
        for offered in pool.items:
            if offered.target == chosen:
                return offered
    route = pool.pick(random())
    if route is None:
        raise NoHealthyUpstream(_nobody_text(found, service, source, port))
    return route


def _nobody_text(found: ServiceView, service: Service, source: Workload, port: int) -> str:
    endpoints = list(found.endpoints.values())
    if not endpoints:
        return f"service {found.key} has no endpoints: no pod matches its selector, or none is running"
    here = [endpoint for endpoint in endpoints if endpoint.network == source.network]
    if not here:
        return f"service {found.key} has endpoints on other networks only, and no gateway to them is in use"
    if service.load_balancing.health_policy is not HealthPolicy.ALLOW_ALL and all(
        endpoint.status is not HealthStatus.HEALTHY for endpoint in here
    ):
        return f"none of the {len(here)} endpoints of service {found.key} is ready"
    if service.load_balancing.mode is BalancingMode.STRICT:
        wanted = ", ".join(scope.name.lower() for scope in service.load_balancing.routing_preference)
        return f"service {found.key} admits endpoints of the client's own {wanted} only, and none of those is ready"
    return f"no ready endpoint of service {found.key} serves port {port}: the pods do not declare the named target port"
