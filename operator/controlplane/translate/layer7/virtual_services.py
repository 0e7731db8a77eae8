"""VirtualServices of a host: who is concerned, delegates, order.

Within a VirtualService the order is its author's; several for one host follow one another, the oldest first. One in the
service's namespace concerns the clients that ``exportTo`` admits, by default all. One in another namespace concerns the
clients of its own namespace only, as a consumer's route of the Gateway API does: what somebody else may make of a
service's traffic ends at his own clients. (Istio lets it concern every namespace it is exported to.)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec

from controlplane.translate.facets import WILDCARD, full_host, host_facet
from controlplane.translate.layer7.backends import destination_backend
from controlplane.translate.layer7.notes import Notes
from controlplane.translate.layer7.parents import EVERYBODY
from controlplane.translate.layer7.precedence import merged
from controlplane.translate.layer7.rate_limiting import rate_limits
from controlplane.translate.layer7.virtual_http import translate_http
from controlplane.translate.layer7.virtual_matches import MESH_GATEWAY, joined
from controlplane.translate.targets import Target
from controlplane.translate.tracking import View
from mesh.model.http_route import HttpRoute, RateLimit
from mesh.model.waypoint import StreamRoute
from resources.objects import VirtualService
from resources.virtual_service import HttpMatchRequest, VirtualHttpRoute, VirtualStreamRoute

_INHERITED = (
    "rewrite", "timeout", "retries", "fault", "mirror", "mirrors", "mirror_percent", "mirror_percentage",
    "cors_policy", "headers",
)  # fmt: skip


@dataclass(slots=True)
class VirtualRoutes:
    """What the VirtualServices of a host say about one port, by audience."""

    http: dict[str, tuple[HttpRoute, ...]] = field(default_factory=dict)
    streams: tuple[StreamRoute, ...] = ()


def virtual_services_of(view: View, target: Target) -> list[VirtualService]:
    """Those that count for a host: of the exact name, else of the longest wildcard."""
    exact = [one for one in view.having(VirtualService, host_facet(target.hostname)) if in_mesh(one)]
    if exact:
        return exact
    by_length: dict[int, list[VirtualService]] = {}
    for one in view.having(VirtualService, host_facet(WILDCARD)):
        lengths = [
            len(host)
            for host in (full_host(host, one.metadata.namespace, view.settings) for host in one.spec.hosts)
            if host.startswith("*") and target.hostname.endswith(host[1:])
        ]
        if lengths and in_mesh(one):
            by_length.setdefault(max(lengths), []).append(one)
    return by_length[max(by_length)] if by_length else []


def in_mesh(value: VirtualService) -> bool:
    """Whether a VirtualService is for the mesh, not for ingress gateways only."""
    return not value.spec.gateways or MESH_GATEWAY in value.spec.gateways


def audiences(value: VirtualService, target: Target) -> tuple[str, ...]:
    """Whose requests a VirtualService concerns: ``EVERYBODY``, or namespaces."""
    own = value.metadata.namespace
    if own != target.namespace:
        return (own,)
    exported = value.spec.export_to
    if not exported or "*" in exported:
        return (EVERYBODY,)
    return tuple(sorted({own if name == "." else name for name in exported} - {"~"}))


def virtual_routes(view: View, target: Target, port: int | None) -> VirtualRoutes:
    """All that VirtualServices say about one port of a host."""
    by_audience: dict[str, list[HttpRoute]] = {}
    streams: list[StreamRoute] = []
    for value in virtual_services_of(view, target):
        notes = Notes(value.key)
        http = list(http_routes(view, notes, value, port))
        for audience in audiences(value, target):
            if http:
                by_audience.setdefault(audience, []).extend(http)
            if audience == EVERYBODY:
                streams += stream_routes(view, notes, value, port)
    return VirtualRoutes({who: merged(routes) for who, routes in by_audience.items()}, tuple(streams))


def http_routes(view: View, notes: Notes, value: VirtualService, port: int | None) -> Iterator[HttpRoute]:
    """The HTTP routes of one VirtualService, delegates put in their places."""
    for index, (route, owner, rule, limits) in enumerate(_with_delegates(view, notes, value)):
        owner_notes = notes if owner.key == value.key else Notes(owner.key)
        name = f"{owner.metadata.namespace}/{owner.metadata.name}/{rule}"
        yield from translate_http(view, owner_notes, route, name, port, limits, f"http[{index}]")


def stream_routes(view: View, notes: Notes, value: VirtualService, port: int | None) -> Iterator[StreamRoute]:
    """The TLS and TCP routes of one VirtualService."""
    for kind, routes in (("tls", value.spec.tls), ("tcp", value.spec.tcp)):
        for index, route in enumerate(routes):
            place = f"{kind}[{index}]"
            backends = tuple(
                destination_backend(view, notes, one.destination, weight, port, f"{place}.route[{position}]")
                for position, one in enumerate(route.route)
                if (weight := one.weight or (1 if len(route.route) == 1 else 0))
            )
            name = f"{value.metadata.namespace}/{value.metadata.name}/{place}"
            for server_names in _stream_matches(notes, route, port, place):
                yield StreamRoute(name=name, server_names=server_names, backends=backends)


def _stream_matches(notes: Notes, route: VirtualStreamRoute, port: int | None, place: str) -> Iterator[tuple[str, ...]]:
    if not route.match:
        yield ()
    for index, match in enumerate(route.match):
        narrower = match.destination_subnets or match.source_labels or match.source_namespace or match.source_subnet
        if narrower:
            message = "destinationSubnets, sourceLabels, sourceNamespace and sourceSubnet are not supported"
            notes.unsupported(f"{place}.match[{index}]: {message}: this match takes no connection")
        elif (port is None or match.port in (None, port)) and (not match.gateways or MESH_GATEWAY in match.gateways):
            yield tuple(name.lower() for name in match.sni_hosts)


def _with_delegates(
    view: View, notes: Notes, value: VirtualService
) -> Iterator[tuple[VirtualHttpRoute, VirtualService, str, tuple[RateLimit, ...]]]:
    for index, route in enumerate(value.spec.http):
        rule = route.name or str(index)
        limits = rate_limits(value, route.name or None)
        if route.delegate is None:
            yield route, value, rule, limits
            continue
        namespace = route.delegate.namespace or value.metadata.namespace
        named = f"{namespace}/{route.delegate.name}"
        delegate = view.find(VirtualService, namespace, route.delegate.name)
        if delegate is None or delegate.spec.hosts or not _lends(delegate, value.metadata.namespace):
            reason = "does not exist, has hosts of its own, or is not exported to this namespace"
            notes.dangling("DelegateNotFound", f"http[{index}].delegate: VirtualService {named} {reason}")
            continue
        for position, inner in enumerate(delegate.spec.http):
            place = f"http[{index}].delegate: route {position} of {named}"
            if inner.delegate is not None:
                notes.unsupported(f"{place}: a delegate's route cannot delegate further; it is left out")
                continue
            matches = joined(route.match, inner.match)
            if matches is None:
                notes.unsupported(f"{place}: its match contradicts the delegating route's; it is left out")
                continue
            own = rate_limits(delegate, inner.name or None)
            yield _inherit(route, inner, matches), delegate, inner.name or str(position), (*limits, *own)


def _lends(delegate: VirtualService, namespace: str) -> bool:
    exported = delegate.spec.export_to
    return delegate.metadata.namespace == namespace or not exported or "*" in exported or namespace in exported


def _inherit(outer: VirtualHttpRoute, inner: VirtualHttpRoute, matches: list[HttpMatchRequest]) -> VirtualHttpRoute:
    """The delegate's route, with what it does not say taken from the route that delegates."""
    changes = {name: getattr(inner, name) or getattr(outer, name) for name in _INHERITED}
    return msgspec.structs.replace(inner, match=tuple(matches), **changes)
