"""Which nodes have their taint although their agent is ready. Pure.

A node that joins a cluster has no agent yet, and no entry of the mesh's in its CNI configuration: a pod that starts
there before both, starts outside of the mesh, whatever its labels say. Who adds nodes therefore has them join with the
taint ``ambimesh.dev/not-ready:NoSchedule`` (kubelet: ``--register-with-taints``), which the mesh's own pods tolerate.
It is taken away once the node's agent is ready, so once the entry is in place; from then on the plugin fails closed by
itself, through every restart.
"""

from __future__ import annotations

from typing import Any

from resources.node import NOT_READY_TAINT
from resources.object_set import ObjectSet
from resources.objects import Node, Pod

AGENT_LABEL = ("app.kubernetes.io/name", "ambimesh-agent")


def freed_nodes(objects: ObjectSet, own: str) -> frozenset[str]:
    """The names of the nodes whose taint is to go.

    Args:
        objects: of the cluster.
        own: the mesh's namespace, whose agents count.
    """
    tainted = {node.metadata.name for node in objects.of_kind(Node) if node.spec.taints}
    if not tainted:
        return frozenset()
    key, value = AGENT_LABEL
    return frozenset(
        pod.spec.node_name
        for pod in objects.of_kind(Pod)
        if pod.spec.node_name in tainted
        and pod.metadata.namespace == own
        and pod.metadata.labels.get(key) == value
        and pod.metadata.deletion_timestamp is None
        and pod.status.ready
    )


def without_taint(node: dict[str, Any]) -> dict[str, Any] | None:
    """The patch (of JSON, for just the version that was read) that takes the taint away; None if it is not there."""
    taints: list[dict[str, Any]] = (node.get("spec") or {}).get("taints") or []
    others = [taint for taint in taints if taint.get("key") != NOT_READY_TAINT]
    if len(others) == len(taints):
        return None
    return {
        "metadata": {"resourceVersion": node["metadata"].get("resourceVersion")},
        "spec": {"taints": others or None},
    }
