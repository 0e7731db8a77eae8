"""What of a VirtualService or DestinationRule has no effect."""

from __future__ import annotations

from collections.abc import Sequence

from controlplane.translate.binding import bind
from controlplane.translate.facets import full_host
from controlplane.translate.finding import Finding
from controlplane.translate.layer7.notes import Notes
from controlplane.translate.layer7.parents import EVERYBODY, ROUTE_KINDS, attached_routes
from controlplane.translate.layer7.virtual_services import audiences, http_routes, in_mesh, stream_routes
from controlplane.translate.targets import Target, find_host
from controlplane.translate.tracking import View
from resources.objects import VirtualService


def virtual_service_findings(view: View, value: VirtualService) -> tuple[Finding, ...]:
    """What the author of a VirtualService should know."""
    notes = Notes(value.key)
    if not in_mesh(value):
        notes.not_applied("it is for gateways only, and this mesh has none of Istio's")
        return tuple(notes.findings)
    for host in value.spec.hosts:
        full = full_host(host, value.metadata.namespace, view.settings)
        if full.startswith("*"):
            continue
        target = find_host(view, full, value.metadata.namespace)
        if target is None:
            notes.unsupported(f"host {host!r} is no service of the mesh: its routes have no effect there")
        else:
            _for_target(view, notes, value, target)
    for stream in (*value.spec.tls, *value.spec.tcp):
        if not stream.route:
            notes.unsupported("a route without destination takes no connection")
    for port in _ports(view, value):
        for _ in http_routes(view, notes, value, port):
            pass
        for _ in stream_routes(view, notes, value, port):
            pass
    return tuple(notes.findings)


def _ports(view: View, value: VirtualService) -> Sequence[int | None]:
    numbers: set[int] = set()
    for host in value.spec.hosts:
        full = full_host(host, value.metadata.namespace, view.settings)
        target = None if full.startswith("*") else find_host(view, full, value.metadata.namespace)
        numbers.update(port.number for port in (target.ports if target else ()))
    return sorted(numbers) or [None]


def _for_target(view: View, notes: Notes, value: VirtualService, target: Target) -> None:
    if not bind(view, target.metadata, "service").waypoints:
        notes.not_applied(f"{target.hostname} goes through no waypoint, so these routes have no effect on it")
    who = audiences(value, target)
    if who == (value.metadata.namespace,) and value.metadata.namespace != target.namespace:
        notes.unsupported(
            f"{target.hostname} is of another namespace: only clients of {value.metadata.namespace} are concerned"
        )
    if (value.spec.tls or value.spec.tcp) and EVERYBODY not in who:
        notes.unsupported(f"tls and tcp routes concern all clients of {target.hostname} or none: here none")
    if any(True for kind in ROUTE_KINDS for _ in attached_routes(view, target.object, kind)):
        notes.not_applied(
            f"Gateway API routes are attached to {target.hostname} too: on their ports they count and these routes do "
            "not; keep one of both"
        )
