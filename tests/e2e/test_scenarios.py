"""What happens to clusters happens to this one; a load counts what it costs."""

from __future__ import annotations

import pytest

from tests.e2e.kit.cluster import Cluster
from tests.e2e.kit.control_plane import KubectlFailed
from tests.e2e.kit.scenarios import api_server_away, load, reboot, restart_pods
from tests.e2e.kit.workloads import Client, apply, pod, start_web, web_pods

pytestmark = pytest.mark.e2e

_AWAY_SECONDS = 15.0


@pytest.fixture(scope="module")
def client(cluster: Cluster, cluster_namespace: str) -> Client:
    """On node 1, in a namespace with the server on both nodes."""
    start_web(cluster, cluster_namespace)
    return Client(cluster, cluster_namespace)


def names(cluster: Cluster, namespace: str) -> set[str]:
    return {found["metadata"]["name"] for found in web_pods(cluster, namespace).values()}


def test_a_rollout_under_load_fails_no_request(cluster: Cluster, client: Client) -> None:
    before = names(cluster, client.namespace)
    with load(cluster, client.namespace, "http://web/") as running:
        restart_pods(cluster, "deployment/web", client.namespace)
        running.more(100)
        total = running.stop()
    after = names(cluster, client.namespace)
    assert not before & after
    assert set(total.answered_by) >= before | after
    assert (total.failed, total.failures) == (0, {})


def test_a_load_counts_what_fails(cluster: Cluster, client: Client) -> None:
    """Servers that are killed without grace, all at once, are missed."""
    with load(cluster, client.namespace, "http://web/", name="counting") as running:
        cluster.kubectl(
            "delete", "pods", "--selector=app=web", f"--namespace={client.namespace}", "--force", "--grace-period=0"
        )
        cluster.rolled_out("deployment/web", f"--namespace={client.namespace}")
        running.more(50)
        total = running.stop()
    assert total.failed > 0
    assert sum(total.failures.values()) == total.failed
    assert sum(total.answered_by.values()) == total.requests - total.failed


def test_pods_of_a_daemon_set_are_replaced(cluster: Cluster, client: Client) -> None:
    made = pod("everywhere", ["sleep", "infinity"])
    template = {"metadata": {"labels": made["metadata"]["labels"]}, "spec": made["spec"]}
    spec = {"selector": {"matchLabels": made["metadata"]["labels"]}, "template": template}
    apply(
        cluster,
        client.namespace,
        {"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "everywhere"}, "spec": spec},
    )
    cluster.rolled_out("daemonset/everywhere", f"--namespace={client.namespace}")

    def pods() -> dict[str, str]:
        found = cluster.objects("pods", "--selector=app=everywhere", f"--namespace={client.namespace}")
        return {each["spec"]["nodeName"]: each["metadata"]["uid"] for each in found}

    before = pods()
    assert set(before) == {"node1", "node2"}
    restart_pods(cluster, "daemonset/everywhere", client.namespace)
    after = pods()
    assert set(after) == set(before)
    assert not set(after.values()) & set(before.values())
    cluster.kubectl("delete", "daemonset", "everywhere", f"--namespace={client.namespace}")


def test_pods_serve_on_while_the_api_server_is_away(cluster: Cluster, client: Client) -> None:
    with load(cluster, client.namespace, "http://web/", name="away") as running:
        before = running.totals().requests
        # For as long as it takes in real life where the mesh is there, too (`test_mesh_faults.py`).
        with api_server_away(cluster, _AWAY_SECONDS), pytest.raises(KubectlFailed, match="refused"):
            cluster.kubectl("get", "nodes")
        for node in cluster.nodes:
            cluster.wait_node(node, "True")
        total = running.stop()
    assert total.requests > before
    assert (total.failed, total.failures) == (0, {})


def test_a_node_reboots(cluster: Cluster, client: Client) -> None:
    """All that ran on it is started again; its disk has kept the images, its memory nothing."""
    node = cluster.nodes[1]
    node.execute("sh", "-c", "echo kept >/etc/kept; echo lost >/run/lost")
    before = {
        found["metadata"]["name"]: found["status"]["containerStatuses"][0]["restartCount"]
        for found in web_pods(cluster, client.namespace).values()
        if found["spec"]["nodeName"] == node.name
    }
    assert before
    reboot(cluster, node)
    assert node.execute("sh", "-c", "cat /etc/kept; ls /run/lost 2>&1 || true").startswith("kept\nls: cannot access")
    found = web_pods(cluster, client.namespace)[node.name]
    name = found["metadata"]["name"]
    assert found["status"]["containerStatuses"][0]["restartCount"] > before.get(name, -1)
    assert client.get(f"http://{found['status']['podIP']}:8080/")["pod"] == name
