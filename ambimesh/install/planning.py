"""In which order an installation's objects go in, and come out. Pure.

Rights and settings come first. Then the operator, since nothing is certified without it; then the agents, which chain
the CNI plugin; last the ztunnels. Each of these three is waited for before the next. Out goes everything the other way
round, but first the agents take the mesh off their nodes while all else still runs, so that no pod is ever captured by
what is gone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

WORKLOADS = ("Deployment", "DaemonSet", "StatefulSet")
_COMPONENTS = ("operator", "agent", "ztunnel")
_COMPONENT_LABEL = "app.kubernetes.io/component"
_FIRST = ("Namespace", "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding", "ConfigMap")


class Key(NamedTuple):
    """What names an object in the cluster; ``namespace`` is empty for kinds that have none."""

    api_version: str
    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        place = f"{self.namespace}/{self.name}" if self.namespace else self.name
        return f"{self.kind} {place}"


@dataclass(frozen=True, slots=True)
class Phase:
    """Objects that are applied together; the workloads among them are then waited for."""

    name: str
    objects: tuple[dict[str, Any], ...]

    @property
    def workloads(self) -> tuple[dict[str, Any], ...]:
        """Those that have pods."""
        return tuple(value for value in self.objects if value["kind"] in WORKLOADS)


def key_of(value: dict[str, Any]) -> Key:
    """An object's key."""
    metadata = value["metadata"]
    return Key(value["apiVersion"], value["kind"], metadata.get("namespace", ""), metadata["name"])


def phases(objects: Iterable[dict[str, Any]]) -> list[Phase]:
    """An installation's objects in their order; phases without objects are left out."""
    rest = list(objects)
    workloads = [value for value in rest if value["kind"] in WORKLOADS]
    first = sorted((value for value in rest if value["kind"] not in WORKLOADS), key=_rank)
    others = [value for value in workloads if _component(value) not in _COMPONENTS]
    found = [
        Phase("rights and settings", tuple(first)),
        *(Phase(name, tuple(value for value in workloads if _component(value) == name)) for name in _COMPONENTS),
        Phase("others", tuple(others)),
    ]
    return [phase for phase in found if phase.objects]


def obsolete(before: Iterable[Key], now: Iterable[dict[str, Any]]) -> list[Key]:
    """What an earlier version has applied and this one no longer does, the last applied first."""
    kept = {(key.kind, key.namespace, key.name) for key in map(key_of, now)}
    return [key for key in reversed(list(before)) if (key.kind, key.namespace, key.name) not in kept]


def removal(keys: Iterable[Key]) -> list[Key]:
    """In which order objects are deleted: workloads first, rights last, a namespace after all that is in it."""
    order = {"DaemonSet": 0, "Deployment": 0, "StatefulSet": 0, "Namespace": 3}
    rights = ("ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding", "ServiceAccount")
    return sorted(keys, key=lambda key: order.get(key.kind, 2 if key.kind in rights else 1))


def in_namespace(value: dict[str, Any], namespace: str) -> dict[str, Any]:
    """The object as it would be in another namespace: for a check before its own is there."""
    if not value["metadata"].get("namespace"):
        return value
    return {**value, "metadata": {**value["metadata"], "namespace": namespace}}


def _component(value: dict[str, Any]) -> str:
    return str(value["metadata"].get("labels", {}).get(_COMPONENT_LABEL, ""))


def _rank(value: dict[str, Any]) -> int:
    return _FIRST.index(value["kind"]) if value["kind"] in _FIRST else len(_FIRST)
