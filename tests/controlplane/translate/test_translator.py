from __future__ import annotations

import textwrap

from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.translate.delta import aliases, resource_name
from controlplane.translate.settings import MeshSettings
from controlplane.translate.translator import Translator
from mesh.addresses import parse_ip
from mesh.model.service import BalancingMode, HealthPolicy, LoadBalancing, RoutingScope, Service
from mesh.model.workload import (
    AppProtocol,
    HealthStatus,
    Locality,
    NetworkAddress,
    NetworkMode,
    ServicePort,
    TunnelProtocol,
    Workload,
    WorkloadType,
)
from resources.base import ObjectMeta
from resources.decode import decode_documents
from resources.object_set import ObjectSet
from resources.objects import KubernetesObject, Pod
from resources.pod import Container, PodSpec, PodStatus

R = RoutingScope


def objects_of(text: str) -> ObjectSet:
    objects, problems = decode_documents(textwrap.dedent(text), "f")
    assert problems == []
    return ObjectSet(objects)


def translate(text: str) -> dict[str, Workload | Service]:
    translator = Translator(MeshSettings())
    translator.update(objects_of(text))
    return {resource_name(value): value for value in translator.addresses}


def workload_of(text: str) -> Workload:
    (value,) = translate(text).values()
    assert isinstance(value, Workload)
    return value


SHOP = """
apiVersion: v1
kind: Pod
metadata:
  name: web-5d4f8-abcde
  namespace: shop
  labels: {app: web, version: v2, pod-template-hash: 5d4f8, topology.kubernetes.io/region: eu}
  annotations: {ambient.istio.io/redirection: enabled}
  ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: web-5d4f8, uid: u, controller: true}]
spec: {nodeName: node1, serviceAccountName: web, containers: [{name: c}]}
status: {phase: Running, podIPs: [{ip: 10.0.0.1}, {ip: "fd00::1"}], conditions: [{type: Ready, status: "True"}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  clusterIP: 10.96.0.1
  ports: [{name: http, port: 80, targetPort: http}, {name: grpc-x, port: 90}, {name: u, port: 53, protocol: UDP}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}, {name: grpc-x, port: 90}]
endpoints:
- {addresses: [10.0.0.1], targetRef: {kind: Pod, name: web-5d4f8-abcde, namespace: shop}, zone: a}
- {addresses: [192.0.2.1], conditions: {ready: false}, zone: b}
"""


def test_a_node_says_where_its_pods_are_and_may_come_later() -> None:
    pods = SHOP.replace(", topology.kubernetes.io/region: eu", "").replace(", zone: a", "")
    node = "\n---\napiVersion: v1\nkind: Node\nmetadata: {name: node1, labels: {%s}}\n"
    labels = "topology.kubernetes.io/region: eu, topology.kubernetes.io/zone: eu-1"
    translator = Translator(MeshSettings())

    def locality() -> Locality:
        by_name = {resource_name(value): value for value in translator.addresses}
        workload = by_name["Kubernetes//Pod/shop/web-5d4f8-abcde"]
        assert isinstance(workload, Workload)
        return workload.locality

    translator.update(objects_of(pods))
    assert locality() == Locality()
    delta = translator.update(objects_of(pods + node % labels))
    assert [resource_name(one) for one in delta.addresses_updated] == ["Kubernetes//Pod/shop/web-5d4f8-abcde"]
    assert locality() == Locality("eu", "eu-1")
    translator.update(objects_of(SHOP + node % labels))
    assert locality() == Locality("eu", "eu-1"), "its own labels, then the node's, then its endpoints'"


def test_pod_service_and_bare_endpoint() -> None:
    found = translate(SHOP)
    ports = (ServicePort(80, 8080, AppProtocol.HTTP11), ServicePort(90, 90, AppProtocol.GRPC))
    key = "shop/web.shop.svc.cluster.local"
    assert found["Kubernetes//Pod/shop/web-5d4f8-abcde"] == Workload(
        uid="Kubernetes//Pod/shop/web-5d4f8-abcde",
        name="web-5d4f8-abcde",
        namespace="shop",
        addresses=(parse_ip("10.0.0.1"), parse_ip("fd00::1")),
        tunnel_protocol=TunnelProtocol.HBONE,
        service_account="web",
        node="node1",
        canonical_name="web",
        canonical_revision="v2",
        workload_type=WorkloadType.DEPLOYMENT,
        workload_name="web",
        status=HealthStatus.HEALTHY,
        cluster_id="Kubernetes",
        services={key: ports},
        locality=Locality("eu", "a"),
    )
    service = found[key]
    assert service == Service(
        name="web",
        namespace="shop",
        hostname="web.shop.svc.cluster.local",
        addresses=(NetworkAddress("", parse_ip("10.96.0.1")),),
        ports=(ServicePort(80, 0, AppProtocol.HTTP11), ServicePort(90, 90, AppProtocol.GRPC)),
    )
    bare = found["Kubernetes/discovery.k8s.io/EndpointSlice/shop/web-1/192.0.2.1"]
    assert isinstance(bare, Workload)
    assert bare.status is HealthStatus.UNHEALTHY
    assert bare.tunnel_protocol is TunnelProtocol.NONE
    assert bare.services == {key: ports}
    assert aliases(service) == ("/10.96.0.1",)
    assert aliases(found["Kubernetes//Pod/shop/web-5d4f8-abcde"]) == ("/10.0.0.1", "/fd00::1")


def pod(metadata: str = "", spec: str = "", status: str = "podIP: 10.0.0.1") -> str:
    return f"""
apiVersion: v1
kind: Pod
metadata: {{name: p, {metadata}}}
spec: {{nodeName: n, containers: [{{name: c}}], {spec}}}
status: {{{status}}}
"""


def test_what_a_pod_tells() -> None:
    assert workload_of(pod()).tunnel_protocol is TunnelProtocol.NONE
    assert workload_of(pod()).status is HealthStatus.UNHEALTHY
    assert workload_of(pod()).service_account == "default"
    assert workload_of(pod()).canonical_name == "p"
    native = workload_of(pod("labels: {networking.istio.io/tunnel: http}"))
    assert native.tunnel_protocol is TunnelProtocol.HBONE
    assert native.native_tunnel
    host = workload_of(pod(spec="hostNetwork: true"))
    assert host.network_mode is NetworkMode.HOST_NETWORK
    assert aliases(host) == ()
    labels = "labels: {app: b, app.kubernetes.io/name: a, app.kubernetes.io/version: '1'}"
    assert workload_of(pod(labels)).canonical_name == "a"
    assert workload_of(pod(labels)).canonical_revision == "1"
    ready = 'podIP: 10.0.0.1, conditions: [{type: Ready, status: "True"}]'
    assert workload_of(pod(status=ready)).status is HealthStatus.HEALTHY
    assert workload_of(pod("deletionTimestamp: x", status=ready)).status is HealthStatus.UNHEALTHY


def test_pods_nobody_can_reach_are_left_out() -> None:
    assert translate(pod(status="phase: Succeeded, podIP: 10.0.0.1")) == {}
    assert translate(pod(status="phase: Failed, podIP: 10.0.0.1")) == {}
    assert translate(pod(status="phase: Pending")) == {}
    assert translate(pod(spec="nodeName: ''").replace("nodeName: n, ", "")) == {}


def test_owners() -> None:
    def owner(kind: str, name: str) -> Workload:
        reference = f"{{apiVersion: v1, kind: {kind}, name: {name}, uid: u, controller: true}}"
        return workload_of(pod(f"ownerReferences: [{reference}]"))

    assert (owner("Job", "nightly-28123456").workload_name, owner("Job", "nightly-28123456").workload_type) == (
        "nightly",
        WorkloadType.CRONJOB,
    )
    assert (owner("Job", "once").workload_name, owner("Job", "once").workload_type) == ("once", WorkloadType.JOB)
    assert owner("StatefulSet", "db").workload_name == "db"


def service(spec: str) -> LoadBalancing:
    text = f"apiVersion: v1\nkind: Service\nmetadata: {{name: s}}\nspec: {{ports: [{{port: 1}}], {spec}}}"
    (value,) = translate(text).values()
    assert isinstance(value, Service)
    return value.load_balancing


def test_load_balancing() -> None:
    zone = (R.NETWORK, R.REGION, R.ZONE)
    assert service("") == LoadBalancing()
    assert service("internalTrafficPolicy: Local") == LoadBalancing((R.NODE,), BalancingMode.STRICT)
    assert service("trafficDistribution: PreferClose") == LoadBalancing(zone, BalancingMode.FAILOVER)
    assert service("trafficDistribution: PreferSameZone") == LoadBalancing(zone, BalancingMode.FAILOVER)
    assert service("trafficDistribution: PreferSameNode") == LoadBalancing(
        (*zone, R.SUBZONE, R.NODE), BalancingMode.FAILOVER
    )
    assert service("publishNotReadyAddresses: true").health_policy is HealthPolicy.ALLOW_ALL


def test_what_is_not_supported_is_told() -> None:
    translator = Translator(MeshSettings())
    translator.update(
        objects_of(
            """
            {apiVersion: v1, kind: Service, metadata: {name: a}, spec: {type: ExternalName, externalName: x}}
            ---
            {apiVersion: v1, kind: Service, metadata: {name: b, labels: {istio.io/use-waypoint: w}},
             spec: {ports: [{port: 1}], sessionAffinity: ClientIP, trafficDistribution: Odd}}
            ---
            {apiVersion: v1, kind: Namespace, metadata: {name: n, labels: {istio.io/use-waypoint: w}}}
            """
        )
    )
    told = [str(finding) for finding in translator.findings]
    assert len(told) == 5
    assert any("ExternalName" in text for text in told)
    translator.update(ObjectSet())
    assert list(translator.findings) == []


# Incremental and whole translation must agree. The pieces below refer to one another in every way there is.
PIECES = [
    *(
        f"{{apiVersion: v1, kind: Pod, metadata: {{name: p{n}, namespace: {ns}, labels: {{app: {app}}}}}, "
        f"spec: {{nodeName: n, containers: [{{name: c}}]}}, status: {{podIP: 10.0.0.{n}}}}}"
        for n in (1, 2)
        for ns in ("shop", "istio-system")
        for app in ("a", "b")
    ),
    *(
        f"{{apiVersion: v1, kind: Service, metadata: {{name: s, namespace: shop}}, "
        f"spec: {{ports: [{{port: {port}, name: x, targetPort: y}}]}}}}"
        for port in (80, 81)
    ),
    *(
        f"{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, metadata: {{name: {name}, "
        f"namespace: shop, labels: {{kubernetes.io/service-name: s}}}}, ports: [{{name: x, port: 8080}}], endpoints: "
        f"[{{addresses: [10.0.0.1], targetRef: {{kind: Pod, name: {target}}}}}, {{addresses: [192.0.2.1]}}]}}"
        for name in ("e", "f")
        for target in ("p1", "p2")
    ),
    *(
        f"{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: a, namespace: {ns}}}, "
        f"spec: {{{spec}}}}}"
        for ns in ("shop", "istio-system")
        for spec in ("", "selector: {matchLabels: {app: a}}", "action: DENY, selector: {matchLabels: {app: b}}")
    ),
    *(
        f"{{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {{name: {name}, namespace: {ns}}}, "
        f"spec: {{mtls: {{mode: {mode}}}{more}}}}}"
        for ns in ("shop", "istio-system")
        for mode in ("STRICT", "PERMISSIVE", "UNSET")
        for name, more in (
            ("whole", ""),
            ("own", ", selector: {matchLabels: {app: a}}, portLevelMtls: {80: {mode: STRICT}, 81: {mode: DISABLE}}"),
        )
    ),
]
_DECODED: list[KubernetesObject] = [next(iter(objects_of(piece).values())) for piece in PIECES]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(st.sampled_from(_DECODED), max_size=8), max_size=6))
def test_incremental_translation_equals_a_fresh_one(steps: list[list[KubernetesObject]]) -> None:
    incremental = Translator(MeshSettings())
    addresses: dict[str, object] = {}
    policies: dict[str, object] = {}
    objects = ObjectSet()
    for step in steps:
        wanted = ObjectSet(step)
        objects = objects.with_changes(wanted.values(), [key for key in objects if key not in wanted])
        delta = incremental.update(objects)
        for table, updated, removed in (
            (addresses, delta.addresses_updated, delta.addresses_removed),
            (policies, delta.policies_updated, delta.policies_removed),
        ):
            for name in removed:
                del table[name]
            for value in updated:
                assert table.get(resource_name(value)) != value, "told although nothing changed"
                table[resource_name(value)] = value
        fresh = Translator(MeshSettings())
        fresh.update(objects)
        assert addresses == {resource_name(value): value for value in fresh.addresses}
        assert policies == {resource_name(value): value for value in fresh.policies}
        assert list(incremental.findings) == list(fresh.findings)
        for workload in fresh.addresses:
            if isinstance(workload, Workload):
                assert set(workload.authorization_policies) <= policies.keys(), "refers to a policy nobody publishes"


def many_pods(count: int) -> ObjectSet:
    return ObjectSet(
        Pod(
            metadata=ObjectMeta(name=f"p{n}", namespace=f"ns{n % 20}", labels={"app": f"a{n % 7}"}),
            spec=PodSpec(containers=(Container(name="c"),), node_name="n"),
            status=PodStatus(pod_ip=f"10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}"),
        )
        for n in range(count)
    )


def test_one_change_among_many_translates_one_pod() -> None:
    objects = many_pods(3000)
    translator = Translator(MeshSettings())
    translator.update(objects)
    changed = next(iter(objects.of_kind(Pod)))
    moved = Pod(metadata=changed.metadata, spec=changed.spec, status=PodStatus(pod_ip="10.9.9.9"))
    translated: list[tuple[str, object]] = []
    original = translator._translate
    translator._translate = lambda node, value: (translated.append((node.task, value)), original(node, value))[1]  # type: ignore[method-assign,func-returns-value]
    delta = translator.update(objects.with_changes([moved]))
    assert sorted(translated) == [("bypass", moved), ("destination", moved), ("own", moved)]
    assert [value.addresses for value in delta.addresses_updated] == [(parse_ip("10.9.9.9"),)]
