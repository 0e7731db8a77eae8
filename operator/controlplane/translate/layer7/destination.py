"""Everything a waypoint is told about one thing that it serves."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace

from controlplane.translate.binding import Waypoint, bind
from controlplane.translate.facets import parent_facet
from controlplane.translate.layer7.attached import attached
from controlplane.translate.layer7.authentication import request_authentication
from controlplane.translate.layer7.authorization import request_policy
from controlplane.translate.layer7.destination_rules import upstream_policy
from controlplane.translate.layer7.gateway_rules import translate_rules
from controlplane.translate.layer7.notes import Notes
from controlplane.translate.layer7.parents import (
    EVERYBODY,
    ROUTE_KINDS,
    Attachment,
    Route,
    attached_routes,
    attachment,
    audience,
)
from controlplane.translate.layer7.precedence import Ranked, in_order
from controlplane.translate.layer7.rate_limiting import rate_limits
from controlplane.translate.layer7.stream_routes import streams_in_order, translate_streams
from controlplane.translate.layer7.telemetry import telemetry_of
from controlplane.translate.layer7.virtual_services import virtual_routes
from controlplane.translate.targets import Target, TargetPort, find_host, targets_of
from controlplane.translate.tracking import View
from controlplane.translate.workloads import pod_uid
from mesh.model.http_route import Backend, HttpRoute
from mesh.model.request_policy import ExternalAuthorizer, RequestPolicy
from mesh.model.upstream_policy import UpstreamPolicy
from mesh.model.waypoint import Destination, DestinationPort, StreamRoute
from mesh.model.workload import AppProtocol
from resources import objects
from resources.objects import GRPCRoute, HTTPRoute, ObjectKey, Pod, Service, ServiceEntry, TCPRoute, TLSRoute

_Attached = list[tuple[Route, Attachment]]


def destinations(view: View, value: Service | ServiceEntry | Pod) -> Iterator[Destination]:
    """What its waypoints, usually one or none, are told about an object."""
    if isinstance(value, Pod):
        yield from _workload(view, value)
        return
    for target in targets_of(view, value):
        for waypoint in bind(view, target.metadata, "service").waypoints:
            yield _service(view, value, target, waypoint)


def _service(view: View, value: Service | ServiceEntry, target: Target, waypoint: Waypoint) -> Destination:
    translated = _Rules(view)
    by_kind = {kind: list(attached_routes(view, target.object, kind)) for kind in ROUTE_KINDS}
    fallback = _gateway_routes(view, target, waypoint)
    ports = tuple(_port(view, value, target, port, by_kind, fallback, translated) for port in target.ports)
    common = _common(view, target.object, waypoint)
    return replace(
        common,
        key=target.key,
        hosts=target.hosts,
        ports=ports,
        upstreams=tuple(_upstreams(view, target, ports, common.authorizers, waypoint)),
    )


def _workload(view: View, pod: Pod) -> Iterator[Destination]:
    metadata = pod.metadata
    for waypoint in bind(view, metadata, "workload").waypoints:
        ports = {
            port.container_port: _PORT_NAMES.get(port.name.partition("-")[0].lower(), AppProtocol.UNKNOWN)
            for container in pod.spec.containers
            for port in container.ports
            if port.protocol == "TCP"
        }
        yield replace(
            _common(view, pod.key, waypoint),
            key=pod_uid(metadata.namespace, metadata.name, view.settings),
            ports=tuple(DestinationPort(number=number, protocol=ports[number]) for number in sorted(ports)),
            any_port=True,  # the ports that a pod declares are for information (Kubernetes API, ContainerPort)
        )


def _common(view: View, key: ObjectKey, waypoint: Waypoint) -> Destination:
    """What does not depend on ports and routes."""
    policies: list[RequestPolicy] = []
    authorizers: dict[str, ExternalAuthorizer] = {}
    for source in attached(view, objects.AuthorizationPolicy, key, waypoint):
        policy, authorizer, _ = request_policy(source, view.settings)
        policies.append(policy)
        if authorizer is not None:
            authorizers[authorizer.name] = authorizer
    authentication = [
        request_authentication(one) for one in attached(view, objects.RequestAuthentication, key, waypoint)
    ]
    return Destination(
        key="",
        waypoint=waypoint.key,
        policies=tuple(sorted(policies, key=lambda one: one.key)),
        authentication=tuple(sorted(authentication, key=lambda one: one.key)),
        authorizers=tuple(authorizers[name] for name in sorted(authorizers)),
        telemetry=telemetry_of(view, key, waypoint),
    )


def _port(
    view: View,
    value: Service | ServiceEntry,
    target: Target,
    port: TargetPort,
    by_kind: dict[type[Route], _Attached],
    fallback: list[HTTPRoute | GRPCRoute],
    translated: _Rules,
) -> DestinationPort:
    """One port: Gateway API routes of the most specific type, else VirtualServices, else the waypoint's own routes."""
    virtual = virtual_routes(view, target, port.number)
    http = dict(virtual.http)
    streams: tuple[StreamRoute, ...] = virtual.streams
    protocol = port.protocol
    for who, routes in _winners(target, port.number, by_kind).items():
        kept = [route for route in routes if isinstance(route, HTTPRoute | GRPCRoute)]
        if kept:
            http[who] = in_order(ranked for route in kept for ranked in translated.of(route))
        elif who == EVERYBODY:
            http.pop(who, None)
            connections = [route for route in routes if isinstance(route, TCPRoute | TLSRoute)]
            streams = tuple(one for route in connections for one in translate_streams(view, Notes(route.key), route))
            if protocol is AppProtocol.UNKNOWN:
                protocol = AppProtocol.TLS if isinstance(connections[0], TLSRoute) else AppProtocol.TCP
    if not http and not streams and fallback:
        http[EVERYBODY] = in_order(ranked for route in fallback for ranked in translated.of(route))
    limits = rate_limits(value)
    if limits:
        name = f"{target.namespace}/{target.object.name}/default"
        default = HttpRoute(name=name, backends=(Backend(service=target.key, port=port.number),))
        http.setdefault(EVERYBODY, (default,))
        http = {
            who: tuple(replace(route, rate_limits=limits + route.rate_limits) for route in routes)
            for who, routes in http.items()
        }
    return DestinationPort(
        number=port.number,
        protocol=protocol,
        routes=http.pop(EVERYBODY, ()),
        consumer_routes=tuple(sorted(http.items())),
        stream_routes=streams_in_order(streams),
    )


def _winners(target: Target, port: int, by_kind: dict[type[Route], _Attached]) -> dict[str, list[Route]]:
    """By audience, the routes of the most specific type that are attached to a port."""
    result: dict[str, list[Route]] = {}
    for kind in ROUTE_KINDS:
        found: defaultdict[str, dict[ObjectKey, Route]] = defaultdict(dict)
        for route, one in by_kind[kind]:
            if port in one.ports:
                found[audience(route, target.namespace)][route.key] = route
        for who, routes in found.items():
            result.setdefault(who, list(routes.values()))
    return result


def _gateway_routes(view: View, target: Target, waypoint: Waypoint) -> list[HTTPRoute | GRPCRoute]:
    """Routes that are attached to the waypoint itself, for the hosts that they name, or all."""
    facet = parent_facet("Gateway", waypoint.namespace, waypoint.name)

    def counts(route: HTTPRoute | GRPCRoute) -> bool:
        attachments = (attachment(view, route, parent) for parent in route.spec.parent_refs)
        here = any(one is not None and one.accepted and one.waypoint == waypoint for one in attachments)
        return here and _names_host(route.spec.hostnames, target)

    calls = [route for route in view.having(GRPCRoute, facet) if counts(route)]
    return [*calls] or [route for route in view.having(HTTPRoute, facet) if counts(route)]


def _names_host(hostnames: tuple[str, ...], target: Target) -> bool:
    return not hostnames or any(
        host == name or (name.startswith("*.") and host.endswith(name[1:]))
        for host in target.hosts
        for name in (hostname.lower() for hostname in hostnames)
    )


def _upstreams(
    view: View,
    target: Target,
    ports: tuple[DestinationPort, ...],
    authorizers: tuple[ExternalAuthorizer, ...],
    waypoint: Waypoint,
) -> Iterator[UpstreamPolicy]:
    keys = {target.key, *(one.service for one in authorizers)}
    for port in ports:
        for routes in (port.routes, *(routes for _, routes in port.consumer_routes)):
            for route in routes:
                keys.update(backend.service for backend in route.backends)
                keys.update(mirror.backend.service for mirror in route.mirrors)
        for stream in port.stream_routes:
            keys.update(backend.service for backend in stream.backends)
    for key in sorted(keys):
        namespace, _, host = key.partition("/")
        found = find_host(view, host, namespace)
        policy = upstream_policy(view, found, waypoint.namespace) if found is not None and found.key == key else None
        if policy is not None:
            yield policy


class _Rules:
    """The rules of routes, each route's translated once for all ports."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._known: dict[ObjectKey, list[Ranked]] = {}

    def of(self, route: HTTPRoute | GRPCRoute) -> list[Ranked]:
        """A route's rules."""
        if route.key not in self._known:
            self._known[route.key] = translate_rules(self._view, Notes(route.key), route)
        return self._known[route.key]


_PORT_NAMES = {
    "http": AppProtocol.HTTP11,
    "http2": AppProtocol.HTTP2,
    "h2c": AppProtocol.HTTP2,
    "grpc": AppProtocol.GRPC,
    "tcp": AppProtocol.TCP,
    "https": AppProtocol.TLS,
    "tls": AppProtocol.TLS,
}
