"""The mesh taken out of a cluster; named so that it is the last to use the mesh of the session."""

from __future__ import annotations

import pytest

from tests.e2e.kit.cluster import Cluster
from tests.e2e.kit.mesh import AMBIENT, Mesh
from tests.e2e.kit.waiting import eventually
from tests.e2e.kit.workloads import Client, start_web

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def client(mesh: Mesh, cluster: Cluster, cluster_namespace: str) -> Client:
    """On node 1, in the mesh, with the server on both nodes."""
    cluster.kubectl("label", "namespace", cluster_namespace, AMBIENT)
    start_web(cluster, cluster_namespace)
    made = Client(cluster, cluster_namespace)

    def all_are_captured() -> None:
        assert all(mesh.captured(cluster_namespace).values())

    eventually(all_are_captured)
    return made


def test_uninstalling_leaves_nothing(mesh: Mesh, cluster: Cluster, client: Client) -> None:
    mesh.uninstall()
    assert not any(mesh.captured(client.namespace).values())
    kinds = "all,configmaps,secrets,leases,serviceaccounts,roles,rolebindings,clusterroles,clusterrolebindings"
    assert "ambimesh" not in cluster.kubectl("get", f"{kinds},namespaces", "--all-namespaces", "-o", "name")
    for node in cluster.nodes:
        assert node.execute("sh", "-c", "ls -A /run/ambimesh; ls /sys/fs/bpf | grep -v '[.]debug$' || true") == ""
        assert "ambimesh" not in node.execute("sh", "-c", "ls /opt/cni/bin; cat /etc/cni/net.d/*")
    # In clear again, as before; no ztunnel could have carried it.
    assert client.get("http://web/")["peer"]
    Client(cluster, client.namespace, "after")
