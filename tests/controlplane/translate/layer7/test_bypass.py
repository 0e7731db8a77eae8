"""No way past a waypoint where a policy stands there."""

from __future__ import annotations

import pytest

from controlplane.testing.routes import findings, policy, translated
from controlplane.translate.layer7.bypass import NAME_PREFIX, policy_name
from controlplane.translate.translator import Translator
from mesh.addresses import parse_cidr
from mesh.identity import SpiffeId
from mesh.model.policy import Policy
from mesh.model.workload import Workload
from mesh.rbac import ConnectionFacts, Deny, PolicySet, compile_policy, decide
from resources.base import ObjectMeta
from resources.decode import with_metadata
from resources.objects import ObjectKey

SERVICE = ObjectKey("Service", "shop", "web")
TO_WEB = "targetRefs: [{kind: Service, name: web}]"
GATEWAY = "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: waypoint}]"
ENDPOINTS = """
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: SLICE, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: PORT}, {name: any, port: 90}]
endpoints: [{addresses: [10.0.0.INDEX], targetRef: {kind: Pod, name: pINDEX}}]
---
apiVersion: v1
kind: Pod
metadata: {name: pINDEX, namespace: shop, labels: {app: web}}
spec: {nodeName: n, containers: [{name: c}]}
status: {podIP: 10.0.0.INDEX}
"""
P1 = ENDPOINTS.replace("SLICE", "a").replace("PORT", "8080").replace("INDEX", "1")
P2 = ENDPOINTS.replace("SLICE", "b").replace("PORT", "8081").replace("INDEX", "2")


def refers(translator: Translator, name: str) -> set[str]:
    [found] = [one for one in translator.addresses if isinstance(one, Workload) and one.name == name]
    return {key for key in found.authorization_policies if NAME_PREFIX in key}


def admitted(policies: list[Policy], account: str | None, port: int, source: str = "shop") -> bool:
    """What a ztunnel makes of a connection to an endpoint that refers to these policies."""
    identity = SpiffeId("cluster.local", source, account) if account else None
    facts = ConnectionFacts(
        source_ip=parse_cidr("10.0.0.9").ip,
        source_identity=identity,
        destination_ip=parse_cidr("10.0.0.1").ip,
        destination_port=port,
    )
    return not isinstance(decide(facts, PolicySet.of([compile_policy(one) for one in policies])), Deny)


def test_where_a_policy_governs_only_the_waypoint_is_admitted() -> None:
    written = policy(f"{TO_WEB}, action: DENY, rules: [{{to: [{{operation: {{ports: ['80'], methods: [PUT]}}}}]}}]")
    translator = translated(written + P1 + P2)
    names = {policy_name(SERVICE, ports) for ports in ((8080,), (8081,))}
    policies = {one.name: one for one in translator.policies}
    assert set(policies) == names
    assert refers(translator, "p1") == {f"shop/{policy_name(SERVICE, (8080,))}"}
    assert refers(translator, "p2") == {f"shop/{policy_name(SERVICE, (8081,))}"}
    mine = [policies[policy_name(SERVICE, (8080,))]]
    assert admitted(mine, "waypoint", 8080)
    assert not admitted(mine, "client", 8080)
    assert not admitted(mine, "waypoint", 8080, source="other")
    assert not admitted(mine, None, 8080)
    assert admitted(mine, "client", 90)
    assert admitted(mine, None, 90)


def test_who_may_pass_the_waypoint_by() -> None:
    text = policy(f"{TO_WEB}, rules: [{{}}]") + P1
    annotated = text + """
---
apiVersion: v1
kind: Service
metadata: {name: other, namespace: shop}
spec: {ports: [{port: 80}]}
"""
    translator = translated(annotated)
    web = next(value for key, value in translator.objects.items() if key.kind == "Service" and key.name == "web")
    changed = ObjectMeta(
        name="web",
        namespace="shop",
        annotations={"ambimesh.dev/waypoint-bypass": "monitor, ops/*bad, cluster.local/ns/ops/sa/*, ops/scraper"},
    )
    translator.update(translator.objects.with_changes([with_metadata(web, changed)]))
    policies = list(translator.policies)
    assert admitted(policies, "monitor", 8080)
    assert admitted(policies, "scraper", 8080, source="ops")
    assert admitted(policies, "anybody", 8080, source="ops")
    assert not admitted(policies, "monitor", 8080, source="ops2")
    assert any("'ops/*bad' admits nobody" in told for told in findings(translator, "Service"))


@pytest.mark.parametrize(
    ("spec", "ports"),
    [
        ("rules: [{to: [{operation: {ports: ['80']}}]}]", {80, 90}),
        ("action: DENY, rules: [{to: [{operation: {ports: ['80']}}]}]", {80}),
        ("action: DENY, rules: [{to: [{operation: {notPorts: ['80']}}]}]", {90}),
        ("action: DENY, rules: [{from: [{source: {namespaces: [x]}}]}]", {80, 90}),
        ("action: DENY", set[int]()),
        ("action: AUDIT, rules: [{}]", set[int]()),
        ("action: CUSTOM, provider: {name: x}, rules: [{}]", {80, 90}),
    ],
)
def test_which_ports_are_governed(spec: str, ports: set[int]) -> None:
    translator = translated(policy(f"{TO_WEB}, {spec}") + P1)
    found: set[int] = set()
    for one in translator.policies:
        for clause in one.rules[0].clauses:
            found.update(number for match in clause.matches for number in match.destination_ports)
    assert found == {8080 if number == 80 else number for number in ports}


def test_a_dry_run_and_an_unbound_service_close_nothing() -> None:
    tried = policy(f"{TO_WEB}, rules: [{{}}]", meta=", annotations: {istio.io/dry-run: 'true'}")
    assert list(translated(tried + P1).policies) == []
    assert refers(translated(tried + P1), "p1") == set()


def test_a_pod_that_is_bound_itself() -> None:
    gateway = """
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: w, namespace: shop, labels: {istio.io/waypoint-for: workload}}
spec: {gatewayClassName: ambimesh-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
"""
    pod = P1.replace("labels: {app: web}", "labels: {istio.io/use-waypoint: w}")
    written = policy(GATEWAY.replace("name: waypoint", "name: w") + ", rules: [{}]")
    translator = translated(gateway + pod + written)
    [found] = translator.policies
    assert refers(translator, "p1") == {f"shop/{found.name}"}
    assert admitted([found], "w", 1234)
    assert not admitted([found], "waypoint", 1234)


def test_pods_that_a_service_entry_selects() -> None:
    entry = """
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: e, namespace: shop}
spec:
  hosts: [e.example]
  ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}, {number: 90, name: tcp, protocol: TCP}]
  resolution: STATIC
  workloadSelector: {labels: {app: web}}
"""
    written = policy(
        "targetRefs: [{group: networking.istio.io, kind: ServiceEntry, name: e}], action: DENY, "
        "rules: [{to: [{operation: {ports: ['80']}}]}]"
    )
    translator = translated(entry + written + P1)
    [found] = translator.policies
    assert refers(translator, "p1") == {f"shop/{found.name}"}
    assert found.name == policy_name(ObjectKey("ServiceEntry", "shop", "e"), (8080,))
    assert admitted([found], "waypoint", 8080)
    assert not admitted([found], "client", 8080)
    assert admitted([found], "client", 90)


def test_a_waypoint_that_goes_leaves_its_endpoints_closed() -> None:
    translator = translated(policy(f"{TO_WEB}, rules: [{{}}]") + P1)
    before = list(translator.policies)
    assert before
    translator.update(translator.objects.with_changes([], [ObjectKey("Gateway", "shop", "waypoint")]))
    assert list(translator.destinations) == []
    assert list(translator.policies) == before
    assert refers(translator, "p1") == {before[0].key}
