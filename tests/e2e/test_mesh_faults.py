"""The mesh while things break: parts of it killed, the API server away, a node switched off; nothing goes in clear."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from resources.node import NOT_READY_TAINT
from tests.e2e.kit.cluster import Cluster
from tests.e2e.kit.faults import (
    CONFLIST,
    conflist_repaired,
    kill_component,
    kill_pods,
    nodes_of,
    pods_on,
    restarts,
    wait_back,
    write_file,
)
from tests.e2e.kit.mesh import AMBIENT, Mesh
from tests.e2e.kit.node import Node
from tests.e2e.kit.node_files import cni_configuration
from tests.e2e.kit.scenarios import api_server_away, load, rebooting
from tests.e2e.kit.waiting import eventually
from tests.e2e.kit.wire import Recording, recorded
from tests.e2e.kit.workloads import Client, start_web, web_pods

pytestmark = pytest.mark.e2e

_CHANGE_SECONDS = 60.0
"""For what was changed to be so everywhere."""
_MARKER = "secret-of-the-mesh"
_URL = f"http://web/{_MARKER}"
"""Both the request and its answer hold the marker."""
_REFUSALS = re.compile("ConnectionRefusedError|ConnectionResetError|RemoteDisconnected|BrokenPipeError")


@pytest.fixture(scope="module")
def wire(cluster: Cluster) -> Iterator[Recording]:
    """What passes between the nodes while this module's tests run."""
    with recorded(cluster) as watched:
        yield watched


@pytest.fixture(scope="module")
def client(cluster_mesh: Mesh, cluster: Cluster, cluster_namespace: str, wire: Recording) -> Client:
    """On node 1, with the server on both nodes, enrolled; in clear before that, which the witness must have seen."""
    start_web(cluster, cluster_namespace)
    made = Client(cluster, cluster_namespace)
    there = web_pods(cluster, cluster_namespace)[cluster.nodes[1].name]["status"]["podIP"]
    made.get(f"http://{there}:8080/before-{_MARKER}")
    eventually(lambda: _seen(wire, f"before-{_MARKER}"))
    cluster.kubectl("label", "namespace", cluster_namespace, AMBIENT)
    cluster_mesh.wait_captured(cluster_namespace, _CHANGE_SECONDS)
    made.get(_URL)
    return made


def _seen(wire: Recording, text: str) -> None:
    assert wire.carried(text) >= 2, "the request and its answer have not been seen in clear"


def _nothing_in_clear(wire: Recording) -> None:
    assert wire.carried(f"/{_MARKER}") == 0


def _containers(cluster: Cluster, namespace: str) -> dict[str, str]:
    """The containers of servers and client, by pod."""
    pods = cluster.objects("pods", f"--namespace={namespace}", "--selector=app in (web,client)")
    return {pod["metadata"]["name"]: pod["status"]["containerStatuses"][0]["containerID"] for pod in pods}


def _not_ready(cluster: Cluster, component: str, node: Node) -> None:
    assert not restarts(cluster, component).ready & set(pods_on(cluster, component, node))


def _takes_pods(cluster: Cluster, node: Node) -> None:
    (found,) = cluster.objects("node", node.name)
    assert NOT_READY_TAINT not in [taint["key"] for taint in found["spec"].get("taints", ())]


def test_agents_and_operators_are_killed_and_nothing_fails(cluster: Cluster, client: Client, wire: Recording) -> None:
    with load(cluster, client.namespace, _URL, node=cluster.nodes[0]) as running:
        for component, nodes in (("agent", cluster.nodes), ("operator", nodes_of(cluster, "operator")[:1])):
            before = restarts(cluster, component)
            killed: set[str] = set()
            for node in nodes:
                killed |= kill_component(cluster, component, node)
            running.more(50)
            wait_back(cluster, component, before, killed)
        running.more(50)
        total = running.stop()
    assert (total.failed, total.failures) == (0, {})
    _nothing_in_clear(wire)


@pytest.mark.parametrize("side", [0, 1], ids=["of the caller", "of the server"])
def test_a_killed_ztunnel_is_missed_until_it_is_back(
    cluster: Cluster, client: Client, wire: Recording, side: int
) -> None:
    """Refused, and nothing in clear; then traffic flows again, and no pod was touched."""
    node = cluster.nodes[side]
    containers = _containers(cluster, client.namespace)
    before = restarts(cluster, "ztunnel")
    with load(cluster, client.namespace, _URL, f"load-{side}", cluster.nodes[0]) as running:
        assert running.totals().failed == 0
        killed = kill_component(cluster, "ztunnel", node)
        wait_back(cluster, "ztunnel", before, killed)
        back = running.totals()
        total = running.more(100)
        running.stop()
    assert total.failed > 0
    assert total.failed == back.failed
    assert [why for why in total.failures if not _REFUSALS.match(why)] == []
    assert _containers(cluster, client.namespace) == containers
    _nothing_in_clear(wire)


def test_a_node_reboots_and_its_pods_come_back_into_the_mesh(
    cluster_mesh: Mesh, cluster: Cluster, client: Client, wire: Recording
) -> None:
    """They ask from their first moment, and none of it goes in clear, though nothing of the mesh runs there yet."""
    mesh, namespace = cluster_mesh, client.namespace
    there = cluster.nodes[1]
    with load(cluster, namespace, _URL, "beacon", there) as beacon:
        with rebooting(cluster, there):
            _nothing_in_clear(wire)
            # As one that joins: pods are to wait for the agent, whose pod is known to be gone with the node.
            eventually(lambda: _not_ready(cluster, "agent", there), seconds=_CHANGE_SECONDS)
            cluster.kubectl("taint", "node", there.name, f"{NOT_READY_TAINT}=:NoSchedule")
        eventually(lambda: _takes_pods(cluster, there), seconds=_CHANGE_SECONDS)
        mesh.wait_captured(namespace, _CHANGE_SECONDS)

        def asks_in_vain_no_more() -> None:
            start = beacon.totals()
            assert beacon.more(100).failed == start.failed

        eventually(asks_in_vain_no_more, seconds=_CHANGE_SECONDS)
        beacon.stop()
    identity = f"spiffe://cluster.local/ns/{namespace}/sa/default"
    for _ in range(4):
        client.get(_URL)

    def logged() -> None:
        # The log of that node's ztunnel begins with its last start.
        found = {
            (each["direction"], each["src.workload"]): (each["src.identity"], each["dst.identity"])
            for each in mesh.connections(there)
            if "error" not in each and "src.workload" in each
        }
        assert found.get(("inbound", client.name)) == (identity, identity), found
        assert found.get(("outbound", "beacon")) == (identity, identity), found

    eventually(logged, seconds=_CHANGE_SECONDS)
    _nothing_in_clear(wire)


def test_without_the_api_server_everything_goes_on(
    cluster_mesh: Mesh, cluster: Cluster, client: Client, wire: Recording
) -> None:
    """Even when an agent and an operator are killed meanwhile; and what changes afterwards takes effect."""
    mesh, namespace = cluster_mesh, client.namespace
    cluster.kubectl("create", "serviceaccount", "intruder", f"--namespace={namespace}")
    principal = f"cluster.local/ns/{namespace}/sa/default"
    rules = [{"from": [{"source": {"principals": [principal]}}]}]
    mesh.apply_policy(namespace, "AuthorizationPolicy", "own", {"rules": rules})
    here, there = cluster.nodes
    with ExitStack() as stack:
        new = stack.enter_context(load(cluster, namespace, _URL, "new", here))
        options = ["--of-a-connection=1000000"]
        kept = stack.enter_context(load(cluster, namespace, _URL, "kept", here, options=options))
        intruder = stack.enter_context(load(cluster, namespace, _URL, "intruder", there, account="intruder"))

        def refused() -> None:
            start = intruder.totals()
            end = intruder.more(20)
            assert end.requests - start.requests == end.failed - start.failed

        eventually(refused, seconds=_CHANGE_SECONDS)
        admitted = sum(intruder.totals().answered_by.values())
        before = {component: restarts(cluster, component) for component in ("operator", "agent", "ztunnel")}
        begun = new.totals().requests
        doomed = {"agent": there, "operator": nodes_of(cluster, "operator")[0]}
        pods = {component: pods_on(cluster, component, node) for component, node in doomed.items()}
        with api_server_away(cluster):
            killed = {component: kill_pods(doomed[component], pods[component]) for component in doomed}
            # The plugin's entry does not need the API server to be put back either.
            changed = json.loads(cni_configuration(there.number))
            changed["nobodyKnows"] = {"kept": [1, 2]}
            write_file(there, CONFLIST, json.dumps(changed))

        eventually(lambda: conflist_repaired(there, changed), seconds=_CHANGE_SECONDS)
        for node in cluster.nodes:
            cluster.wait_node(node, "True")
        for component, state in before.items():
            wait_back(cluster, component, state, killed.get(component, set()))
        assert new.totals().requests > begun
        assert sum(intruder.totals().answered_by.values()) == admitted
        cluster.kubectl("delete", "authorizationpolicy", "own", f"--namespace={namespace}")

        def let_in() -> None:
            assert sum(intruder.totals().answered_by.values()) > admitted

        eventually(let_in, seconds=_CHANGE_SECONDS)
        totals = {name: each.stop() for name, each in {"new": new, "kept": kept, "intruder": intruder}.items()}
    # Their watches would take up to a minute more to begin again: nothing that is deleted would go, and calls in clear
    # of a Service made meanwhile would lead nowhere.
    for node in cluster.nodes:
        for service in ("kubelet", "kube-proxy"):
            node.restart(service)
    assert {name: totals[name].failures for name in ("new", "kept")} == {"new": {}, "kept": {}}
    assert all(mesh.captured(namespace).values())
    _nothing_in_clear(wire)
