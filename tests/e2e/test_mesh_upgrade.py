"""The mesh upgraded under load, to images that are there and to images that are not."""

from __future__ import annotations

import re

import pytest

from tests.e2e.kit.cluster import Cluster
from tests.e2e.kit.mesh import AMBIENT, NAMESPACE, Mesh
from tests.e2e.kit.mesh_images import MESH_COMPONENTS, mesh_image
from tests.e2e.kit.scenarios import load
from tests.e2e.kit.workloads import Client, start_web

pytestmark = pytest.mark.e2e

_CHANGE_SECONDS = 60.0
_NEXT = "next"
_PARTS = {"operator", "agent", "ztunnel"}


@pytest.fixture(scope="module")
def client(cluster_mesh: Mesh, cluster: Cluster, cluster_namespace: str) -> Client:
    """On node 1, with the server on both nodes, enrolled."""
    start_web(cluster, cluster_namespace)
    made = Client(cluster, cluster_namespace)
    cluster.kubectl("label", "namespace", cluster_namespace, AMBIENT)
    cluster_mesh.wait_captured(cluster_namespace, _CHANGE_SECONDS)
    return made


def running(cluster: Cluster) -> dict[str, set[str]]:
    """The mesh's ready pods by component and tag of the image."""
    found: dict[str, set[str]] = {}
    for pod in cluster.objects("pods", f"--namespace={NAMESPACE}"):
        (status,) = pod["status"].get("containerStatuses", [{"ready": False}])
        if status["ready"] and "deletionTimestamp" not in pod["metadata"]:
            component = pod["metadata"]["labels"]["app.kubernetes.io/component"]
            tag = pod["spec"]["containers"][0]["image"].rpartition(":")[2]
            found.setdefault(f"{component}:{tag}", set()).add(pod["metadata"]["uid"])
    return found


def test_an_upgrade_under_load_fails_no_request(cluster_mesh: Mesh, cluster: Cluster, client: Client) -> None:
    for node in cluster.nodes:
        for component in MESH_COMPONENTS:
            there = mesh_image(component)
            next_one = f"{there.rpartition(':')[0]}:{_NEXT}"
            node.execute("ctr", "--namespace=k8s.io", "images", "tag", there, next_one)
    before = running(cluster)
    with load(cluster, client.namespace, "http://web/", "upgraded", cluster.nodes[0]) as requests:
        cluster_mesh.run("upgrade", "--set", f"images.tag={_NEXT}", "--set", "log.level=debug", "--timeout", "120")
        requests.more(100)
        total = requests.stop()
    after = running(cluster)
    assert {name: len(uids) for name, uids in after.items()} == {f"{each}:{_NEXT}": 2 for each in _PARTS}
    assert not set().union(*before.values()) & set().union(*after.values())
    assert (total.failed, total.failures) == (0, {})
    assert all(cluster_mesh.captured(client.namespace).values())


def test_a_broken_upgrade_says_what_failed_and_what_ran_goes_on(
    cluster_mesh: Mesh, cluster: Cluster, client: Client
) -> None:
    before = running(cluster)
    with load(cluster, client.namespace, "http://web/", "broken", cluster.nodes[0]) as requests:
        done = cluster_mesh.attempt("upgrade", "--set", "images.tag=absent", "--timeout", "15")
        said = re.sub(r"\s+", " ", done.stdout + done.stderr)
        assert done.returncode == 1, said
        assert "Deployment ambimesh-operator has 0 of 2 pods ready" in said
        assert re.search(r"image: pod ambimesh-operator-\S+ on node\d: \S+/ambimesh-operator:absent: ", said), said
        assert "ambimesh upgrade --undo" in said
        assert running(cluster) == before
        requests.more(50)
        cluster_mesh.run("upgrade", "--undo", "--timeout", "120")
        requests.more(50)
        total = requests.stop()
    assert running(cluster) == before
    assert (total.failed, total.failures) == (0, {})
    again = cluster_mesh.attempt("upgrade", "--undo")
    assert (again.returncode, "there is nothing to undo" in again.stderr) == (1, True), again.stderr


def test_an_agent_that_cannot_start_stops_the_upgrade_at_one_node(
    cluster_mesh: Mesh, cluster: Cluster, client: Client
) -> None:
    """Agents share a port and sockets of the node's, so one node is without; its pods are served all the same."""
    before = running(cluster)
    with load(cluster, client.namespace, "http://web/", "halfway", cluster.nodes[0]) as requests:
        wrong = ("--set", "agent.cniNetDirectory=/proc/absent")
        done = cluster_mesh.attempt("upgrade", *wrong, "--timeout", "25")
        said = re.sub(r"\s+", " ", done.stdout + done.stderr)
        assert done.returncode == 1, said
        assert re.search("DaemonSet ambimesh-agent has [01] of 2 pods ready", said), said
        assert re.search(r"(configuration|mount|crash|network|refused): pod ambimesh-agent-\S+ on node\d: ", said), said
        now = running(cluster)
        assert len(now[f"agent:{_NEXT}"] & before[f"agent:{_NEXT}"]) == 1
        assert now[f"ztunnel:{_NEXT}"] == before[f"ztunnel:{_NEXT}"]
        cluster_mesh.run("upgrade", "--undo", "--timeout", "120")
        requests.more(50)
        total = requests.stop()
    assert (total.failed, total.failures) == (0, {})
    assert len(running(cluster)[f"agent:{_NEXT}"]) == 2
