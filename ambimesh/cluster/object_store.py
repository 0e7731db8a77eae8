"""Typed objects of a cluster, with the face of ``resources.folder_store``: the same commands work on both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypeVar, get_args, get_type_hints

import msgspec

from ambimesh.cluster.client_driver import Cluster
from mesh.errors import InvalidMessage, ObjectMissing
from resources.encode import to_document
from resources.objects import KubernetesObject

KindT = TypeVar("KindT", bound=KubernetesObject)


class ObjectStore(Protocol):
    """Where a command reads and writes objects: a lab's folder or a cluster."""

    def get(self, kind: type[KindT], namespace: str, name: str) -> KindT:
        """An object. Raises ``ObjectMissing``."""
        ...

    def of_kind(self, kind: type[KindT]) -> list[KindT]:
        """All of a kind."""
        ...

    def apply(self, value: KubernetesObject) -> KubernetesObject:
        """Create or change an object, keeping what others wrote."""
        ...

    def delete(self, kind: type[KubernetesObject], namespace: str, name: str) -> bool:
        """Remove an object; whether it was there."""
        ...

    def patch_metadata(
        self,
        kind: type[KindT],
        namespace: str,
        name: str,
        *,
        labels: Mapping[str, str | None] | None = None,
        annotations: Mapping[str, str | None] | None = None,
    ) -> KindT:
        """Set labels and annotations; None takes one away. Raises ``ObjectMissing``."""
        ...


class ClusterStore:
    """Objects of a cluster. Every method raises as ``Cluster.request``."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def get(self, kind: type[KindT], namespace: str, name: str) -> KindT:
        """See :class:`ObjectStore`."""
        try:
            return _typed(self.cluster.get(api_version_of(kind), kind.__name__, name, namespace), kind)
        except ObjectMissing as error:
            raise ObjectMissing(f"{kind.__name__} {namespace}/{name} does not exist: {error}") from error

    def of_kind(self, kind: type[KindT]) -> list[KindT]:
        """See :class:`ObjectStore`; none of a kind that the cluster does not know."""
        version = api_version_of(kind)
        if not self.cluster.has(version, kind.__name__):
            return []
        return [_typed(each, kind) for each in self.cluster.all_of(version, kind.__name__)]

    def apply(self, value: KubernetesObject) -> KubernetesObject:
        """See :class:`ObjectStore`."""
        return _typed(self.cluster.apply(to_document(value)), type(value))

    def delete(self, kind: type[KubernetesObject], namespace: str, name: str) -> bool:
        """See :class:`ObjectStore`."""
        return self.cluster.delete(api_version_of(kind), kind.__name__, name, namespace)

    def patch_metadata(
        self,
        kind: type[KindT],
        namespace: str,
        name: str,
        *,
        labels: Mapping[str, str | None] | None = None,
        annotations: Mapping[str, str | None] | None = None,
    ) -> KindT:
        """See :class:`ObjectStore`."""
        change = {"metadata": {"labels": dict(labels or {}), "annotations": dict(annotations or {})}}
        return _typed(self.cluster.merge(api_version_of(kind), kind.__name__, name, change, namespace), kind)


def api_version_of(kind: type[Any]) -> str:
    """The version a kind is written in: the first that its type names."""
    return str(get_args(get_type_hints(kind)["api_version"])[0])


def _typed(value: dict[str, Any], kind: type[KindT]) -> KindT:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        name = value.get("metadata", {}).get("name")
        raise InvalidMessage(f"{kind.__name__} {name} is not as this version of ambimesh reads it: {error}") from error
