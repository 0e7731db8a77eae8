"""Everything about waypoints, incrementally: as after a fresh translation, and no more of it than a change concerns."""

from __future__ import annotations

import json
import textwrap

from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.testing.routes import translated
from controlplane.translate.advice import advice_on
from controlplane.translate.delta import resource_name, result_key
from controlplane.translate.facets import facets_of, host_facet
from controlplane.translate.outcome import NOTHING
from controlplane.translate.settings import MeshSettings
from controlplane.translate.status import CONTROLLER_NAME
from controlplane.translate.tracking import Node, Tracker
from controlplane.translate.translator import Translator
from mesh.addresses import parse_ip
from mesh.identity import SpiffeId
from mesh.model.request_policy import ExternalAuthorizer, RequestAction, RequestPolicy
from mesh.model.waypoint import Destination, DestinationPort
from mesh.model.workload import Workload
from mesh.rbac import ConnectionFacts, Deny, PolicySet, compile_policy, decide
from mesh.testing.ca import TestAuthority
from resources.base import ObjectMeta
from resources.decode import decode_documents
from resources.object_set import ObjectSet
from resources.objects import HTTPRoute, KubernetesObject, Namespace, ObjectKey, ServiceAccount
from resources.routes import HttpRouteSpec

SETTINGS = MeshSettings(authorizers=(ExternalAuthorizer(name="asker", service="a/b", port=1, grpc=True),))


def decoded(text: str) -> list[KubernetesObject]:
    objects, problems = decode_documents(textwrap.dedent(text), "f")
    assert [str(problem) for problem in problems] == []
    return objects


def gateway_api(kind: str, name: str, spec: str, version: str = "v1", **metadata: str) -> str:
    return piece(f"gateway.networking.k8s.io/{version}", kind, name, spec, **metadata)


def piece(version: str, kind: str, name: str, spec: str, **metadata: str) -> str:
    more = "".join(f", {key}: {value}" for key, value in metadata.items())
    return f"{{apiVersion: {version}, kind: {kind}, metadata: {{name: {name}{more}}}, spec: {{{spec}}}}}"


LISTENER = "{name: mesh, port: 15008, protocol: HBONE}"
OPEN = "{name: mesh, port: 15008, protocol: HBONE, allowedRoutes: {namespaces: {from: All}}}"
TO_WEB = "parentRefs: [{group: '', kind: Service, name: web, namespace: a}]"
TO_WAYPOINT = "parentRefs: [{name: w, namespace: a}]"
BACKEND = (
    "backendRefs: [{name: v1, namespace: a, port: 80}, {name: entry, kind: ServiceEntry, group: networking.istio.io}]"
)
TARGETS = (
    "[{kind: Service, name: web}]",
    "[{kind: Gateway, group: gateway.networking.k8s.io, name: w}]",
    "[{kind: GatewayClass, group: gateway.networking.k8s.io, name: ambimesh-waypoint}]",
    "[{kind: ServiceEntry, group: networking.istio.io, name: entry}]",
)
NAMESPACES = ("a", "b", "istio-system")
PIECES = [
    *(
        f"{{apiVersion: v1, kind: Namespace, metadata: {{name: a, labels: {{{labels}}}, annotations: {{{notes}}}}}}}"
        for labels in ("", "istio.io/use-waypoint: w", "istio.io/use-waypoint: w, istio.io/use-waypoint-canary: c")
        for notes in ("", "istio.io/use-waypoint-canary-weight: '10', ambimesh.dev/waypoint-bypass: b/x")
    ),
    *(
        gateway_api("Gateway", name, f"gatewayClassName: {kind}, listeners: [{listener}]", namespace="a", labels=labels)
        for name in ("w", "c")
        for kind in ("ambimesh-waypoint", "other")
        for listener in (LISTENER, OPEN)
        for labels in ("{}", "{istio.io/waypoint-for: all}", "{istio.io/waypoint-for: workload}")
    ),
    gateway_api("GatewayClass", "ambimesh-waypoint", f"controllerName: {CONTROLLER_NAME}"),
    gateway_api("GatewayClass", "ambimesh-waypoint", "controllerName: x.example/y"),
    *(
        piece("v1", "Service", name, f"ports: [{ports}]", namespace="a", labels=labels, annotations=notes)
        for name in ("web", "v1")
        for ports in ("{name: http, port: 80, targetPort: 8080}", "{name: http, port: 80}, {name: tcp, port: 90}")
        for labels in ("{}", "{istio.io/use-waypoint: none}", "{istio.io/use-waypoint: w}")
        for notes in ("{}", "{ambimesh.dev/rate-limits: '[{name: x, tokens: 5, interval: 1s}]'}")
    ),
    *(
        f"{{apiVersion: v1, kind: Pod, metadata: {{name: p, namespace: a, labels: {{{labels}}}}}, "
        f"spec: {{nodeName: n, containers: [{{name: c, ports: [{{containerPort: 8080}}]}}]}}, "
        "status: {podIP: 10.0.0.1}}"
        for labels in ("app: x", "app: y, istio.io/use-waypoint: w", "gateway.networking.k8s.io/gateway-name: w")
    ),
    *(
        "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, metadata: {name: "
        f"{name}, namespace: a, labels: {{kubernetes.io/service-name: web}}}}, ports: [{{name: http, port: {port}}}], "
        "endpoints: [{addresses: [10.0.0.1], targetRef: {kind: Pod, name: p}}]}"
        for name in ("e", "f")
        for port in (8080, 8081)
    ),
    *(
        piece(
            "networking.istio.io/v1",
            "ServiceEntry",
            name,
            f"hosts: [e.example, web.a.svc.cluster.local], ports: [{{number: 80, name: http, protocol: HTTP}}], {spec}",
            namespace="a",
        )
        for name in ("entry", "other")
        for spec in (
            "resolution: STATIC, endpoints: [{address: 192.0.2.1}]",
            "resolution: STATIC, workloadSelector: {labels: {app: x}}",
            "resolution: DNS",
        )
    ),
    piece(
        "networking.istio.io/v1", "WorkloadEntry", "we", "address: 192.0.2.9, labels: {app: x}", namespace="a"
    ),
    *(
        gateway_api(kind, name, f"{parent}, rules: [{rule}]", namespace=namespace)
        for kind, rules in (
            ("HTTPRoute", (f"{{{BACKEND}}}", "{matches: [{path: {value: /x}}]}")),
            ("GRPCRoute", (f"{{{BACKEND}}}",)),
            ("TCPRoute", (f"{{{BACKEND}}}",)),
            ("TLSRoute", (f"{{{BACKEND}}}",)),
        )
        for name in ("r", "s")
        for namespace in ("a", "b")
        for parent in (TO_WEB, TO_WAYPOINT, f"{TO_WEB[:-2]}, port: 80}}]")
        for rule in rules
    ),
    *(
        gateway_api(
            "ReferenceGrant",
            "grant",
            "from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: b}], "
            f"to: [{{group: '', kind: Service, name: {name}}}]",
            "v1beta1",
            namespace="a",
        )
        for name in ("v1", "web")
    ),
    *(
        piece("networking.istio.io/v1", "VirtualService", name, spec, namespace=namespace)
        for name in ("vs", "inner")
        for namespace in ("a", "b")
        for spec in (
            "hosts: [web.a.svc.cluster.local], http: [{route: [{destination: {host: v1.a.svc.cluster.local}}]}]",
            "hosts: ['*.a.svc.cluster.local'], http: [{match: [{uri: {prefix: /}}], redirect: {uri: /x}}]",
            "hosts: [web], http: [{delegate: {name: inner}}], tcp: [{route: [{destination: {host: e.example}}]}]",
            "http: [{directResponse: {status: 204}}]",
        )
    ),
    *(
        piece("networking.istio.io/v1", "DestinationRule", name, f"host: {host}, {spec}", namespace=namespace)
        for name in ("dr", "ds")
        for namespace in NAMESPACES
        for host in ("v1.a.svc.cluster.local", "'*.a.svc.cluster.local'")
        for spec in ("trafficPolicy: {loadBalancer: {simple: RANDOM}}", "subsets: [{name: s, labels: {v: '1'}}]")
    ),
    *(
        gateway_api(
            "BackendTLSPolicy",
            name,
            f"targetRefs: [{{group: '', kind: Service, name: v1}}], validation: {{hostname: v1.example, {trusted}}}",
            namespace="a",
        )
        for name in ("tls", "tlt")
        for trusted in (
            "wellKnownCACertificates: System",
            "caCertificateRefs: [{group: '', kind: ConfigMap, name: roots}]",
        )
    ),
    *(
        f"{{apiVersion: v1, kind: ConfigMap, metadata: {{name: roots, namespace: a}}, data: {{ca.crt: {roots}}}}}"
        for roots in (json.dumps(TestAuthority().roots.decode()), "none")
    ),
    *(
        piece(
            f"{group}/v1", kind, "policy", f"targetRefs: {target}, {spec}" if target else spec, namespace=namespace
        )
        for group, kind, specs in (
            ("security.istio.io", "AuthorizationPolicy", ("rules: [{to: [{operation: {ports: ['80']}}]}], action: DENY",
                                                          "action: CUSTOM, provider: {name: asker}, rules: [{}]")),
            ("security.istio.io", "RequestAuthentication", ("jwtRules: [{issuer: i}]",)),
            ("telemetry.istio.io", "Telemetry", ("tracing: [{randomSamplingPercentage: 5}]",)),
        )
        for namespace in NAMESPACES
        for target in (*TARGETS, "")
        for spec in specs
    ),
]
_DECODED: list[KubernetesObject] = [value for text in PIECES for value in decoded(text)]
# A namespace bound to a waypoint that exists, and a Service: without them most steps would be about nothing.
_BASE = [
    *decoded(piece("v1", "Namespace", "a", "", labels="{istio.io/use-waypoint: w}").replace(", spec: {}", "")),
    *decoded(gateway_api("Gateway", "w", f"gatewayClassName: ambimesh-waypoint, listeners: [{OPEN}]", namespace="a")),
    *decoded(piece("v1", "Service", "web", "ports: [{name: http, port: 80}, {name: any, port: 90}]", namespace="a")),
]


_OPTIONS: dict[ObjectKey, list[KubernetesObject]] = {}
for _value in (*_BASE, *_DECODED):
    _OPTIONS.setdefault(_value.key, []).append(_value)
# Half of the worlds begin with what is bound and governed, so that steps meet something to change.
_WORLDS = st.fixed_dictionaries(
    {key: st.one_of(st.none(), st.sampled_from(options)) for key, options in _OPTIONS.items()}
)
_CHANGES = st.lists(
    st.sampled_from([(key, value) for key, options in _OPTIONS.items() for value in (None, *options)]),
    min_size=1,
    max_size=4,
)


@settings(max_examples=250, deadline=None)
@given(_WORLDS, st.lists(_CHANGES, max_size=5), st.booleans())
def test_incremental_translation_equals_a_fresh_one(
    world: dict[ObjectKey, KubernetesObject | None],
    steps: list[list[tuple[ObjectKey, KubernetesObject | None]]],
    based: bool,
) -> None:
    incremental = Translator(SETTINGS)
    known: dict[tuple[str, str], object] = {}
    objects = ObjectSet()
    base = [(value.key, value) for value in (_BASE if based else ())]
    for step in ([*world.items(), *base], *steps):
        changes = dict(step)
        objects = objects.with_changes(
            [value for value in changes.values() if value is not None],
            [key for key, value in changes.items() if value is None],
        )
        delta = incremental.update(objects)
        for group, removed in (
            ("addresses", delta.addresses_removed),
            ("policies", delta.policies_removed),
            ("destinations", delta.destinations_removed),
            ("labels", delta.labels_removed),
        ):
            for name in removed:
                del known[group, name]
        for value in (
            *delta.addresses_updated,
            *delta.policies_updated,
            *delta.destinations_updated,
            *delta.labels_updated,
        ):
            assert known.get(result_key(value)) != value, "told although nothing changed"
            known[result_key(value)] = value
        fresh = Translator(SETTINGS)
        fresh.update(objects)
        everything = [*fresh.addresses, *fresh.policies, *fresh.destinations, *fresh.labels]
        assert known == {result_key(value): value for value in everything}
        assert list(incremental.findings) == list(fresh.findings)
        assert dict(incremental.statuses) == dict(fresh.statuses)
        nobody_passes_a_governed_waypoint(fresh)


def nobody_passes_a_governed_waypoint(translator: Translator) -> None:
    """What endpoints of a governed port admit, read from the model that waypoints and ztunnels are sent."""
    policies = {policy.key: policy for policy in translator.policies}
    governing: dict[str, list[tuple[Destination, set[int]]]] = {}
    for destination in translator.destinations:
        ports = {port.number for port in destination.ports if any(_may_deny(one, port) for one in destination.policies)}
        governing.setdefault(destination.key, []).append((destination, ports))
    for workload in translator.addresses:
        if not isinstance(workload, Workload):
            continue
        assert set(workload.authorization_policies) <= policies.keys(), "refers to a policy nobody publishes"
        rules = PolicySet.of(compile_policy(policies[key]) for key in workload.authorization_policies)
        for service, endpoints in workload.services.items():
            for destination, ports in governing.get(service, ()):
                waypoint = SpiffeId("cluster.local", *destination.waypoint.split("/"))
                for port in endpoints:
                    # Endpoints of an entry that are no pods have no ztunnel that could close them.
                    if port.service_port in ports and "//Pod/" in workload.uid:
                        stranger = SpiffeId("cluster.local", "a", "stranger")
                        for caller in (stranger, None):
                            assert isinstance(decide(_call(caller, port.target_port), rules), Deny)
                        if not any("_pod_" in key for key in workload.authorization_policies):
                            assert not isinstance(decide(_call(waypoint, port.target_port), rules), Deny)


def _may_deny(policy: RequestPolicy, port: DestinationPort) -> bool:
    """Whether a policy of the pieces above may deny something on a port: those with ports are DENY policies."""
    return policy.action in (RequestAction.DENY, RequestAction.CUSTOM) and any(
        all(
            any(all(port.number in one.ports for one in clause.ports) for clause in part) if part else True
            for part in rule.parts
        )
        for rule in policy.rules
    )


def _call(caller: SpiffeId | None, port: int) -> ConnectionFacts:
    address = parse_ip("10.0.0.1")
    return ConnectionFacts(
        source_ip=address, source_identity=caller, destination_ip=address, destination_port=port
    )


def test_nothing_is_left_behind() -> None:
    translator = Translator(SETTINGS)
    translator.update(ObjectSet(_DECODED))
    translator.update(ObjectSet())
    tracker = translator._tracker
    assert (dict(tracker._readers), dict(tracker._by_facet), tracker._reads) == ({}, {}, {})
    assert (translator._results, translator._findings, translator._statuses) == ({}, {}, {})


def test_a_changed_route_translates_its_destination_and_itself() -> None:
    route = gateway_api(
        "HTTPRoute", "r", "parentRefs: [{group: '', kind: Service, name: web}], rules: [{}]", namespace="shop"
    )
    others = "\n---\n".join(
        piece("v1", "Service", f"s{n}", "ports: [{port: 80}]", namespace="shop") for n in range(50)
    )
    translator = translated(f"{route}\n---\n{others}")
    changed = route.replace("[{}]", "[{}, {}]")
    done: list[tuple[str, str]] = []
    original = translator._translate
    translator._translate = lambda node, value: (done.append((node.task, node.object.name)), original(node, value))[1]  # type: ignore[method-assign,func-returns-value]
    delta = translator.update(translator.objects.with_changes(decoded(changed)))
    assert sorted(done) == [("advice", "r"), ("destination", "web")]
    assert [resource_name(value) for value in delta.destinations_updated] == [
        "shop/waypoint|shop/web.shop.svc.cluster.local"
    ]
    assert (delta.addresses_updated, delta.policies_updated, delta.labels_updated) == ((), (), ())


def test_a_view_notes_what_is_not_there() -> None:
    tracker = Tracker(SETTINGS)
    node = Node("own", ObjectKey("Pod", "a", "p"))
    view = tracker.view(node)
    assert view.find(Namespace, "", "a") is None
    assert view.having(HTTPRoute, ("parent", "Service", "a", "web")) == []
    view.close()
    objects = ObjectSet([Namespace(metadata=ObjectMeta(name="a"))])
    assert tracker.take(objects, objects.changes_since(ObjectSet())) == {node}
    tracker.forget(node)
    assert tracker.take(ObjectSet(), ObjectSet().changes_since(objects)) == set()


def test_facets_are_kept_apart_by_kind() -> None:
    tracker = Tracker(SETTINGS)
    node = Node("advice", ObjectKey("HTTPRoute", "a", "r"))
    view = tracker.view(node)
    view.having(HTTPRoute, ("parent", "Service", "a", "web"))
    view.close()
    tcp = decoded(gateway_api("TCPRoute", "t", TO_WEB + ", rules: [{}]", namespace="a"))
    objects = ObjectSet(tcp)
    assert tracker.take(objects, objects.changes_since(ObjectSet())) == set()
    assert set(facets_of(tcp[0], SETTINGS)) == {("parent", "Service", "a", "web")}
    assert host_facet("x") == ("host", "x")


def test_what_nobody_advises_on() -> None:
    tracker = Tracker(SETTINGS)
    value = ServiceAccount(metadata=ObjectMeta(name="a", namespace="a"))
    assert advice_on(tracker.view(Node("advice", value.key)), value) == NOTHING


def many_routes(count: int) -> ObjectSet:
    spec = decoded(gateway_api("HTTPRoute", "r", TO_WEB + ", rules: [{}]", namespace="a"))[0]
    assert isinstance(spec, HTTPRoute)
    inner: HttpRouteSpec = spec.spec
    routes = [HTTPRoute(metadata=ObjectMeta(name=f"r{n}", namespace="a"), spec=inner) for n in range(count)]
    return ObjectSet([*_BASE, *routes])


def test_a_thousand_routes_of_one_service_are_one_destination() -> None:
    translator = Translator(SETTINGS)
    translator.update(many_routes(1000))
    [found] = list(translator.destinations)
    assert isinstance(found, Destination)
    assert len(found.ports[0].routes) == 1000
