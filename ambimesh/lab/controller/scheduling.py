"""Which node a pod goes to. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from resources.objects import ObjectKey, Pod


def placements(pods: Iterable[Pod], nodes: Sequence[str]) -> dict[ObjectKey, str]:
    """The node for every pod that has none yet: the one with the fewest pods, the first of equals.

    Args:
        pods: all pods; one that names its node stays there, one that has ended takes no room.
        nodes: the nodes by name, in their order.
    """
    load = dict.fromkeys(nodes, 0)
    waiting: list[Pod] = []
    for pod in pods:
        if not pod.spec.node_name:
            waiting.append(pod)
        elif pod.spec.node_name in load and not pod.status.ended:
            load[pod.spec.node_name] += 1
    placed: dict[ObjectKey, str] = {}
    for pod in sorted(waiting, key=lambda one: (one.metadata.creation_timestamp or "", one.key)):
        node = min(nodes, key=load.__getitem__)
        load[node] += 1
        placed[pod.key] = node
    return placed
