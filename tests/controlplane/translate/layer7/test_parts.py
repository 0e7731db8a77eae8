"""The functions that a destination is composed of, one by one."""

from __future__ import annotations

from controlplane.testing.routes import MESH, V1, objects_of, policy, route, translated, view_of
from controlplane.translate.binding import Waypoint
from controlplane.translate.layer7.attached import attached
from controlplane.translate.layer7.authentication import authentication_findings, request_authentication
from controlplane.translate.layer7.authorization import authorization_findings, request_policy
from controlplane.translate.layer7.backends import destination_backend, is_granted, referenced_backend
from controlplane.translate.layer7.destination import destinations
from controlplane.translate.layer7.filters import path_rewrite, translate_filters
from controlplane.translate.layer7.gateway_rules import translate_rules
from controlplane.translate.layer7.notes import Notes
from controlplane.translate.layer7.parents import EVERYBODY, attachment, audience, outranked
from controlplane.translate.layer7.rate_limiting import rate_limits
from controlplane.translate.layer7.route_status import route_status
from controlplane.translate.layer7.stream_routes import streams_in_order, translate_streams
from controlplane.translate.layer7.telemetry import telemetry_of
from controlplane.translate.layer7.virtual_findings import virtual_service_findings
from controlplane.translate.layer7.virtual_http import translate_http
from controlplane.translate.layer7.virtual_services import audiences, virtual_routes
from controlplane.translate.settings import MeshSettings
from controlplane.translate.targets import find_host, find_service
from mesh.model.http_route import Backend, PathRewrite
from mesh.model.waypoint import StreamRoute, Telemetry
from resources import objects
from resources.gateway import BackendReference
from resources.objects import HTTPRoute, ObjectKey, Service, TLSRoute, VirtualService
from resources.routes import PathModifier, RouteFilter
from resources.virtual_service import Destination

KEY = ObjectKey("HTTPRoute", "shop", "r")
WEB = ObjectKey("Service", "shop", "web")
WAYPOINT = Waypoint("shop", "waypoint", "ambimesh-waypoint", "service")


def http_route(text: str) -> HTTPRoute:
    [found] = objects_of(text).of_kind(HTTPRoute)
    return found


def test_references() -> None:
    view = view_of(translated())
    notes = Notes(KEY)
    own = BackendReference(name="v1", port=80)
    assert referenced_backend(view, notes, own, 3, "here") == Backend(
        service="shop/v1.shop.svc.cluster.local", port=80, weight=3
    )
    assert notes.findings == []
    far = BackendReference(name="v1", namespace="b", port=80)
    assert referenced_backend(view, notes, far, 3, "here").invalid
    assert notes.unresolved[0][0] == "RefNotPermitted"
    assert not is_granted(view, "HTTPRoute", "shop", far, "b")
    assert destination_backend(view, notes, Destination(host="web"), 1, None, "here").port == 80
    assert destination_backend(view, notes, Destination(host="web"), 1, 90, "here").port == 90


def test_filters() -> None:
    view, notes = view_of(translated()), Notes(KEY)
    found = translate_filters(view, notes, [RouteFilter(type="ExternalAuth", external_auth={})], "rules[0]")
    assert "ExternalAuth are not supported" in found.refused
    assert path_rewrite(PathModifier(type="ReplacePrefixMatch", replace_prefix_match="")) == PathRewrite(prefix="")
    assert path_rewrite(None) is None


def test_rules_and_status_of_one_route() -> None:
    text = route(f"[{{{V1}}}]")
    value, view = http_route(text), view_of(translated(text))
    [ranked] = translate_rules(view, Notes(KEY), value)
    assert ranked.route.name == "shop/r/0"
    status, found = route_status(view, value)
    assert [str(one) for one in status.parents[0].conditions] == [
        "Accepted=True (Accepted)",
        "ResolvedRefs=True (ResolvedRefs)",
    ]
    assert found == ()


def test_attachments() -> None:
    text = route(f"[{{{V1}}}]") + route(f"[{{{V1}}}]", kind="GRPCRoute", name="g")
    value, view = http_route(text), view_of(translated(text))
    found = attachment(view, value, value.spec.parent_refs[0])
    assert found is not None
    assert (found.object, found.ports, found.accepted) == (WEB, (80,), True)
    assert outranked(view, value, found) == (80,)
    assert audience(value, "shop") == EVERYBODY
    assert audience(value, "b") == "shop"


def test_connections_by_server_name() -> None:
    text = route("[{backendRefs: [{name: v1, port: 80}]}, {}]", kind="TLSRoute")
    [value] = objects_of(text).of_kind(TLSRoute)
    notes = Notes(value.key)
    [first] = translate_streams(view_of(translated(text)), notes, value)
    assert first.server_names == ()
    assert "rules[1]" in notes.findings[0].message
    several = [StreamRoute(name="a", server_names=("*.x", "*.y.x")), StreamRoute(name="b", server_names=("z.x",))]
    assert [one.server_names[0] for one in streams_in_order([first, *several][1:])] == ["z.x", "*.y.x", "*.x"]


def test_policies_of_one_object() -> None:
    text = policy("targetRefs: [{kind: Service, name: web}], rules: [{}]") + policy(
        "targetRefs: [{kind: Service, name: web}], jwtRules: [{issuer: i, timeout: soon}]",
        kind="RequestAuthentication",
    )
    view = view_of(translated(text))
    [found] = attached(view, objects.AuthorizationPolicy, WEB, WAYPOINT)
    assert authorization_findings(view, found) == ()
    assert request_policy(found, MeshSettings())[0].key == "shop/p"
    [tokens] = attached(view, objects.RequestAuthentication, WEB, WAYPOINT)
    assert request_authentication(tokens).rules[0].timeout_seconds == 5.0
    assert "soon" in authentication_findings(view, tokens)[0].message
    assert telemetry_of(view, WEB, WAYPOINT) == Telemetry()
    assert list(attached(view, objects.AuthorizationPolicy, ObjectKey("Pod", "shop", "web"), WAYPOINT)) == []


def test_limits_of_what_has_none() -> None:
    [service, *_] = objects_of(MESH).of_kind(Service)
    assert rate_limits(service) == ()


def test_a_virtual_service_alone() -> None:
    text = """
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: vs, namespace: shop}
spec: {hosts: [web], http: [{route: [{destination: {host: v1}}]}]}
"""
    view = view_of(translated(text))
    [value] = objects_of(text).of_kind(VirtualService)
    target = find_service(view, "shop", "web")
    assert target is not None
    assert audiences(value, target) == (EVERYBODY,)
    assert virtual_service_findings(view, value) == ()
    [found] = virtual_routes(view, target, 80).http[EVERYBODY]
    assert [found] == list(translate_http(view, Notes(value.key), value.spec.http[0], found.name, 80, (), "http[0]"))


def test_what_is_called_by_which_host() -> None:
    view = view_of(translated())
    found = find_host(view, "web.shop.svc.cluster.local", "b")
    assert found is not None
    assert found.object == WEB
    assert [port.number for port in found.ports] == [80, 90]
    assert find_host(view, "web.shop", "shop") is None
    assert [one.waypoint for one in destinations(view, next(objects_of(MESH).of_kind(Service)))] == ["shop/waypoint"]
