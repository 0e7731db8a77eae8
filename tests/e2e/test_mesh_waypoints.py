"""Waypoints in a cluster: made by the command, used, replaced under load, and taken away again."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.kit.cluster import Cluster
from tests.e2e.kit.mesh import AMBIENT, Mesh
from tests.e2e.kit.scenarios import load
from tests.e2e.kit.waiting import eventually
from tests.e2e.kit.workloads import SERVER, Answer, Client, apply, pod, refused, start_web, wait_ready, web_pods

pytestmark = pytest.mark.e2e

_CHANGE_SECONDS = 60.0
_GATEWAY = "gateways.gateway.networking.k8s.io"
_OWNED = "serviceaccounts,deployments,services,horizontalpodautoscalers,poddisruptionbudgets"
_OF_THE_WAYPOINT = "--selector=gateway.networking.k8s.io/gateway-name=waypoint"


@pytest.fixture(scope="module")
def mesh(cluster_mesh: Mesh) -> Iterator[Mesh]:
    """Of the whole session; the Gateway API comes later than the mesh."""
    cluster_mesh.define_gateways()
    yield cluster_mesh
    cluster_mesh.forget_gateways()


@pytest.fixture(scope="module")
def client(mesh: Mesh, cluster: Cluster, cluster_namespace: str) -> Client:
    """On node 1 in the mesh, with the server on both nodes and one more, ``canary``, that is no part of Service web."""
    namespace = f"--namespace={cluster_namespace}"
    cluster.kubectl("label", "namespace", cluster_namespace, AMBIENT)
    canary = pod("canary", SERVER, cluster.nodes[1])
    canary["spec"]["containers"][0]["readinessProbe"] = {"httpGet": {"path": "/ready", "port": 8080}}
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "canary"},
        "spec": {"selector": {"app": "canary"}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
    }
    apply(cluster, cluster_namespace, canary, service)
    start_web(cluster, cluster_namespace)
    wait_ready(cluster, cluster_namespace, "canary")
    cluster.kubectl("create", "serviceaccount", "friend", namespace)
    return Client(cluster, cluster_namespace)


@pytest.fixture(scope="module")
def friend(cluster: Cluster, client: Client) -> Client:
    """Another client there, with an account of its own."""
    return Client(cluster, client.namespace, "friend", account="friend")


def waypoint_pods(cluster: Cluster, namespace: str) -> list[dict[str, Any]]:
    found = cluster.objects("pods", _OF_THE_WAYPOINT, f"--namespace={namespace}")
    return [each for each in found if "deletionTimestamp" not in each["metadata"]]


def passes_the_waypoint(cluster: Cluster, client: Client) -> None:
    """The server sees the waypoint's address, and is told of the client's."""
    addresses = {each["status"].get("podIP") for each in waypoint_pods(cluster, client.namespace)}
    (own,) = cluster.objects("pod", client.name, f"--namespace={client.namespace}")
    for answer in client.ask("http://web/", times=4):
        assert answer.status == 200, answer
        assert answer.body["peer"] in addresses, answer
        assert answer.body["headers"]["x-forwarded-for"] == own["status"]["podIP"]


def goes_directly(cluster: Cluster, client: Client) -> None:
    """The server sees the client's own address."""
    (own,) = cluster.objects("pod", client.name, f"--namespace={client.namespace}")
    for answer in client.ask("http://web/", times=4):
        assert answer.status == 200, answer
        assert answer.body["peer"] == own["status"]["podIP"]


def all_are(status: int, answers: list[Answer]) -> None:
    assert {each.status for each in answers} == {status}, answers


def test_one_command_makes_a_waypoint_that_its_gateway_owns(mesh: Mesh, cluster: Cluster, client: Client) -> None:
    namespace = client.namespace
    eventually(lambda: goes_directly(cluster, client), seconds=_CHANGE_SECONDS)
    said = mesh.run("waypoint", "apply", "--enroll-namespace", "-n", namespace, "--wait", "--timeout=120")
    assert f"waypoint {namespace}/waypoint is ready!" in said
    (gateway,) = cluster.objects(_GATEWAY, f"--namespace={namespace}")
    owned = cluster.objects(_OWNED, _OF_THE_WAYPOINT, f"--namespace={namespace}")
    assert Counter(each["kind"] for each in owned) == Counter(
        ["ServiceAccount", "Deployment", "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget"]
    )
    for each in owned:
        (owner,) = each["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["uid"], owner["controller"]) == ("Gateway", gateway["metadata"]["uid"], True)
    (service,) = (each for each in owned if each["kind"] == "Service")
    status = gateway["status"]
    assert {each["type"]: each["status"] for each in status["conditions"]}["Programmed"] == "True"
    assert service["spec"]["clusterIP"] in {each["value"] for each in status["addresses"]}


def test_its_pods_are_closed_and_run_compiled(mesh: Mesh, cluster: Cluster, client: Client) -> None:
    (found,) = waypoint_pods(cluster, client.namespace)
    assert found["spec"]["securityContext"]["runAsNonRoot"]
    (container,) = found["spec"]["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    name = found["metadata"]["name"]
    starting = cluster.kubectl("logs", f"--namespace={client.namespace}", name)
    assert "form=compiled" in starting


def test_a_bound_services_traffic_passes_it(mesh: Mesh, cluster: Cluster, client: Client) -> None:
    eventually(lambda: passes_the_waypoint(cluster, client), seconds=_CHANGE_SECONDS)
    # The waypoint's own connections to endpoints stay open; that they prove who it is shows where a policy demands it.
    account = f"spiffe://cluster.local/ns/{client.namespace}/sa"

    def logged() -> None:
        found = {
            (each.get("direction"), each.get("src.identity"), each.get("dst.identity")) for each in mesh.connections()
        }
        assert ("outbound", f"{account}/default", f"{account}/waypoint") in found

    eventually(logged, seconds=_CHANGE_SECONDS)


def test_routes_go_by_header_and_by_weight(mesh: Mesh, cluster: Cluster, client: Client) -> None:
    def backend(name: str, weight: int) -> dict[str, Any]:
        return {"name": name, "port": 80, "weight": weight}

    header = {"headers": [{"name": "x-canary", "value": "yes"}]}
    spec = {
        "parentRefs": [{"group": "", "kind": "Service", "name": "web", "port": 80}],
        "rules": [
            {"matches": [header], "backendRefs": [backend("canary", 1)]},
            {"backendRefs": [backend("web", 3), backend("canary", 1)]},
        ],
    }
    mesh.apply_policy(client.namespace, "HTTPRoute", "split", spec)

    def by_header() -> None:
        found = client.ask("http://web/", times=20, x_canary="yes")
        assert {each.pod for each in found} == {"canary"}, found

    eventually(by_header, seconds=_CHANGE_SECONDS)
    found = Counter(each.pod for each in client.ask("http://web/", times=200))
    servers = {each["metadata"]["name"] for each in web_pods(cluster, client.namespace).values()}
    assert set(found) == {"canary", *servers}
    # 50 of 200 are expected; outside of 20 to 80 it would be by chance once in a hundred thousand times.
    assert 20 <= found["canary"] <= 80, found
    told = mesh.asked("waypoint", "routes", "-n", client.namespace)
    assert "split" in json.dumps(told)


def test_a_policy_of_layer_7_is_kept_to_and_cannot_be_passed_by(
    mesh: Mesh, cluster: Cluster, client: Client, friend: Client
) -> None:
    pods = web_pods(cluster, client.namespace).values()
    direct = [f"http://{each['status']['podIP']}:8080/open" for each in pods]
    for url in direct:
        all_are(200, friend.ask(url))
    spec = {
        "targetRefs": [{"group": "", "kind": "Service", "name": "web"}],
        "action": "ALLOW",
        "rules": [
            {
                "from": [{"source": {"principals": [f"cluster.local/ns/{client.namespace}/sa/friend"]}}],
                "to": [{"operation": {"methods": ["GET"], "paths": ["/open*"]}}],
            }
        ],
    }
    mesh.apply_policy(client.namespace, "AuthorizationPolicy", "open", spec)
    eventually(lambda: all_are(403, client.ask("http://web/open", times=4)), seconds=_CHANGE_SECONDS)
    all_are(200, friend.ask("http://web/open", times=8))
    all_are(403, friend.ask("http://web/else", times=4))
    for url in direct:
        refused(client, url, _CHANGE_SECONDS)
        refused(friend, url, _CHANGE_SECONDS)
    cluster.kubectl("delete", "authorizationpolicy", "open", f"--namespace={client.namespace}")
    eventually(lambda: all_are(200, client.ask("http://web/else", times=4)), seconds=_CHANGE_SECONDS)
    eventually(lambda: all_are(200, [each for url in direct for each in client.ask(url)]), seconds=_CHANGE_SECONDS)


def test_the_command_lists_waypoints_and_tells_their_status(mesh: Mesh, client: Client) -> None:
    (listed,) = mesh.asked("waypoint", "list", "-n", client.namespace)
    assert (listed["kind"], listed["metadata"]["name"]) == ("Gateway", "waypoint")
    assert client.namespace in mesh.run("waypoint", "list", "-A")
    (status,) = mesh.asked("waypoint", "status", "waypoint", "-n", client.namespace)
    assert (status["name"], status["type"], status["status"]) == ("waypoint", "Programmed", "True")


def test_a_bug_report_tells_of_it(mesh: Mesh, cluster: Cluster, client: Client, tmp_path: Path) -> None:
    texts = mesh.bug_report(tmp_path / "report.tar.gz")
    assert "errors.txt" not in texts, texts["errors.txt"]
    (found,) = waypoint_pods(cluster, client.namespace)
    name = f"{client.namespace}.{found['metadata']['name']}"
    assert f"{client.namespace}/web" in texts[f"waypoints/{name}.json"]
    assert "/open" in texts[f"logs/{name}.waypoint.log"]
    assert "name: split" in texts["cluster/httproute.yaml"]


def test_nothing_fails_when_its_replicas_are_replaced_under_load(mesh: Mesh, cluster: Cluster, client: Client) -> None:
    before = {each["metadata"]["name"] for each in waypoint_pods(cluster, client.namespace)}
    with load(cluster, client.namespace, "http://web/", node=cluster.nodes[0]) as running:
        mesh.run("waypoint", "restart", "-n", client.namespace, "--wait", "--timeout=120")
        running.more(100)
        total = running.stop()
    assert (total.failed, total.failures) == (0, {})
    assert not before & {each["metadata"]["name"] for each in waypoint_pods(cluster, client.namespace)}
    passes_the_waypoint(cluster, client)


def test_deleting_it_takes_all_away_and_traffic_goes_directly(mesh: Mesh, cluster: Cluster, client: Client) -> None:
    namespace = f"--namespace={client.namespace}"
    done = mesh.attempt("waypoint", "delete", "waypoint", "-n", client.namespace)
    assert done.returncode == 0
    # Who asks for a waypoint is not called past it; the command says what is left to do.
    assert f"namespace {client.namespace} still asks for it" in done.stderr
    refused(client, "http://web/", _CHANGE_SECONDS)

    def all_is_gone() -> None:
        assert cluster.kubectl("get", f"{_OWNED},pods", _OF_THE_WAYPOINT, namespace, "-o", "name") == ""

    eventually(all_is_gone, seconds=_CHANGE_SECONDS)
    cluster.kubectl("label", "namespace", client.namespace, "istio.io/use-waypoint-")
    eventually(lambda: goes_directly(cluster, client), seconds=_CHANGE_SECONDS)
