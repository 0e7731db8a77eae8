"""The mesh taken out of a cluster, after all that others have tried on it: the last of these tests."""

from __future__ import annotations

import json

import pytest

from tests.e2e.kit.cgroups import find_hierarchies
from tests.e2e.kit.cluster import Cluster
from tests.e2e.kit.mesh import AMBIENT, Mesh
from tests.e2e.kit.node import Node
from tests.e2e.kit.node_files import cni_configuration
from tests.e2e.kit.scenarios import load
from tests.e2e.kit.workloads import Client, start_web

pytestmark = pytest.mark.e2e

_CHANGE_SECONDS = 60.0
_PINS = "ls -A /run/ambimesh; ls /sys/fs/bpf | grep -v '[.]debug$' || true"
_FILES = "ls -A /opt/cni/bin /etc/cni/net.d; cat /etc/cni/net.d/*"


def attached(node: Node) -> str:
    """The mesh's programs at the node's cgroups."""
    (unified,) = (each.mounted for each in find_hierarchies() if each.kind == "cgroup2")
    return "\n".join(line for line in node.execute("bpftool", "cgroup", "tree", unified).splitlines() if "mesh" in line)


def test_uninstalling_leaves_nothing(cluster_mesh: Mesh, cluster: Cluster, cluster_namespace: str) -> None:
    mesh, namespace = cluster_mesh, cluster_namespace
    start_web(cluster, namespace)
    client = Client(cluster, namespace)
    cluster.kubectl("label", "namespace", namespace, AMBIENT)
    mesh.wait_captured(namespace, _CHANGE_SECONDS)
    for node in cluster.nodes:
        assert "mesh_connect4" in attached(node)
        assert "ambimesh" in node.execute("sh", "-c", _FILES)
    with load(cluster, namespace, "http://web/", "through", cluster.nodes[0]) as running:
        mesh.uninstall()
        running.more(50)
        total = running.stop()
    # In clear again, as before; no ztunnel could have carried it.
    assert (total.failed, total.failures) == (0, {})
    assert not any(mesh.captured(namespace).values())
    kinds = "all,configmaps,secrets,leases,serviceaccounts,roles,rolebindings,clusterroles,clusterrolebindings"
    assert "ambimesh" not in cluster.kubectl("get", f"{kinds},namespaces", "--all-namespaces", "-o", "name")
    for node in cluster.nodes:
        assert node.execute("sh", "-c", _PINS) == ""
        assert "ambimesh" not in node.execute("sh", "-c", _FILES)
        chain = json.loads(node.execute("cat", "/etc/cni/net.d/10-pods.conflist"))
        original = json.loads(cni_configuration(node.number))
        assert {key: chain[key] for key in original} == original
        assert attached(node) == ""
        (found,) = cluster.objects("node", node.name)
        assert "ambimesh" not in json.dumps([found["spec"], found["metadata"]["labels"]])
    assert client.get("http://web/")["peer"]
    Client(cluster, namespace, "after")
