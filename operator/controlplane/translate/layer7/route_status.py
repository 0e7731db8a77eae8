"""What became of a route: its status, a value for each parent, and findings."""

from __future__ import annotations

from controlplane.translate.binding import bind
from controlplane.translate.finding import Finding
from controlplane.translate.layer7.gateway_rules import translate_rules
from controlplane.translate.layer7.notes import Notes
from controlplane.translate.layer7.parents import EVERYBODY, Attachment, Route, attachment, audience, outranked
from controlplane.translate.layer7.stream_routes import translate_streams
from controlplane.translate.status import ObjectStatus, ParentStatus, StatusCondition
from controlplane.translate.tracking import View
from resources.objects import GRPCRoute, HTTPRoute, Service, ServiceEntry


def route_status(view: View, route: Route) -> tuple[ObjectStatus, tuple[Finding, ...]]:
    """The status of a route, and what of it has no effect."""
    notes = Notes(route.key)
    if isinstance(route, HTTPRoute | GRPCRoute):
        translate_rules(view, notes, route)
    else:
        translate_streams(view, notes, route)
    if isinstance(route, HTTPRoute | GRPCRoute) and route.spec.hostnames and _has_service_parent(route):
        notes.unsupported("hostnames have no effect on a Service as the parent (GEP-1426)")
    parents = []
    for parent in route.spec.parent_refs:
        found = attachment(view, route, parent)
        if found is not None:
            accepted = _accepted(view, notes, route, found)
            parents.append(ParentStatus(parent, (accepted, *_others(notes, accepted))))
    return ObjectStatus(parents=tuple(parents)), tuple(notes.findings)


def _accepted(view: View, notes: Notes, route: Route, found: Attachment) -> StatusCondition:
    named = f"parent {found.parent.kind} {found.parent.namespace or route.metadata.namespace}/{found.parent.name}"

    def refused(reason: str, message: str) -> StatusCondition:
        notes.not_applied(f"{named}: {reason}: {message}")
        return StatusCondition("Accepted", False, reason, message)

    if not found.accepted:
        return refused(found.reason, found.message)
    lost = outranked(view, route, found)
    if lost and set(lost) == set(found.ports):
        return refused("Conflicted", "routes of a more specific type are attached to the same ports")
    if lost:
        notes.unsupported(f"{named}: on the ports {lost} routes of a more specific type count instead")
    if found.object is not None:
        if not isinstance(route, HTTPRoute | GRPCRoute) and audience(route, found.object.namespace) != EVERYBODY:
            return refused("UnsupportedValue", "routes of connections are for the Services of their own namespace")
        kind = Service if found.object.kind == "Service" else ServiceEntry
        parent = view.find(kind, found.object.namespace, found.object.name)
        if parent is not None and not bind(view, parent.metadata, "service").waypoints:
            notes.not_applied(f"{named} goes through no waypoint, so this route has no effect on it")
    return StatusCondition("Accepted", True, "Accepted")


def _others(notes: Notes, accepted: StatusCondition) -> tuple[StatusCondition, ...]:
    """Whether its references lead somewhere, and whether all of it is served."""
    if notes.unresolved:
        reason, message = notes.unresolved[0]
        resolved = StatusCondition("ResolvedRefs", False, reason, message)
    else:
        resolved = StatusCondition("ResolvedRefs", True, "ResolvedRefs")
    if notes.refused and accepted.status:
        return resolved, StatusCondition("PartiallyInvalid", True, "UnsupportedValue", notes.refused)
    return (resolved,)


def _has_service_parent(route: HTTPRoute | GRPCRoute) -> bool:
    return any(parent.kind == "Service" for parent in route.spec.parent_refs)
