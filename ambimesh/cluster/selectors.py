"""Label selectors, and what NetworkPolicies admit. Pure, on raw objects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Json = dict[str, Any]


def selects(selector: Mapping[str, Any] | None, labels: Mapping[str, str]) -> bool:
    """Whether a ``LabelSelector`` selects something with these labels; an empty one selects everything."""
    selector = selector or {}
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    return all(_expression(one, labels) for one in selector.get("matchExpressions") or ())


def _expression(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    key, values = expression.get("key", ""), expression.get("values") or ()
    match expression.get("operator"):
        case "In":
            return key in labels and labels[key] in values
        case "NotIn":
            return labels.get(key) not in values
        case "Exists":
            return key in labels
        case "DoesNotExist":
            return key not in labels
    return False


def blocking(policies: Iterable[Json], pod: Json, port: int, direction: str) -> list[Json]:
    """The NetworkPolicies that together keep a TCP port of a pod from everybody; none if it is admitted.

    Args:
        policies: of the pod's namespace.
        pod: the pod.
        port: TCP.
        direction: ``Ingress`` for connections to the pod's port, ``Egress`` for its own to that port of others.
    """
    labels = pod["metadata"].get("labels") or {}
    applying = [
        policy
        for policy in policies
        if selects(policy.get("spec", {}).get("podSelector"), labels) and direction in _directions(policy)
    ]
    for policy in applying:
        for rule in policy["spec"].get(direction.lower()) or ():
            ports = rule.get("ports")
            if not ports or any(_admits(entry, port) for entry in ports):
                return []
    return applying


def _directions(policy: Json) -> Iterable[str]:
    """As the API fills them in: ingress always, egress when there are rules for it."""
    spec = policy.get("spec", {})
    return spec.get("policyTypes") or (["Ingress", "Egress"] if spec.get("egress") else ["Ingress"])


def _admits(entry: Json, port: int) -> bool:
    if entry.get("protocol", "TCP") != "TCP":
        return False
    first = entry.get("port")
    if first is None:
        return True
    if not isinstance(first, int):
        return False  # a name: of a container's port, and the mesh's has none
    return first <= port <= int(entry.get("endPort", first))
