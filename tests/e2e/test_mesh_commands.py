"""The commands that look at a mesh in a cluster, which has traffic: ``ztunnel-config``, ``check``, ``bug-report``."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.kit.cluster import Cluster
from tests.e2e.kit.mesh import AMBIENT, NAMESPACE, Mesh
from tests.e2e.kit.scenarios import LoadPod, load
from tests.e2e.kit.waiting import eventually
from tests.e2e.kit.workloads import start_web, web_pods

pytestmark = pytest.mark.e2e

_CHANGE_SECONDS = 60.0


@pytest.fixture(scope="module")
def mesh(cluster_mesh: Mesh) -> Mesh:
    """Of the whole session."""
    return cluster_mesh


@pytest.fixture(scope="module")
def running(mesh: Mesh, cluster: Cluster, cluster_namespace: str) -> Iterator[LoadPod]:
    """A client on node 1 that asks the server on both nodes all the time, in the mesh."""
    cluster.kubectl("label", "namespace", cluster_namespace, AMBIENT)
    start_web(cluster, cluster_namespace)
    deny = {"action": "DENY", "rules": [{"from": [{"source": {"namespaces": ["nowhere"]}}]}]}
    mesh.apply_policy(cluster_namespace, "AuthorizationPolicy", "nobody", deny)
    with load(cluster, cluster_namespace, f"http://web.{cluster_namespace}/", node=cluster.nodes[0]) as made:
        yield made


def config(mesh: Mesh, *arguments: str) -> Any:
    return mesh.asked("ztunnel-config", *arguments)


def test_ztunnels_tell_what_they_work_from(
    mesh: Mesh, cluster: Cluster, cluster_namespace: str, running: LoadPod
) -> None:
    nodes = {node.name for node in cluster.nodes}
    pods = {each["metadata"]["name"]: node for node, each in web_pods(cluster, cluster_namespace).items()}

    def known() -> None:
        by_node = config(mesh, "workload", "--workload-namespace", cluster_namespace)
        assert set(by_node) == nodes
        for found in by_node.values():
            assert {each["name"]: each["node"] for each in found} == {**pods, running.name: cluster.nodes[0].name}
            assert {each["protocol"] for each in found} == {"HBONE"}

    eventually(known, seconds=_CHANGE_SECONDS)
    first = ("--node", cluster.nodes[0].name)
    here = config(mesh, "workload", *first, "--workload-node", cluster.nodes[1].name)
    assert {each["node"] for each in here} == {cluster.nodes[1].name}
    address = here[0]["addresses"][0]
    assert [each["addresses"] for each in config(mesh, "workload", *first, "--address", address)] == [[address]]
    services = {(each["namespace"], each["name"]): each for each in config(mesh, "service", *first)}
    assert services[cluster_namespace, "web"]["endpoints"] == "2/2"

    def enforced() -> None:
        policies = config(mesh, "policy", *first)
        assert (cluster_namespace, "nobody") in {(each["namespace"], each["name"]) for each in policies}

    # The definition of policies may be younger than the mesh, and is looked for now and then.
    eventually(enforced, seconds=_CHANGE_SECONDS)
    own = f"spiffe://cluster.local/ns/{cluster_namespace}/sa/default"
    # Each worker that has needed it has one of its own.
    leaves = [each for each in config(mesh, "certificate", *first) if (each["name"], each["type"]) == (own, "Leaf")]
    assert ("Available", True) in {(each["status"], each["valid"]) for each in leaves}

    def carried() -> None:
        found = config(mesh, "connections", *first, "--direction", "outbound")
        assert [each for each in found if each["workload"] == f"{cluster_namespace}/{running.name}"], found
        assert {each["direction"] for each in found} == {"Outbound"}

    eventually(carried, seconds=_CHANGE_SECONDS)
    whole = config(mesh, "all", *first)
    assert set(whole) == {"workloads", "services", "policies", "certificates", "connections"}
    table = [line.split() for line in mesh.run("ztunnel-config", "service", *first).splitlines()]
    assert table[0] == ["NAMESPACE", "SERVICE", "NAME", "SERVICE", "VIP", "WAYPOINT", "ENDPOINTS"]
    assert [row[-1] for row in table if row[:2] == [cluster_namespace, "web"]] == ["2/2"]
    unknown = mesh.attempt("ztunnel-config", "all", "--node", "node9")
    assert (unknown.returncode, "no ztunnel runs on node node9" in unknown.stderr) == (1, True)


def test_a_ztunnels_log_levels_are_shown_and_set(
    mesh: Mesh, cluster: Cluster, cluster_namespace: str, running: LoadPod
) -> None:
    usual = {"level": "info", "access": "info"}
    one, other = (node.name for node in cluster.nodes)
    assert config(mesh, "log") == {one: usual, other: usual}
    wrong = mesh.attempt("ztunnel-config", "log", "--level", "loud")
    assert (wrong.returncode, "'loud' is not a log level" in wrong.stderr) == (1, True)
    told = yaml.safe_load(mesh.run("ztunnel-config", "log", "--node", one, "--access-level", "off", "-o", "yaml"))
    try:
        assert told == {"level": "info", "access": "off"}
        assert config(mesh, "log") == {one: told, other: usual}
        running.more(60)  # three connections; a record leaves within a tenth of a second

        def records() -> Counter[str]:
            found = (each for each in mesh.connections() if each.get("src.workload") == running.name)
            return Counter(each["direction"] for each in found if each.get("fast_path") != "true")

        before = records()

        def the_other_node_logs() -> None:
            running.more(20)
            assert before["inbound"] < records()["inbound"]

        eventually(the_other_node_logs, seconds=_CHANGE_SECONDS)
        assert before["outbound"] == records()["outbound"]
    finally:
        mesh.run("ztunnel-config", "log", "--access-level", "info")
    assert config(mesh, "log") == {one: usual, other: usual}


def test_check_finds_nothing_in_the_way(mesh: Mesh, cluster: Cluster, running: LoadPod) -> None:
    found = {each["name"]: each for each in mesh.asked("check", "--cluster")}
    assert {each["level"] for each in found.values()} <= {"ok", "warning"}
    for part in ("agent", "ztunnel"):
        assert found[f"{part} on nodes"]["detail"] == f"ready on all {len(cluster.nodes)}"
    assert found["operator"]["detail"] == "2 of 2 replicas are ready"
    assert found["versions"]["level"] == "ok"
    assert "nothing is in the way" in mesh.run("check", "--cluster")


def test_a_bug_report_holds_what_a_helper_asks_for(
    mesh: Mesh, cluster: Cluster, cluster_namespace: str, running: LoadPod, tmp_path: Path
) -> None:
    file = tmp_path / "report.tar.gz"
    texts = mesh.bug_report(file)
    assert file.stat().st_mode & 0o777 == 0o600
    assert "errors.txt" not in texts, texts["errors.txt"]
    for node in cluster.nodes:
        dump = json.loads(texts[f"ztunnels/{node.name}.json"])
        assert cluster_namespace in {each["namespace"] for each in dump["workloads"]}
    assert "nobody" in texts["cluster/authorizationpolicy.yaml"]
    assert "level: failed" not in texts["check.yaml"]
    pods = {each["metadata"]["name"] for each in cluster.objects("pods", f"--namespace={NAMESPACE}")}
    logged = {name.removeprefix("logs/").split(".")[0] for name in texts if name.startswith("logs/")}
    assert logged == pods
    assert "connection complete" in "".join(text for name, text in texts.items() if "logs/ambimesh-ztunnel" in name)
    operators = [name for name in texts if name.startswith("operators/") and name.endswith(".clients.json")]
    assert len(operators) == 2
    ztunnels = {name for name in pods if "-ztunnel-" in name}
    assert len(ztunnels) == len(cluster.nodes)
    assert all(name in "".join(texts[each] for each in operators) for name in ztunnels)
    assert not any("kind: Secret" in text or "PRIVATE KEY" in text for text in texts.values())
