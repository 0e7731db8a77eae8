"""An immutable set of objects that makes what changed cheap to find.

Sets made from one another by ``with_changes`` share everything that did not change: the table of an untouched kind is
the very same table, an untouched object the very same object. Comparing two sets therefore skips whole kinds by
identity and compares the rest by identity first.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from resources.decode import with_metadata
from resources.objects import KubernetesObject, ObjectKey

_UID_SPACE = uuid.UUID("6f0d7a3e-2f5c-5a53-9a0c-6f6b7e5b7a10")
_Kind = TypeVar("_Kind", bound=KubernetesObject)
_Table = dict[ObjectKey, KubernetesObject]


@dataclass(frozen=True, slots=True)
class Changes:
    """What makes one set out of another."""

    updated: tuple[KubernetesObject, ...] = ()
    """Objects that are new or differ."""
    removed: tuple[KubernetesObject, ...] = ()
    """Objects, as they were, that are no more."""

    def __bool__(self) -> bool:
        return bool(self.updated or self.removed)


class ObjectSet(Mapping[ObjectKey, KubernetesObject]):
    """Objects by kind, namespace and name."""

    __slots__ = ("_tables",)

    def __init__(self, objects: Iterable[KubernetesObject] = ()) -> None:
        tables: dict[str, _Table] = {}
        for value in objects:
            key = value.key
            tables.setdefault(key.kind, {})[key] = value
        self._tables = tables

    def __getitem__(self, key: ObjectKey) -> KubernetesObject:
        return self._tables[key.kind][key]

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
        for value in self._tables.get(kind.__name__, {}).values():
            assert isinstance(value, kind)
            yield value

    def find(self, kind: type[_Kind], namespace: str, name: str) -> _Kind | None:
        """The object of a kind by its name; ``namespace`` is empty for cluster-scoped kinds."""
        value = self._tables.get(kind.__name__, {}).get(ObjectKey(kind.__name__, namespace, name))
        assert value is None or isinstance(value, kind)
        return value

    def with_changes(self, updated: Iterable[KubernetesObject], removed: Iterable[ObjectKey] = ()) -> ObjectSet:
        """A set with some objects put in or replaced and others taken out; ``self`` when that changes nothing."""
        tables = dict(self._tables)
        own: set[str] = set()

        def table_of(kind: str) -> _Table:
            if kind not in own:
                own.add(kind)
                tables[kind] = dict(tables.get(kind, {}))
            return tables[kind]

        for key in removed:
            if key in tables.get(key.kind, {}):
                del table_of(key.kind)[key]
        for value in updated:
            key = value.key
            if tables.get(key.kind, {}).get(key) != value:
                table_of(key.kind)[key] = value
        if not own:
            return self
        result = ObjectSet()
        result._tables = tables
        return result

    def changes_since(self, older: ObjectSet) -> Changes:
        """What happened between an older set and this one."""
        updated: list[KubernetesObject] = []
        removed: list[KubernetesObject] = []
        for kind in self._tables.keys() | older._tables.keys():
            now = self._tables.get(kind, {})
            before = older._tables.get(kind, {})
            if now is before:
                continue
            for key, value in now.items():
                old = before.get(key)
                if old is not value and old != value:
                    updated.append(value)
            if len(now) < len(before) or now.keys() != before.keys():
                removed += [value for key, value in before.items() if key not in now]
        return Changes(tuple(updated), tuple(removed))


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
