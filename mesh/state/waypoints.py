"""Which replica of which waypoint a connection goes to: pure, with chance injected.

A service or workload is bound to a waypoint by the address of a gateway: the name of the waypoint's own service, or an
address. The connection's destination stays what was dialled: it is what the CONNECT names, so that the waypoint knows
what the client wanted.

A waypoint that cannot be reached is never a reason to go past it: what it enforces would be skipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from mesh.addresses import HboneTarget, IpBytes, OriginalDestination, format_ip, is_ipv4
from mesh.errors import WaypointUnavailable
from mesh.model.service import Service, WeightedWaypoint
from mesh.model.workload import GatewayAddress, NamespacedHostname, TunnelProtocol, Workload
from mesh.state.routes import ToWorkload
from mesh.state.service_index import ServiceView, route_to


class MeshView(Protocol):
    """The look-ups that a choice needs."""

    def workload_at(self, network: str, ip: IpBytes) -> Workload | None:
        """Who has this address."""
        ...

    def service_at(self, network: str, ip: IpBytes) -> ServiceView | None:
        """Whose virtual address this is."""
        ...

    def service_named(self, key: str) -> ServiceView | None:
        """The service of this key, ``namespace/hostname``."""
        ...


def bound_waypoint(service: Service, draw: float) -> tuple[GatewayAddress, float] | None:
    """The waypoint that a service's connections go to, and what is left of the chance; None if it is bound to none.

    Args:
        service: bound to one waypoint, or to several by weight.
        draw: uniform in [0, 1).
    """
    if service.weighted_waypoints:
        return _weighted(service.weighted_waypoints, draw)
    return None if service.waypoint is None else (service.waypoint, draw)


def route_to_waypoint(
    view: MeshView,
    bound: str,
    gateway: GatewayAddress,
    source: Workload,
    destination: OriginalDestination,
    draw: float,
    service_key: str | None = None,
) -> ToWorkload:
    """The way to one replica of a waypoint.

    Args:
        view: the mesh as known now.
        bound: what is bound to it, for the error: ``service demo/echo...``.
        gateway: where the waypoint is.
        source: the pod that dials.
        destination: what it dialled; the CONNECT names it.
        draw: uniform in [0, 1).
        service_key: of the service that was dialled, if one was.

    Raises:
        WaypointUnavailable: no replica can be reached now; the text says why.
    """
    to = gateway.destination
    if isinstance(to, NamespacedHostname):
        found = view.service_named(str(to))
    else:
        workload = view.workload_at(to.network, to.ip)
        if workload is not None:
            return _through(route_to(workload, to.ip, gateway.hbone_mtls_port), bound, destination, service_key)
        found = view.service_at(to.network, to.ip)
    if found is None or found.service is None:
        raise WaypointUnavailable(
            f"{bound} is bound to waypoint {gateway_name(gateway)}, which does not exist (yet): is its Gateway there, "
            "and accepted?"
        )
    if gateway.hbone_mtls_port not in found.ports:
        raise WaypointUnavailable(
            f"{bound} is bound to waypoint {gateway_name(gateway)}, whose Service has no port {gateway.hbone_mtls_port}"
        )
    pool = found.pool(found.service, gateway.hbone_mtls_port, ipv4=is_ipv4(destination.ip), source=source)
    route = pool.pick(draw)
    if route is None:
        raise WaypointUnavailable(
            f"{bound} is bound to waypoint {gateway_name(gateway)}, and none of its {len(found.endpoints)} replicas "
            "is ready"
        )
    return _through(route, bound, destination, service_key)


def gateway_name(gateway: GatewayAddress) -> str:
    """For people: ``namespace/hostname`` or the address."""
    to = gateway.destination
    return str(to) if isinstance(to, NamespacedHostname) else format_ip(to.ip)


def _through(route: ToWorkload, bound: str, destination: OriginalDestination, service_key: str | None) -> ToWorkload:
    if route.workload.tunnel_protocol is not TunnelProtocol.HBONE:
        raise WaypointUnavailable(
            f"{bound} is bound to a waypoint whose replica {route.workload.namespace}/{route.workload.name} is not "
            "described as taking HBONE"
        )
    return replace(route, target=HboneTarget(destination), service_key=service_key, waypoint=True)


def _weighted(waypoints: Sequence[WeightedWaypoint], draw: float) -> tuple[GatewayAddress, float] | None:
    total = sum(waypoint.weight for waypoint in waypoints)
    point = draw * total
    for waypoint in waypoints:
        if point < waypoint.weight:
            return waypoint.destination, point / waypoint.weight
        point -= waypoint.weight
    return None
