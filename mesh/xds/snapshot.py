"""What a server offers at one moment, and what changed since earlier moments. Immutable.

Each change makes a new ``Snapshot`` with the next serial. A snapshot remembers the names of the last changes, so that a
connection that has seen serial 41 asks "what since 41?" instead of comparing everything. One that fell too far behind
gets None for an answer and compares.

``found_under`` lets one subscription bring more than one resource: a workload is found under its services, so a client
that subscribes to a service, by name or by address, is given the endpoints as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b

from mesh.layered_map import LayeredMap
from mesh.xds.discovery_codec import Resource, payload_of, resource_field

_REMEMBERED_CHANGES = 1024
_REMEMBERED_NAMES = 65536
_SMALL_CHANGE = _REMEMBERED_NAMES // _REMEMBERED_CHANGES


@dataclass(frozen=True, slots=True)
class Entry:
    """One resource on offer; made by ``entry``."""

    name: str
    version: str
    """A hash of the content: equal content has an equal version, also after a restart of the server."""
    aliases: tuple[str, ...]
    found_under: tuple[str, ...]
    wire: bytes
    """As it stands in a response."""

    @property
    def payload(self) -> bytes:
        """The resource's own bytes; read back from ``wire``, for tests and debugging."""
        return payload_of(self.wire)


def entry(
    type_url: str, name: str, payload: bytes, aliases: Iterable[str] = (), found_under: Iterable[str] = ()
) -> Entry:
    """Make an entry.

    Args:
        type_url: the resource's type.
        name: its name, unique within the type.
        payload: its bytes.
        aliases: further names it answers to; told to clients.
        found_under: names of other resources whose subscribers shall have this one too; not told.
    """
    alias_names = tuple(aliases)
    digest = blake2b(payload, digest_size=8)
    for alias in alias_names:
        digest.update(b"\0" + alias.encode())
    version = digest.hexdigest()
    wire = resource_field(type_url, Resource(name, version, alias_names, payload))
    return Entry(name, version, alias_names, tuple(found_under), wire)


_Aliases = LayeredMap[str, tuple[str, ...]]
"""Mostly one name for each alias, so that a mapping for each would take more room than all else of a resource."""
_Groups = LayeredMap[str, LayeredMap[str, bool]]


@dataclass(frozen=True, slots=True)
class TypeSnapshot:
    """The resources of one type."""

    entries: LayeredMap[str, Entry] = field(default_factory=LayeredMap)
    by_alias: _Aliases = field(default_factory=LayeredMap)
    by_group: _Groups = field(default_factory=LayeredMap)
    log: tuple[tuple[int, frozenset[str]], ...] = ()
    """Serial and the names that changed with it, oldest first."""
    log_from: int = 0
    """Changes up to this serial are no longer remembered."""

    def get(self, name: str) -> Entry | None:
        """The resource of that very name."""
        return self.entries.get(name)

    def find(self, name: str) -> list[str]:
        """Names of the resources that answer to a name or alias."""
        found = list(self.by_alias.get(name) or ())
        if name in self.entries and name not in found:
            found.append(name)
        return found

    def companions(self, name: str) -> Iterable[str]:
        """Names of the resources found under a name."""
        return self.by_group.get(name) or ()

    def changes_since(self, serial: int) -> set[str] | None:
        """Names that changed after a serial; None if that is too long ago to say."""
        if serial < self.log_from:
            return None
        changed: set[str] = set()
        for at, names in reversed(self.log):
            if at <= serial:
                break
            changed |= names
        return changed


_NOTHING = TypeSnapshot()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All types at one moment."""

    serial: int
    types: Mapping[str, TypeSnapshot]

    @staticmethod
    def empty() -> Snapshot:
        """Nothing, at serial 0."""
        return Snapshot(0, {})

    def of(self, type_url: str) -> TypeSnapshot:
        """The resources of a type; empty for one never heard of."""
        return self.types.get(type_url, _NOTHING)

    def changed(self, type_url: str, updated: Iterable[Entry] = (), removed: Iterable[str] = ()) -> Snapshot:
        """The next snapshot, or this one if nothing differs. Costs as much as the change is large."""
        before = self.of(type_url)
        changes: dict[str, Entry | None] = {name: None for name in removed if before.get(name) is not None}
        for each in updated:
            if before.get(each.name) != each:
                changes[each.name] = each
            else:
                changes.pop(each.name, None)
        if not changes:
            return self
        serial = self.serial + 1
        log, log_from = _remember(before, serial, frozenset(changes))
        after = TypeSnapshot(
            before.entries.changed(changes),
            _renamed(before.by_alias, _moves(before, changes, "aliases")),
            _reindexed(before.by_group, _moves(before, changes, "found_under")),
            log,
            log_from,
        )
        return Snapshot(serial, {**self.types, type_url: after})

    def replaced(self, type_url: str, entries: Iterable[Entry]) -> Snapshot:
        """The snapshot in which a type holds just these. Looks at every entry, but only differences are changes."""
        wanted = {each.name: each for each in entries}
        gone = [name for name in self.of(type_url).entries if name not in wanted]
        return self.changed(type_url, wanted.values(), gone)


def _remember(
    before: TypeSnapshot, serial: int, names: frozenset[str]
) -> tuple[tuple[tuple[int, frozenset[str]], ...], int]:
    if len(names) > _SMALL_CHANGE and not len(before.entries):
        # Everything is new: whoever has seen less than this compares as fast.
        return (), serial
    log = (*before.log, (serial, names))
    log_from = before.log_from
    if len(log) > _REMEMBERED_CHANGES:
        half = len(log) // 2
        log, log_from = log[half:], log[half - 1][0]
    if len(names) > _SMALL_CHANGE:
        # Small changes cannot exceed the bound by their number; large ones push old ones out.
        total = sum(len(each) for _, each in log)
        while log and total > _REMEMBERED_NAMES:
            total -= len(log[0][1])
            log, log_from = log[1:], log[0][0]
    return log, log_from


def _moves(
    before: TypeSnapshot, changes: Mapping[str, Entry | None], attribute: str
) -> dict[str, dict[str, bool | None]]:
    """For each key of an index: which names come (True) and go (None)."""
    moves: dict[str, dict[str, bool | None]] = {}
    for name, after in changes.items():
        old = before.get(name)
        had: tuple[str, ...] = getattr(old, attribute) if old is not None else ()
        has: tuple[str, ...] = getattr(after, attribute) if after is not None else ()
        for key in had:
            if key not in has:
                moves.setdefault(key, {})[name] = None
        for key in has:
            if key not in had:
                moves.setdefault(key, {})[name] = True
    return moves


def _renamed(index: _Aliases, moves: Mapping[str, dict[str, bool | None]]) -> _Aliases:
    if not moves:
        return index
    updates: dict[str, tuple[str, ...] | None] = {}
    for key, names in moves.items():
        kept = [name for name in index.get(key) or () if name not in names]
        updates[key] = (*kept, *(name for name, comes in names.items() if comes)) or None
    return index.changed(updates)


def _reindexed(index: _Groups, moves: Mapping[str, dict[str, bool | None]]) -> _Groups:
    if not moves:
        return index
    updates: dict[str, LayeredMap[str, bool] | None] = {}
    for key, names in moves.items():
        members = (index.get(key) or LayeredMap()).changed(names)
        updates[key] = members if len(members) else None
    return index.changed(updates)
