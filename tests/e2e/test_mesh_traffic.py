"""What pods do everywhere, in the mesh and under STRICT: probes, Jobs, StatefulSets, and what the wire shows of it."""

from __future__ import annotations

import functools
import json
import secrets
from collections.abc import Iterator

import pytest

from tests.e2e.kit.cluster import Cluster
from tests.e2e.kit.control_plane import KubectlFailed
from tests.e2e.kit.mesh import AMBIENT, Mesh
from tests.e2e.kit.waiting import eventually
from tests.e2e.kit.wire import opened, recorded
from tests.e2e.kit.workloads import (
    PROBES,
    SERVER,
    Client,
    apply,
    job,
    pod,
    probed,
    refused,
    start_web,
    stateful,
    wait_ready,
    web_pods,
)

pytestmark = pytest.mark.e2e

_CHANGE_SECONDS = 60.0
_TLS_HANDSHAKE = b"\x16\x03"
"""How the first record of a TLS connection begins."""


@pytest.fixture(scope="module")
def mesh(cluster_mesh: Mesh) -> Mesh:
    """Of the whole session."""
    return cluster_mesh


@pytest.fixture(scope="module")
def client(mesh: Mesh, cluster: Cluster, cluster_namespace: str) -> Client:
    """On node 1 in the mesh, with the server on both nodes; its namespace takes nothing in clear."""
    cluster.kubectl("label", "namespace", cluster_namespace, AMBIENT)
    mesh.apply_policy(cluster_namespace, "PeerAuthentication", "strict", {"mtls": {"mode": "STRICT"}})
    start_web(cluster, cluster_namespace)
    return Client(cluster, cluster_namespace)


@pytest.fixture(scope="module")
def outsider(cluster: Cluster) -> Iterator[Client]:
    """On node 1, in a namespace without the mesh, with a server on node 2 beside it."""
    cluster.kubectl("create", "namespace", "plain")
    cluster.kubectl("wait", "--namespace=plain", "--for=create", "serviceaccount/default", "--timeout=60s")
    apply(cluster, "plain", pod("server", SERVER, cluster.nodes[1]))
    wait_ready(cluster, "plain", "server")
    yield Client(cluster, "plain")
    cluster.kubectl("delete", "namespace", "plain", "--wait=false")


def test_probes_of_every_kind_pass_strict(mesh: Mesh, cluster: Cluster, client: Client, outsider: Client) -> None:
    """They tell ready from not as they do without the mesh, while nobody else comes in in clear."""
    namespace = f"--namespace={client.namespace}"
    refused(outsider, f"http://web.{client.namespace}/", _CHANGE_SECONDS)
    names = {kind: (f"{kind}-good", f"{kind}-bad") for kind in PROBES}
    for kind, probes in PROBES.items():
        apply(cluster, client.namespace, *(probed(*each) for each in zip(names[kind], probes, strict=True)))
    wait_ready(cluster, client.namespace, *(good for good, _ in names.values()))

    def failed(bad: str) -> None:
        assert "Readiness probe failed" in cluster.kubectl(
            "get", "events", namespace, f"--field-selector=involvedObject.name={bad}"
        )

    for good, bad in names.values():
        eventually(functools.partial(failed, bad), seconds=_CHANGE_SECONDS)
        assert mesh.captured(client.namespace)[good]
        (found,) = cluster.objects("pod", good, namespace)
        refused(outsider, f"http://{found['status']['podIP']}:8080/", _CHANGE_SECONDS)
    cluster.kubectl("delete", namespace, "pod", *(name for both in names.values() for name in both), "--now")


def test_a_job_ends_and_its_pods_are_let_go(mesh: Mesh, cluster: Cluster, client: Client) -> None:
    namespace = f"--namespace={client.namespace}"
    cluster.kubectl("create", "serviceaccount", "worker", namespace)
    apply(cluster, client.namespace, job("asking", client.asking("http://web/job"), account="worker"))
    cluster.kubectl("wait", namespace, "--for=condition=Complete", "job/asking", "--timeout=100s")
    said = cluster.kubectl("logs", namespace, "--selector=job-name=asking")
    assert said.count('"path": "/job"') == 2
    pods = {each["metadata"]["name"] for each in cluster.objects("pods", "--selector=job-name=asking", namespace)}
    identity = f"spiffe://cluster.local/ns/{client.namespace}/sa/worker"

    def logged() -> None:
        found = {each["src.workload"] for each in mesh.connections() if each.get("src.identity") == identity}
        assert found == pods

    eventually(logged, seconds=_CHANGE_SECONDS)

    def let_go() -> None:
        served = mesh.served(client.namespace)
        assert client.name in served
        assert not pods & served
        known = {each["name"] for dump in mesh.dumps().values() for each in dump["workloads"]}
        assert not pods & known

    # The pods themselves stay, for their logs.
    eventually(let_go, seconds=_CHANGE_SECONDS)
    assert len(cluster.objects("pods", "--selector=job-name=asking", namespace)) == 2
    cluster.kubectl("delete", namespace, "job/asking")


def test_pods_of_a_stateful_set_are_reached_by_name_with_their_identity(
    mesh: Mesh, cluster: Cluster, client: Client
) -> None:
    namespace = f"--namespace={client.namespace}"
    cluster.kubectl("create", "serviceaccount", "store", namespace)
    apply(cluster, client.namespace, *stateful("store", account="store"))
    cluster.rolled_out("statefulset/store", namespace)
    account = f"spiffe://cluster.local/ns/{client.namespace}/sa"

    def answers(name: str) -> None:
        assert client.get(f"http://{name}.store:8080/")["pod"] == name

    def logged(name: str, address: str) -> None:
        found = {
            (each.get("src.identity"), each.get("dst.identity"))
            for each in mesh.connections()
            if each.get("dst.workload") == name and each.get("dst.addr", "").startswith(address)
        }
        # Of a pod on the client's own node the kernel may have carried it, who knows both.
        assert found == {(f"{account}/default", f"{account}/store")}

    # The last one is replaced: the same name at another address, and not a stranger there.
    for name, replaced in (("store-0", False), ("store-1", False), ("store-1", True)):
        if replaced:
            cluster.kubectl("delete", namespace, "pod", name, "--now")
            cluster.rolled_out("statefulset/store", namespace)
        (found,) = cluster.objects("pod", name, namespace)
        # CoreDNS keeps a name's absence, and its address, for five seconds.
        eventually(functools.partial(answers, name), during=KubectlFailed)
        eventually(functools.partial(logged, name, found["status"]["podIP"]), seconds=_CHANGE_SECONDS)
    cluster.kubectl("delete", namespace, "statefulset/store", "service/store")


def test_network_policies_are_looked_at_for_the_tunnels_port(mesh: Mesh, cluster: Cluster, client: Client) -> None:
    """What the command says of them. The cluster's bridge enforces none, so traffic passes in either case."""

    def admit(*ports: int) -> None:
        ingress = [{"ports": [{"protocol": "TCP", "port": port} for port in ports]}]
        spec = {"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Ingress"], "ingress": ingress}
        metadata = {"name": "web-only"}
        policy = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec}
        apply(cluster, client.namespace, policy)

    admit(8080)
    done = mesh.attempt("check", "--cluster", "-o", "json")
    assert done.returncode == 1
    (failed,) = (each for each in json.loads(done.stdout) if each["level"] == "failed")
    assert failed["name"] == "NetworkPolicies"
    assert f"{client.namespace}/web-only keeps ingress TCP 15008" in failed["detail"]
    for each in web_pods(cluster, client.namespace).values():
        assert each["metadata"]["name"] in failed["detail"]
    admit(8080, 15008)
    found = {each["name"]: each["level"] for each in mesh.asked("check", "--cluster")}
    assert found["NetworkPolicies"] == "ok"
    assert client.get("http://web/")["pod"]
    cluster.kubectl("delete", "networkpolicy", "web-only", f"--namespace={client.namespace}")


def test_only_tls_passes_between_the_nodes(mesh: Mesh, cluster: Cluster, client: Client, outsider: Client) -> None:
    marker = f"marker-{secrets.token_hex(8)}"
    (server,) = cluster.objects("pod", "server", "--namespace=plain")
    there = web_pods(cluster, client.namespace)[cluster.nodes[1].name]["metadata"]["name"]
    with recorded(cluster) as recording:
        # A pod that has no tunnel yet, so that the beginning of one is seen.
        fresh = Client(cluster, client.namespace, "fresh")
        (own,) = cluster.objects("pod", "fresh", f"--namespace={client.namespace}")
        found = fresh.ask(f"http://web/{marker}", times=20, x_marker=marker)
        assert there in {each.pod for each in found}
        # Without the mesh the recording shows everything.
        assert outsider.ask(f"http://{server['status']['podIP']}:8080/", x_plain=f"plain-{marker}")[0].pod == "server"
    assert f"plain-{marker}".encode() in recording.content
    mine = recording.of(own["status"]["podIP"])
    assert sum(len(each.payload) for each in mine) > len(marker) * 10
    assert all(15008 in (each.source.port, each.destination.port) for each in mine)
    begun = opened(mine)
    assert begun
    assert all(first.startswith(_TLS_HANDSHAKE) for first in begun), begun
    assert not any(marker.encode() in each.payload for each in mine)
