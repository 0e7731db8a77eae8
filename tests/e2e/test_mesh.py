"""The mesh in a cluster of two nodes: used, restarted under load."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from tests.e2e.kit.cluster import Cluster
from tests.e2e.kit.control_plane import KubectlFailed
from tests.e2e.kit.mesh import AMBIENT, NAMESPACE, PARTS, Mesh
from tests.e2e.kit.scenarios import load, restart_pods
from tests.e2e.kit.waiting import eventually
from tests.e2e.kit.workloads import Client, apply, pod, start_web, wait_ready, web_pods

pytestmark = pytest.mark.e2e

_CHANGE_SECONDS = 30.0
"""For a policy to be in force everywhere; definitions that are new are looked for every few seconds."""


@pytest.fixture(scope="module")
def mesh(cluster_mesh: Mesh) -> Mesh:
    """Of the whole session."""
    return cluster_mesh


@pytest.fixture(scope="module")
def client(mesh: Mesh, cluster: Cluster, cluster_namespace: str) -> Client:
    """On node 1, with the server on both nodes; all of them are there before the namespace is enrolled."""
    start_web(cluster, cluster_namespace)
    made = Client(cluster, cluster_namespace)
    cluster.kubectl("label", "namespace", cluster_namespace, AMBIENT)
    return made


@pytest.fixture(scope="module")
def outsider(cluster: Cluster) -> Iterator[Client]:
    """On node 1, in a namespace without the mesh."""
    cluster.kubectl("create", "namespace", "outside")
    cluster.kubectl("wait", "--namespace=outside", "--for=create", "serviceaccount/default", "--timeout=60s")
    yield Client(cluster, "outside")
    cluster.kubectl("delete", "namespace", "outside", "--timeout=100s")


def refused(client: Client, url: str) -> None:
    """Wait until a client's connections to a URL end without an answer."""

    def look() -> None:
        try:
            said = str(client.get(url))
        except KubectlFailed as error:
            said = str(error)
        assert re.search("reset by peer|Remote end closed", said), said

    eventually(look, seconds=_CHANGE_SECONDS)


def test_running_and_new_pods_are_captured(mesh: Mesh, cluster: Cluster, client: Client) -> None:
    def all_are() -> None:
        found = mesh.captured(client.namespace)
        assert len(found) == 3
        assert all(found.values()), found

    eventually(all_are, seconds=_CHANGE_SECONDS)
    Client(cluster, client.namespace, "late", cluster.nodes[1])
    assert mesh.captured(client.namespace)["late"]
    assert not any(mesh.captured(NAMESPACE).values())


def test_a_service_is_reached_across_nodes_with_both_identities(mesh: Mesh, cluster: Cluster, client: Client) -> None:
    there = web_pods(cluster, client.namespace)[cluster.nodes[1].name]["metadata"]["name"]

    def asked() -> None:
        assert client.get(f"http://web.{client.namespace}/")["pod"] == there

    eventually(asked, seconds=_CHANGE_SECONDS)
    identity = f"spiffe://cluster.local/ns/{client.namespace}/sa/default"

    def logged() -> None:
        between = [
            each
            for each in mesh.connections()
            if (each.get("src.workload"), each.get("dst.workload")) == (client.name, there) and "error" not in each
        ]
        assert {each["direction"] for each in between} == {"inbound", "outbound"}
        for each in between:
            assert (each["src.identity"], each["dst.identity"]) == (identity, identity)
            assert each["dst.addr"].endswith(":15008")

    eventually(logged, seconds=_CHANGE_SECONDS)


def test_strict_refuses_plaintext_and_lets_probes_through(
    mesh: Mesh, cluster: Cluster, client: Client, outsider: Client
) -> None:
    url = f"http://web.{client.namespace}/"
    assert outsider.get(url)["pod"]
    mesh.apply_policy(client.namespace, "PeerAuthentication", "strict", {"mtls": {"mode": "STRICT"}})
    refused(outsider, url)
    assert client.get(url)["pod"]
    # New pods become ready by probes only, and stay so.
    restart_pods(cluster, "deployment/web", client.namespace)
    refused(outsider, url)


def test_probes_pass_after_kubelet_was_restarted(mesh: Mesh, cluster: Cluster, client: Client) -> None:
    for node in cluster.nodes:
        node.restart("kubelet")
    for node in cluster.nodes:
        cluster.wait_node(node, "True")
    restart_pods(cluster, "deployment/web", client.namespace)
    assert mesh.logs("agent").count("kubelet's cgroup found") >= 2 * len(cluster.nodes)


def test_a_policy_of_layer_4_lets_an_identity_in_and_no_other(mesh: Mesh, cluster: Cluster, client: Client) -> None:
    cluster.kubectl("create", "serviceaccount", "friend", f"--namespace={client.namespace}")
    friend = pod("friend", ["sleep", "infinity"], cluster.nodes[0])
    friend["spec"]["serviceAccountName"] = "friend"
    apply(cluster, client.namespace, friend)
    wait_ready(cluster, client.namespace, "friend")
    principal = f"cluster.local/ns/{client.namespace}/sa/friend"
    spec = {
        "selector": {"matchLabels": {"app": "web"}},
        "rules": [{"from": [{"source": {"principals": [principal]}}]}],
    }
    mesh.apply_policy(client.namespace, "AuthorizationPolicy", "friends", spec)
    refused(client, "http://web/")
    answered = set()
    for _ in range(20):
        said = cluster.kubectl("exec", f"--namespace={client.namespace}", "friend", "--", *client.asking("http://web/"))
        answered.add(json.loads(said)["pod"])
        with pytest.raises(KubectlFailed):
            client.get("http://web/")
    assert len(answered) == 2
    cluster.kubectl("delete", "authorizationpolicy", "friends", f"--namespace={client.namespace}")
    eventually(lambda: client.get("http://web/"), during=KubectlFailed, seconds=_CHANGE_SECONDS)


def test_nothing_fails_when_everything_is_replaced_under_load(mesh: Mesh, cluster: Cluster, client: Client) -> None:
    with load(cluster, client.namespace, "http://web/", node=cluster.nodes[0]) as running:
        restart_pods(cluster, "deployment/web", client.namespace)
        running.more(50)
        for part in PARTS:
            restart_pods(cluster, part, NAMESPACE)
            running.more(50)
        total = running.stop()
    assert (total.failed, total.failures) == (0, {})
    assert len(total.answered_by) >= 3
