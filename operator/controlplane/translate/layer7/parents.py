"""To whom routes are attached: Services, ServiceEntries, and waypoints' Gateways.

A route of a Service's own namespace is its producer's and concerns all clients; one of another namespace is a
consumer's and concerns the clients of that namespace only (GEP-1426). If routes of several types name the same port for
the same clients, only those of the most specific type count: GRPCRoute, HTTPRoute, TLSRoute, TCPRoute.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from controlplane.translate.binding import Waypoint, admits, find_waypoint
from controlplane.translate.facets import parent_facet
from controlplane.translate.layer7.backends import SERVICE, SERVICE_ENTRY
from controlplane.translate.targets import Target, TargetPort, find_entries, find_service
from controlplane.translate.tracking import View
from mesh.model.workload import AppProtocol
from resources.gateway import GATEWAY_GROUP, ParentReference
from resources.objects import Gateway, GRPCRoute, HTTPRoute, ObjectKey, TCPRoute, TLSRoute

Route = HTTPRoute | GRPCRoute | TLSRoute | TCPRoute
ROUTE_KINDS: tuple[type[Route], ...] = (GRPCRoute, HTTPRoute, TLSRoute, TCPRoute)
"""The most specific type first."""
EVERYBODY = ""
"""The audience of a producer's routes; other audiences are namespaces."""

_GATEWAY = (GATEWAY_GROUP, "Gateway")
_HTTP_PORTS = frozenset((AppProtocol.UNKNOWN, AppProtocol.HTTP11, AppProtocol.HTTP2, AppProtocol.GRPC))
CARRIED: dict[type[Route], frozenset[AppProtocol]] = {
    HTTPRoute: _HTTP_PORTS,
    GRPCRoute: _HTTP_PORTS,
    TLSRoute: frozenset((AppProtocol.UNKNOWN, AppProtocol.TLS)),
    TCPRoute: frozenset((AppProtocol.UNKNOWN, AppProtocol.TCP, AppProtocol.TLS)),
}
"""Ports that a type of route can be attached to, by what is spoken there."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """What a parent reference comes to, other routes aside."""

    parent: ParentReference
    object: ObjectKey | None = None
    """The Service or ServiceEntry."""
    waypoint: Waypoint | None = None
    """Whose Gateway the parent is."""
    ports: tuple[int, ...] = ()
    """Of the Service, on which the route counts."""
    reason: str = "Accepted"
    message: str = ""

    @property
    def accepted(self) -> bool:
        """Whether the route is attached."""
        return self.reason == "Accepted"


def attachment(view: View, route: Route, parent: ParentReference) -> Attachment | None:
    """What a parent reference comes to; None for parents that are for others to serve."""
    namespace = parent.namespace or route.metadata.namespace
    kind = (parent.group, parent.kind)
    if kind == SERVICE:
        found = find_service(view, namespace, parent.name)
        return _to_service(route, parent, found)
    if kind == SERVICE_ENTRY:
        entries = find_entries(view, namespace, parent.name)
        return _to_service(route, parent, entries[0] if entries else None)
    if kind == _GATEWAY:
        waypoint = find_waypoint(view, namespace, parent.name)
        return _to_gateway(view, route, parent, waypoint) if waypoint else None
    return None


def audience(route: Route, target_namespace: str) -> str:
    """Whose requests a route is for: ``EVERYBODY`` or a namespace."""
    namespace: str = route.metadata.namespace
    return EVERYBODY if namespace == target_namespace else namespace


def attached_routes(view: View, target: ObjectKey, kind: type[Route]) -> Iterator[tuple[Route, Attachment]]:
    """The routes of a type that count for a Service or ServiceEntry, others aside, the oldest first."""
    for route in view.having(kind, parent_facet(target.kind, target.namespace, target.name)):
        for parent in route.spec.parent_refs:
            found = attachment(view, route, parent)
            if found is not None and found.accepted and found.object == target:
                yield route, found


def outranked(view: View, route: Route, found: Attachment) -> tuple[int, ...]:
    """The ports on which routes of a more specific type for the same clients leave nothing to this one."""
    if found.object is None:
        return ()
    own = audience(route, found.object.namespace)
    taken: set[int] = set()
    for kind in ROUTE_KINDS[: ROUTE_KINDS.index(type(route))]:
        for other, attached in attached_routes(view, found.object, kind):
            if audience(other, found.object.namespace) == own:
                taken.update(attached.ports)
    return tuple(port for port in found.ports if port in taken)


def _to_service(route: Route, parent: ParentReference, target: Target | None) -> Attachment:
    if target is None:
        message = f"the {parent.kind} does not exist, or the mesh does not carry it"
        return Attachment(parent, reason="NoMatchingParent", message=message)
    named = [port for port in target.ports if _is_meant(parent, port)]
    if not named:
        message = "no port of it is the one that port and sectionName name"
        return Attachment(parent, target.object, reason="NoMatchingParent", message=message)
    carried = CARRIED[type(route)]
    ports = tuple(port.number for port in named if port.protocol in carried)
    if not ports:
        message = f"what is spoken on its ports is not for a {type(route).__name__}"
        return Attachment(parent, target.object, reason="NoMatchingParent", message=message)
    return Attachment(parent, target.object, ports=ports)


def _is_meant(parent: ParentReference, port: TargetPort) -> bool:
    return parent.port in (None, port.number) and parent.section_name in (None, "", port.name)


def _to_gateway(view: View, route: Route, parent: ParentReference, waypoint: Waypoint) -> Attachment:
    if not isinstance(route, HTTPRoute | GRPCRoute):
        message = "routes of connections are attached to Services"
        return Attachment(parent, waypoint=waypoint, reason="NotAllowedByListeners", message=message)
    gateway = view.find(Gateway, waypoint.namespace, waypoint.name)
    listeners = [
        one
        for one in (gateway.spec.listeners if gateway else ())
        if parent.section_name in (None, "", one.name) and parent.port in (None, one.port)
    ]
    if not listeners and (parent.section_name or parent.port):
        message = "no listener is the one that port and sectionName name"
        return Attachment(parent, waypoint=waypoint, reason="NoMatchingParent", message=message)
    kinds = [kind.kind for one in listeners if one.allowed_routes for kind in one.allowed_routes.kinds]
    if kinds and type(route).__name__ not in kinds:
        message = f"its listeners admit {', '.join(kinds)} only"
        return Attachment(parent, waypoint=waypoint, reason="NotAllowedByListeners", message=message)
    if not admits(view, waypoint, route.metadata.namespace):
        message = "its listeners do not admit this namespace"
        return Attachment(parent, waypoint=waypoint, reason="NotAllowedByListeners", message=message)
    return Attachment(parent, waypoint=waypoint)
