"""What is found wrong with a cluster, and what is not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ambimesh.install import checks
from ambimesh.install.checks import Finding, Level

Json = dict[str, Any]
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def _node(name: str = "n", *, ready: bool = True, **info: str) -> Json:
    known = {"operatingSystem": "linux", "architecture": "amd64", "kernelVersion": "6.1.0-18-amd64"}
    condition = {"type": "Ready", "status": "True" if ready else "False"}
    return {"metadata": {"name": name}, "status": {"nodeInfo": {**known, **info}, "conditions": [condition]}}


@pytest.mark.parametrize(
    ("text", "level"),
    [("v1.34.4", Level.OK), ("v1.30.0+k3s1", Level.OK), ("v1.29.9", Level.FAILED), ("", Level.FAILED)],
)
def test_old_clusters_are_refused(text: str, level: Level) -> None:
    assert checks.kubernetes_version({"gitVersion": text}).level is level


def _levels(findings: list[Finding]) -> dict[str, Level]:
    return {finding.name: finding.level for finding in findings}


def test_nodes_that_cannot_run_it_are_named() -> None:
    assert _levels(checks.nodes([_node()])) == {"kernel": Level.OK, "architecture": Level.OK}
    found = checks.nodes([_node(), _node("old", kernelVersion="5.10.0"), _node("arm", architecture="riscv64")])
    assert _levels(found) == {"kernel": Level.FAILED, "architecture": Level.FAILED}
    assert "old has 5.10.0" in found[0].detail
    assert found[1].detail == "arm"
    windows = checks.nodes([_node(), _node("w", operatingSystem="windows", kernelVersion="10.0")])
    assert _levels(windows) == {"kernel": Level.OK, "architecture": Level.OK, "other systems": Level.WARNING}
    assert checks.nodes([])[0].level is Level.FAILED


def _lease(name: str, renewed: timedelta) -> Json:
    return {"metadata": {"name": name}, "spec": {"renewTime": (NOW + renewed).isoformat().replace("+00:00", "Z")}}


@pytest.mark.parametrize(
    ("local", "renewed", "ready", "said"),
    [
        (0, -9, ["n"], ""),
        (4, -40, ["n"], ""),
        (7, 0, ["n"], "this machine by +7 s"),
        (-60, 0, ["n"], "this machine by -60 s"),
        (0, 30, ["n"], "node n by +30 s"),
        (0, -300, ["n"], "node n by up to -300 s"),
        (0, -300, [], ""),  # a node that is gone renews nothing
    ],
)
def test_clocks(local: int, renewed: int, ready: list[str], said: str) -> None:
    leases = [_lease("n", timedelta(seconds=renewed)), {"metadata": {"name": "n"}, "spec": {"renewTime": "?"}}]
    found = checks.clocks(NOW, NOW + timedelta(seconds=local), leases, ready)
    assert found.level is (Level.FAILED if said else Level.OK)
    assert said in found.detail


def test_the_gateway_api_may_be_absent_but_not_too_old() -> None:
    def definition(*served: str) -> Json:
        versions = [{"name": name, "served": True} for name in served]
        return {"metadata": {}, "spec": {"versions": [*versions, {"name": "v1alpha", "served": False}]}}

    assert checks.gateway_api(None).level is Level.WARNING
    assert checks.gateway_api(definition("v1", "v1beta1")).level is Level.OK
    assert checks.gateway_api(definition("v1beta1")).level is Level.FAILED


def test_missing_rights_are_named() -> None:
    wanted = [("create", "daemonsets"), ("create", "services")]
    assert checks.rights(wanted, dict.fromkeys(wanted, True)).level is Level.OK
    assert checks.rights(wanted, {wanted[0]: True, wanted[1]: False}).detail == "you may not create services"


@pytest.mark.parametrize(
    ("namespace", "level"),
    [
        (None, Level.OK),
        ({"metadata": {"name": "m"}}, Level.OK),
        ({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "privileged"}}}, Level.OK),
        ({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "baseline"}}}, Level.FAILED),
    ],
)
def test_pod_security(namespace: Json | None, level: Level) -> None:
    assert checks.pod_security(namespace, "m").level is level


def test_policies_that_keep_the_tunnels_out_of_enrolled_pods_are_named() -> None:
    policy = {
        "metadata": {"namespace": "demo", "name": "only-web"},
        "spec": {"podSelector": {}, "ingress": [{"ports": [{"port": 8080}]}]},
    }
    ambient = {"metadata": {"name": "demo", "labels": {checks.MODE_LABEL: "ambient"}}}
    plain = {"metadata": {"name": "demo"}}

    def pod(**labels: str) -> Json:
        return {"metadata": {"namespace": "demo", "name": "p", "labels": labels}, "spec": {}}

    [found] = checks.network_policies([policy], [pod()], [ambient])
    assert found.level is Level.FAILED
    assert "demo/only-web keeps ingress TCP 15008 from p" in found.detail
    assert checks.network_policies([policy], [pod()], [plain])[0].level is Level.OK
    assert checks.network_policies([policy], [pod(**{checks.MODE_LABEL: "none"})], [ambient])[0].level is Level.OK
    assert checks.network_policies([policy], [pod(**{checks.MODE_LABEL: "ambient"})], [plain])[0].level is Level.FAILED
    host = {**pod(), "spec": {"hostNetwork": True}}
    assert checks.network_policies([policy], [host], [ambient])[0].level is Level.OK


def test_every_ready_node_needs_a_ready_pod() -> None:
    def pod(node: str, ready: bool = True) -> Json:
        status = {"conditions": [{"type": "Ready", "status": str(ready)}]}
        labels = {"app.kubernetes.io/component": "agent"}
        return {"metadata": {"name": "p", "labels": labels}, "spec": {"nodeName": node}, "status": status}

    nodes = [_node("a"), _node("b"), _node("gone", ready=False)]
    assert checks.coverage(nodes, [pod("a"), pod("b")], "agent").level is Level.OK
    assert checks.coverage(nodes, [pod("a"), pod("b", ready=False)], "agent").detail == "not ready on b"
    assert checks.coverage(nodes, [pod("a"), pod("b")], "ztunnel").detail == "not ready on a, b"


def test_who_is_not_ready_is_asked_why_but_not_thousands() -> None:
    def pod(node: str, ready: bool = False) -> Json:
        status = {"conditions": [{"type": "Ready", "status": str(ready)}]}
        labels = {"app.kubernetes.io/component": "agent"}
        return {"metadata": {"name": f"of-{node}", "labels": labels}, "spec": {"nodeName": node}, "status": status}

    asked: list[str] = []

    def why(of: Json) -> str:
        asked.append(of["metadata"]["name"])
        return "no CNI configuration"

    many = [f"n{number}" for number in range(100)]
    found = checks.coverage([_node(name) for name in many], [pod(name) for name in many], "agent", why)
    assert found.detail.startswith("not ready on n0: no CNI configuration, n1: ")
    assert found.detail.endswith(" and 95 more")
    assert len(asked) == 5
    # A new pod beside an old one, as while ztunnels are replaced.
    assert checks.coverage([_node("a")], [pod("a", ready=True), pod("a")], "agent").level is Level.OK

    one = checks.operators([pod("a", ready=True), pod("b")], why)
    assert (one.level, one.detail) == (Level.WARNING, "1 of 2 replicas are ready; of-b: no CNI configuration")
    assert checks.operators([pod("a")], why).level is Level.FAILED
    assert checks.operators([], why).level is Level.FAILED
    assert checks.operators([pod("a", ready=True)], why).level is Level.OK


def test_what_the_operator_cannot_read_is_shown() -> None:
    assert checks.unread([]).level is Level.OK
    found = checks.unread([f"kind{number} may not be read" for number in range(7)])
    assert found.level is Level.WARNING
    assert found.detail.startswith("kind0 may not be read; kind1 ")
    assert found.detail.endswith(" and 2 more")


def test_what_agents_tell_of_nodes_is_shown_once_and_of_nodes_that_are_there() -> None:
    def event(node: str, text: str, when: str) -> Json:
        return {"involvedObject": {"name": node}, "message": text, "eventTime": when}

    assert checks.node_events([event("gone", "x", "2026-01-01T00:00:00.0Z")], ["n"]) == []
    again = {"series": {"count": 2, "lastObservedTime": "2026-01-01T00:30:00.0Z"}}
    told = [event("n", "not JSON", "2026-01-01T00:00:00.0Z") | again, event("n", "full", "2026-01-01T00:00:00.0Z")]
    [found] = checks.node_events(told, ["n"])
    assert found.detail == "n: full (seen 2026-01-01T00:00:00Z); n: not JSON (seen 2026-01-01T00:30:00Z)"


def test_nodes_that_are_not_ready_say_why() -> None:
    away = _node("b", ready=False)
    away["status"]["conditions"][0]["message"] = "cni plugin not initialized"
    found = {one.name: one for one in checks.nodes([_node("a"), away, _node("c", ready=False)])}
    assert found["nodes"].level is Level.WARNING
    assert found["nodes"].detail == "not ready: b: cni plugin not initialized; c: it says nothing of itself"


def test_versions_that_differ_are_told() -> None:
    assert checks.versions("1", None, []).level is Level.OK
    assert checks.versions("1", "1", ["r/a:1", "r/b:1"]).level is Level.OK
    assert checks.versions("2", "1", ["r/a:1"]).level is Level.WARNING
    assert checks.versions("1", "1", ["r/a:1", "r/b:0"]).level is Level.WARNING
