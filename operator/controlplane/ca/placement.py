"""Which service accounts have a live pod on which node: what a node proxy may ask certificates for."""

from __future__ import annotations

from collections import Counter

from resources.object_set import ObjectSet
from resources.objects import KubernetesObject, Pod


class Placement:
    """Counts live pods by node and service account, kept in step with a set of objects."""

    def __init__(self) -> None:
        self._objects = ObjectSet()
        self._live: Counter[tuple[str, str, str]] = Counter()

    def update(self, objects: ObjectSet) -> None:
        """Take over a new set of objects."""
        changes = objects.changes_since(self._objects)
        for value in changes.updated:
            self._count(self._objects.get(value.key), -1)
            self._count(value, 1)
        for value in changes.removed:
            self._count(value, -1)
        self._objects = objects

    def runs_on(self, namespace: str, service_account: str, node: str) -> bool:
        """Whether a pod of the service account is scheduled to the node and has not ended."""
        return self._live[node, namespace, service_account] > 0

    def _count(self, value: KubernetesObject | None, step: int) -> None:
        if not isinstance(value, Pod) or not value.spec.node_name or value.status.ended:
            return
        place = (value.spec.node_name, value.metadata.namespace, value.spec.account)
        self._live[place] += step
        if self._live[place] <= 0:
            del self._live[place]
