"""What is wrong on a node or in the API: told where its user looks, what runs goes on, and mended it is as before."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from resources.kube.kinds import API_KINDS
from tests.e2e.kit.cluster import Cluster
from tests.e2e.kit.control_plane import KubectlFailed
from tests.e2e.kit.definitions import definition
from tests.e2e.kit.faults import CONFLIST, conflist_repaired, pods_on, write_file
from tests.e2e.kit.mesh import AMBIENT, NAMESPACE, Mesh
from tests.e2e.kit.node import Node
from tests.e2e.kit.node_files import cni_configuration
from tests.e2e.kit.waiting import eventually
from tests.e2e.kit.workloads import Client, apply, pod, start_web, web_pods

pytestmark = pytest.mark.e2e

_CHANGE_SECONDS = 60.0
_BROKEN = "/etc/cni/net.d/05-broken.conflist"
_PLUGINS = "/opt/cni/bin"


@pytest.fixture(scope="module")
def client(cluster_mesh: Mesh, cluster: Cluster, cluster_namespace: str) -> Client:
    """On node 1, with the server on both nodes, all in the mesh."""
    cluster.kubectl("label", "namespace", cluster_namespace, AMBIENT)
    start_web(cluster, cluster_namespace)
    made = Client(cluster, cluster_namespace)
    cluster_mesh.wait_captured(cluster_namespace, _CHANGE_SECONDS)
    return made


def wait_told(cluster: Cluster, node: Node, reason: str, text: str) -> None:
    """Wait for an event of a node, where ``kubectl describe node`` finds it."""
    fields = f"--field-selector=involvedObject.kind=Node,involvedObject.name={node.name},reason={reason}"

    def look() -> None:
        notes = [each["message"] for each in cluster.objects("events", "--namespace=default", fields)]
        assert any(text in note for note in notes), notes

    eventually(look, seconds=_CHANGE_SECONDS)


def asks_the_other_node(cluster: Cluster, client: Client) -> None:
    """By the pod's address: a node that is not ready takes its pods out of Services."""
    there = web_pods(cluster, client.namespace)[cluster.nodes[1].name]
    assert client.get(f"http://{there['status']['podIP']}:8080/")["pod"] == there["metadata"]["name"]


def starts_in_the_mesh(mesh: Mesh, cluster: Cluster, client: Client, node: Node) -> None:
    """A new pod on a node is in the mesh from its start, and reaches others."""
    late = Client(cluster, client.namespace, f"late-{len(mesh.captured(client.namespace))}", node)
    assert mesh.captured(client.namespace)[late.name]
    eventually(lambda: late.get("http://web/"), during=KubectlFailed, seconds=_CHANGE_SECONDS)


@contextmanager
def on_a_full_disk(node: Node) -> Iterator[None]:
    """The runtime's folder of plugins on a disk that has room for their names and no more."""
    node.execute("mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", _PLUGINS)
    try:
        node.execute("sh", "-c", f"ln -s /usr/lib/cni/* {_PLUGINS}")
        yield
    finally:
        node.execute("umount", "--lazy", _PLUGINS)


def restart_agent(cluster: Cluster, node: Node) -> None:
    """Another agent, which sees the node's folders as they are now."""
    (name,) = pods_on(cluster, "agent", node)
    cluster.kubectl("delete", "pod", name, f"--namespace={NAMESPACE}", "--timeout=60s")


def test_keys_that_nobody_knows_are_kept_and_pods_start(cluster_mesh: Mesh, cluster: Cluster, client: Client) -> None:
    there = cluster.nodes[1]
    changed = json.loads(cni_configuration(there.number))
    changed["nobodyKnows"] = {"kept": [1, None, "\N{SNOWMAN}"]}
    changed["plugins"][0]["neitherThis"] = 1.5
    write_file(there, CONFLIST, json.dumps(changed))
    eventually(lambda: conflist_repaired(there, changed), seconds=_CHANGE_SECONDS)
    starts_in_the_mesh(cluster_mesh, cluster, client, there)
    conflist_repaired(there, changed)


def test_a_broken_file_before_the_networks_own(cluster_mesh: Mesh, cluster: Cluster, client: Client) -> None:
    """Containerd takes none at all then; the file is somebody's, and is left to them."""
    there = cluster.nodes[1]
    before = there.execute("cat", CONFLIST)
    write_file(there, _BROKEN, '{"name": ')
    try:
        cluster.wait_node(there, "False")
        wait_told(cluster, there, "CniConfigurationUnusable", f"{_BROKEN}: not JSON")
        found = cluster_mesh.checked()
        assert f"{there.name}: {_BROKEN}: not JSON" in found["CNI of nodes"]["detail"]
        assert f"not ready: {there.name}: " in found["nodes"]["detail"]
        asks_the_other_node(cluster, client)
        assert (there.execute("cat", _BROKEN), there.execute("cat", CONFLIST)) == ('{"name": ', before)
    finally:
        there.execute("rm", _BROKEN)
    cluster.wait_node(there, "True")
    starts_in_the_mesh(cluster_mesh, cluster, client, there)


def test_the_networks_own_file_is_broken(cluster_mesh: Mesh, cluster: Cluster, client: Client) -> None:
    there = cluster.nodes[1]
    original = cni_configuration(there.number)
    write_file(there, CONFLIST, original[:-20])
    try:
        eventually(
            lambda: _names(f"{CONFLIST}: not JSON", cluster_mesh.not_ready_because("agent", there)),
            seconds=_CHANGE_SECONDS,
        )
        wait_told(cluster, there, "CniConfigurationUnusable", f"{CONFLIST}: not JSON")
        assert f"{there.name}: {CONFLIST}: not JSON" in cluster_mesh.checked()["CNI of nodes"]["detail"]
        asks_the_other_node(cluster, client)
        assert there.execute("cat", CONFLIST) == original[:-20]
    finally:
        write_file(there, CONFLIST, original)
    eventually(lambda: conflist_repaired(there, json.loads(original)), seconds=_CHANGE_SECONDS)
    cluster.wait_node(there, "True")
    eventually(lambda: _is(cluster_mesh.not_ready_because("agent", there), ""), seconds=_CHANGE_SECONDS)
    starts_in_the_mesh(cluster_mesh, cluster, client, there)


def test_no_room_for_the_plugin(cluster_mesh: Mesh, cluster: Cluster, client: Client) -> None:
    """New pods of the node wait, and start in the mesh once there is room."""
    there = cluster.nodes[1]
    with on_a_full_disk(there):
        restart_agent(cluster, there)
        wait_told(cluster, there, "CniPluginNotInstalled", "No space left on device")
        row = cluster_mesh.checked()["agent on nodes"]
        assert row["level"] == "failed"
        assert f"not ready on {there.name}: the CNI plugin is not installed" in row["detail"]
        assert "No space left on device" in row["detail"]
        asks_the_other_node(cluster, client)
        waiting = pod("waiting", ["sleep", "infinity"], there)
        apply(cluster, client.namespace, waiting)

        def told() -> None:
            fields = "--field-selector=involvedObject.name=waiting,reason=FailedCreatePodSandBox"
            events = cluster.objects("events", f"--namespace={client.namespace}", fields)
            assert any("ambimesh-cni" in each["message"] for each in events), events

        eventually(told, seconds=_CHANGE_SECONDS)
    restart_agent(cluster, there)
    cluster.rolled_out("daemonset/ambimesh-agent", f"--namespace={NAMESPACE}")
    ready = ("--for=condition=Ready", "pod/waiting", "--timeout=120s")
    cluster.kubectl("wait", f"--namespace={client.namespace}", *ready)
    assert cluster_mesh.captured(client.namespace)["waiting"]


def test_what_may_not_or_cannot_be_read_is_told_and_the_rest_goes_on(
    cluster_mesh: Mesh, cluster: Cluster, client: Client
) -> None:
    """A right taken away, and a definition from the future."""
    role = json.loads(cluster.kubectl("get", "clusterrole", "ambimesh-operator", "-o", "json"))
    less = {"rules": [rule for rule in role["rules"] if "telemetries" not in rule.get("resources", ())]}
    future = definition(API_KINDS["TCPRoute"])
    future["spec"]["versions"][0]["name"] = "v7"
    name = f"{API_KINDS['TCPRoute'].plural}.{API_KINDS['TCPRoute'].group}"
    try:
        cluster.kubectl("patch", "clusterrole", "ambimesh-operator", "--type=merge", "-p", json.dumps(less))
        cluster.kubectl("apply", "-f", "-", manifest=json.dumps(future))

        def told() -> None:
            row = cluster_mesh.checked()["objects and rights"]
            assert row["level"] == "warning"
            assert "telemetries may not be read" in row["detail"]
            assert 'cannot list resource "telemetries" in API group "telemetry.istio.io"' in row["detail"]
            assert "tcproutes cannot be read" in row["detail"]
            assert "v7" in row["detail"]

        eventually(told, seconds=_CHANGE_SECONDS)
        fields = "--field-selector=involvedObject.name=ambimesh-operator,reason=NotRead"

        def events() -> None:
            notes = " ".join(each["message"] for each in cluster.objects("events", f"--namespace={NAMESPACE}", fields))
            assert "telemetries may not be read" in notes
            assert "tcproutes cannot be read" in notes

        eventually(events, seconds=_CHANGE_SECONDS)
        starts_in_the_mesh(cluster_mesh, cluster, client, cluster.nodes[1])
    finally:
        whole = {"rules": role["rules"]}
        cluster.kubectl("patch", "clusterrole", "ambimesh-operator", "--type=merge", "-p", json.dumps(whole))
        cluster.kubectl("delete", "crd", name, "--ignore-not-found")
    eventually(lambda: _is(cluster_mesh.checked()["objects and rights"]["level"], "ok"), seconds=2 * _CHANGE_SECONDS)


def test_another_mesh_is_told_and_a_second_one_refused(cluster_mesh: Mesh, cluster: Cluster, client: Client) -> None:
    labels = {"app": "ztunnel"}
    template = pod("ztunnel", ["sleep", "infinity"])
    spec = {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": template["spec"]}}
    cluster.kubectl("create", "namespace", "istio-system")
    try:
        apply(
            cluster,
            "istio-system",
            {"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "ztunnel"}, "spec": spec},
        )
        row = cluster_mesh.checked()["other meshes"]
        assert (row["level"], "istio-system/ztunnel" in row["detail"]) == ("failed", True), row
        fields = "--field-selector=involvedObject.name=ambimesh-operator,reason=OtherMesh"

        def told() -> None:
            notes = [each["message"] for each in cluster.objects("events", f"--namespace={NAMESPACE}", fields)]
            assert any("Istio's ztunnel" in note and "in namespace istio-system" in note for note in notes), notes

        eventually(told, seconds=_CHANGE_SECONDS)
    finally:
        cluster.kubectl("delete", "namespace", "istio-system", "--timeout=100s")
    for options in ((), ("--skip-checks",)):
        second = cluster_mesh.attempt("install", "--mesh-namespace", "second", *options)
        assert second.returncode != 0
        assert NAMESPACE in second.stdout + second.stderr
    assert cluster.objects("namespaces", "--field-selector=metadata.name=second") == []
    client.get("http://web/")


def _names(what: str, text: str) -> None:
    assert what in text, text


def _is(found: str, expected: str) -> None:
    assert found == expected
