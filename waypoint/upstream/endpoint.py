"""One endpoint of a service's port, and how they are read from the state of the mesh."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mesh import ports
from mesh.addresses import HboneTarget, SocketAddress
from mesh.model.service import HealthPolicy
from mesh.model.workload import HealthStatus, TunnelProtocol, Workload
from mesh.state.routes import ToWorkload
from mesh.state.service_index import ServiceView, pick_address
from waypoint.wire.dialling import Connector

LabelsOf = Callable[[str], Mapping[str, str]]
"""The labels of a workload by its uid; empty if it has none."""


class Endpoint:
    """An endpoint with what this replica has seen of it. The object stays the same while the endpoint is there."""

    __slots__ = (
        "active",
        "connector",
        "consecutive_5xx",
        "consecutive_gateway_errors",
        "consecutive_local_failures",
        "ejected_until",
        "ejections",
        "healthy",
        "joined",
        "key",
        "locality",
        "requests",
        "successes",
        "to",
        "usable",
        "weight",
    )

    def __init__(self, to: ToWorkload, now: float) -> None:
        """Begin with a clean slate.

        Args:
            to: where it is and who it must prove to be.
            now: when it was first seen, on the monotonic clock.
        """
        self.key = to.workload.uid
        """The workload's uid."""
        self.to = to
        self.weight = to.workload.capacity
        locality = to.workload.locality
        self.locality = (locality.region, locality.zone, locality.subzone)
        self.joined = now
        self.active = 0
        """Requests under way; whoever sends one counts it up and down."""
        self.connector: Connector | None = None
        """What makes the connections for requests; None until there was one."""
        self.healthy = True
        """By active health checks."""
        self.ejected_until = 0.0
        """By outlier detection; 0: not ejected."""
        self.ejections = 0
        """How often, less what good behaviour has forgiven."""
        self.usable = True
        """Healthy and not ejected."""
        self.consecutive_5xx = 0
        self.consecutive_gateway_errors = 0
        self.consecutive_local_failures = 0
        self.requests = 0
        """Answers since the last sweep of outlier detection."""
        self.successes = 0

    def settle(self) -> bool:
        """Bring ``usable`` up to date. Returns whether it has changed."""
        usable = self.healthy and not self.ejected_until
        changed = usable is not self.usable
        self.usable = usable
        return changed


def routes_of(
    view: ServiceView,
    port: int,
    network: str,
    *,
    ipv4: bool = True,
    labels: tuple[tuple[str, str], ...] = (),
    labels_of: LabelsOf = lambda uid: {},
) -> list[ToWorkload]:
    """Where the ready endpoints of a service's port are.

    Args:
        view: the service.
        port: as clients dial it.
        network: the waypoint's; endpoints elsewhere are not reachable.
        ipv4: which address of an endpoint with several is preferred.
        labels: all of which an endpoint must have (a subset).
        labels_of: where labels are found.
    """
    service = view.service
    if service is None or port not in view.ports:
        return []
    everybody = service.load_balancing.health_policy is HealthPolicy.ALLOW_ALL
    routes = []
    for endpoint in view.endpoints.values():
        if not endpoint.addresses or endpoint.network != network or endpoint.capacity <= 0:
            continue
        if endpoint.status is not HealthStatus.HEALTHY and not everybody:
            continue
        if labels:
            have = labels_of(endpoint.uid)
            if any(have.get(name) != value for name, value in labels):
                continue
        target_port = _target_port(view, endpoint, port)
        if target_port:
            routes.append(_route(view, endpoint, target_port, ipv4=ipv4))
    return routes


def _target_port(view: ServiceView, endpoint: Workload, port: int) -> int:
    for entry in endpoint.services[view.key]:
        if entry.service_port == port and entry.target_port:
            return entry.target_port
    return view.ports[port]


def _route(view: ServiceView, endpoint: Workload, port: int, *, ipv4: bool) -> ToWorkload:
    ip = pick_address(endpoint, ipv4=ipv4)
    also = view.service.subject_alt_names if view.service is not None else ()
    tunnelled = endpoint.tunnel_protocol is TunnelProtocol.HBONE
    return ToWorkload(
        workload=endpoint,
        target=HboneTarget(SocketAddress(ip, port)),
        tunnel=SocketAddress(ip, ports.HBONE) if tunnelled else None,
        expected_identities=frozenset((endpoint.identity, *also)),
        service_key=view.key,
    )
