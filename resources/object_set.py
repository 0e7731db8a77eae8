"""An immutable set of objects that makes what changed cheap to find.

Sets made from one another by ``with_changes`` share everything that did not change: the table of an untouched kind is
the very same table, an untouched object the very same object. A set remembers what makes it out of the one before, so
that whoever follows set by set is told for as much as the change is large. Comparing two sets that are further apart
skips whole kinds by identity and compares the rest by identity first.

Of a Secret that is no more, a set keeps nothing but its name: neither in a table that it shares with older sets, nor as
what was removed.
"""

from __future__ import annotations

import hashlib
import uuid
import weakref
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from mesh.layered_map import LayeredMap
from resources.decode import with_metadata
from resources.objects import KubernetesObject, ObjectKey, Secret

_UID_SPACE = uuid.UUID("6f0d7a3e-2f5c-5a53-9a0c-6f6b7e5b7a10")
_Kind = TypeVar("_Kind", bound=KubernetesObject)
_Table = LayeredMap[ObjectKey, KubernetesObject]
_EMPTY: _Table = LayeredMap()


@dataclass(frozen=True, slots=True)
class Changes:
    """What makes one set out of another."""

    updated: tuple[KubernetesObject, ...] = ()
    """Objects that are new or differ."""
    removed: tuple[KubernetesObject, ...] = ()
    """Objects, as they were, that are no more; Secrets without what they kept."""
    keys: tuple[ObjectKey, ...] = ()
    """Of ``updated``: those that the set itself keeps, so that whoever keeps them, too, keeps no copies."""

    def __bool__(self) -> bool:
        return bool(self.updated or self.removed)


class ObjectSet(Mapping[ObjectKey, KubernetesObject]):
    """Objects by kind, namespace and name."""

    __slots__ = ("__weakref__", "_before", "_changes", "_tables")

    def __init__(self, objects: Iterable[KubernetesObject] = ()) -> None:
        tables: dict[str, dict[ObjectKey, KubernetesObject]] = {}
        for value in objects:
            key = value.key
            tables.setdefault(key.kind, {})[key] = value
        self._tables: dict[str, _Table] = {kind: LayeredMap(table) for kind, table in tables.items()}
        self._before: weakref.ref[ObjectSet] | None = None
        """The set this one was made from: not kept alive, or all sets there ever were would be."""
        self._changes = Changes()
        """What makes this one out of it."""

    def __getitem__(self, key: ObjectKey) -> KubernetesObject:
        value = self._tables.get(key.kind, _EMPTY).get(key)
        if value is None:
            raise KeyError(key)
        return value

    def __iter__(self) -> Iterator[ObjectKey]:
        for table in self._tables.values():
            yield from table

    def __len__(self) -> int:
        return sum(len(table) for table in self._tables.values())

    def __repr__(self) -> str:
        counts = ", ".join(f"{kind}: {len(table)}" for kind, table in sorted(self._tables.items()))
        return f"ObjectSet({counts})"

    def of_kind(self, kind: type[_Kind]) -> Iterator[_Kind]:
        """All objects of a kind, such as ``Pod``."""
        for value in self._tables.get(kind.__name__, _EMPTY).values():
            assert isinstance(value, kind)
            yield value

    def find(self, kind: type[_Kind], namespace: str, name: str) -> _Kind | None:
        """The object of a kind by its name; ``namespace`` is empty for cluster-scoped kinds."""
        value = self._tables.get(kind.__name__, _EMPTY).get(ObjectKey(kind.__name__, namespace, name))
        assert value is None or isinstance(value, kind)
        return value

    def with_changes(self, updated: Iterable[KubernetesObject], removed: Iterable[ObjectKey] = ()) -> ObjectSet:
        """A set with some objects put in or replaced and others taken out; ``self`` when that changes nothing."""
        differences: dict[str, dict[ObjectKey, KubernetesObject | None]] = {}
        for key in removed:
            if key in self._tables.get(key.kind, _EMPTY):
                differences.setdefault(key.kind, {})[key] = None
        for value in updated:
            key = value.key
            if self._tables.get(key.kind, _EMPTY).get(key) != value:
                differences.setdefault(key.kind, {})[key] = value
            else:
                differences.get(key.kind, {}).pop(key, None)
        differences = {kind: table for kind, table in differences.items() if table}
        if not differences:
            return self
        result = ObjectSet()
        result._tables = dict(self._tables)
        gone: list[KubernetesObject] = []
        for kind, table in differences.items():
            before = self._tables.get(kind, _EMPTY)
            gone += [old for key, new in table.items() if new is None and (old := before.get(key)) is not None]
            result._tables[kind] = before.changed(table) if kind != Secret.__name__ else _whole(before, table)
        present = {key: value for table in differences.values() for key, value in table.items() if value is not None}
        changes = Changes(tuple(present.values()), tuple(map(_without_secrets, gone)), tuple(present))
        result._before, result._changes = weakref.ref(self), changes
        return result

    def changes_since(self, older: ObjectSet) -> Changes:
        """What happened between an older set and this one."""
        if self is older:
            return Changes()
        if self._before is not None and self._before() is older:
            return self._changes
        updated: dict[ObjectKey, KubernetesObject] = {}
        removed: list[KubernetesObject] = []
        for kind in self._tables.keys() | older._tables.keys():
            now, before = self._tables.get(kind, _EMPTY), older._tables.get(kind, _EMPTY)
            if now is before:
                continue
            for key in now:
                value, old = now.get(key), before.get(key)
                if value is not None and old is not value and old != value:
                    updated[key] = value
            removed += [value for value in before.values() if value.key not in now]
        return Changes(tuple(updated.values()), tuple(map(_without_secrets, removed)), tuple(updated))


def _whole(before: _Table, changes: Mapping[ObjectKey, KubernetesObject | None]) -> _Table:
    """A table that shares nothing with the one before it, in which what was removed would still lie."""
    kept = {key: value for key in before if key not in changes and (value := before.get(key)) is not None}
    return LayeredMap({**kept, **{key: value for key, value in changes.items() if value is not None}})


def _without_secrets(value: KubernetesObject) -> KubernetesObject:
    return Secret(metadata=value.metadata) if isinstance(value, Secret) else value


def with_identity(value: KubernetesObject) -> KubernetesObject:
    """The object with a uid and a resource version, where it has none.

    A manifest somebody wrote has neither. The uid is made from the name, so it is the same for every reader and at
    every start (an API server would give an object made anew another one, which no manifest can tell). The version is
    made from the content.
    """
    metadata = value.metadata
    if metadata.uid and metadata.resource_version:
        return value
    uid = metadata.uid or str(uuid.uuid5(_UID_SPACE, str(value.key)))
    version = metadata.resource_version or hashlib.sha256(msgspec.json.encode(value)).hexdigest()[:16]
    return with_metadata(value, msgspec.structs.replace(metadata, uid=uid, resource_version=version))
