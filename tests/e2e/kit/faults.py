"""What goes wrong in clusters on purpose."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.e2e.kit.cluster import Cluster
from tests.e2e.kit.mesh import NAMESPACE
from tests.e2e.kit.node import Node
from tests.e2e.kit.waiting import eventually

CONFLIST = "/etc/cni/net.d/10-pods.conflist"
"""A node's CNI configuration."""
_BACK_SECONDS = 120.0
_SANDBOX = "pause"
# All processes of a pod but its sandbox's, by their cgroups; a process that ends meanwhile is no error.
_KILL = """
for place in $(grep -ls "pod$1" /proc/[0-9]*/cgroup); do
    place=${place%/cgroup}
    [ "$(cat $place/comm)" = "$2" ] || { kill -KILL ${place#/proc/} && echo ${place#/proc/}; }
done 2>/dev/null
true
"""


@dataclass(frozen=True, slots=True)
class Restarts:
    """How often the containers of a component's pods have been started again, and which of the pods are ready."""

    counts: Mapping[str, int]
    ready: frozenset[str]


def restarts(cluster: Cluster, component: str) -> Restarts:
    """Those of a component of the mesh, by pod."""
    counts, ready = {}, set()
    for found in _pods(cluster, component):
        name = found["metadata"]["name"]
        statuses = found["status"].get("containerStatuses", [])
        counts[name] = sum(each["restartCount"] for each in statuses)
        # Not what the containers' statuses say: nobody changes these when the node is gone.
        if any(each["type"] == "Ready" and each["status"] == "True" for each in found["status"].get("conditions", ())):
            ready.add(name)
    return Restarts(counts, frozenset(ready))


def nodes_of(cluster: Cluster, component: str) -> list[Node]:
    """The nodes a component's pods run on; where the scheduler put replicas is nothing a test may count on."""
    names = {pod["spec"]["nodeName"] for pod in _pods(cluster, component)}
    return [node for node in cluster.nodes if node.name in names]


def pods_on(cluster: Cluster, component: str, node: Node) -> dict[str, str]:
    """A component's pods on a node, and the uid of each."""
    found = {
        pod["metadata"]["name"]: pod["metadata"]["uid"]
        for pod in _pods(cluster, component)
        if pod["spec"]["nodeName"] == node.name
    }
    assert found, f"no {component} on {node.name}"
    return found


def kill_pods(node: Node, pods: Mapping[str, str]) -> set[str]:
    """Kill the processes of pods with SIGKILL, as a fault of theirs or a lack of memory does; returns the names.

    Args:
        node: where they run.
        pods: as `pods_on`; the API server need not be there.
    """
    for name, uid in pods.items():
        said = node.execute("sh", "-c", _KILL, "kill", uid, _SANDBOX)
        assert said.split(), f"no process of {name} on {node.name}"
    return set(pods)


def kill_component(cluster: Cluster, component: str, node: Node) -> set[str]:
    """Kill a component's processes on a node; returns the names of the pods they were of."""
    return kill_pods(node, pods_on(cluster, component, node))


def wait_back(cluster: Cluster, component: str, before: Restarts, killed: set[str]) -> None:
    """Wait until killed pods' containers were started again, once each, and are ready; no other may have been."""

    def look() -> None:
        now = restarts(cluster, component)
        assert now.ready == set(now.counts), f"ready of {component}: {sorted(now.ready)} of {sorted(now.counts)}"
        expected = {name: count + (name in killed) for name, count in before.counts.items()}
        assert now.counts == expected, f"starts of {component}: {now.counts}, expected {expected}"

    eventually(look, seconds=_BACK_SECONDS)


def write_file(node: Node, path: str, text: str) -> None:
    """Write a file of a node, in place, as somebody does who knows nothing of the mesh."""
    node.execute("sh", "-c", f"printf %s {shlex.quote(text)} >{path}")


def conflist_repaired(node: Node, rewritten: Mapping[str, Any]) -> None:
    """Our entry is in a configuration that somebody wrote anew, and all else in it is as it was written."""
    found = json.loads(node.execute("cat", CONFLIST))
    *others, last = found["plugins"]
    assert last["type"] == "ambimesh-cni"
    assert {**found, "plugins": others} == rewritten


def _pods(cluster: Cluster, component: str) -> list[dict[str, Any]]:
    selector = f"--selector=app.kubernetes.io/name=ambimesh-{component}"
    found = cluster.objects("pods", f"--namespace={NAMESPACE}", selector)
    return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]
