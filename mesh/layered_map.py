"""An immutable mapping whose changed copies are cheap: the building block of snapshots and sets of objects.

A large base that copies share, and a small layer of changes over it. When the layer outgrows the square root of the
base, the two are merged; so a change of one entry among n costs about the square root of n, not n, and readers that
kept an older copy still see it unchanged.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from math import isqrt
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_SMALL = 64


class LayeredMap(Generic[K, V]):
    """Keys to values, which are never None."""

    __slots__ = ("_base", "_changes", "_size")

    def __init__(self, base: Mapping[K, V] | None = None) -> None:
        self._base: dict[K, V] = dict(base) if base else {}
        self._changes: dict[K, V | None] = {}
        """None marks what is removed."""
        self._size = len(self._base)

    def __len__(self) -> int:
        return self._size

    def __contains__(self, key: object) -> bool:
        return self.get(key) is not None  # type: ignore[arg-type]  # any key may be asked for

    def get(self, key: K) -> V | None:
        """The value, or None."""
        if key in self._changes:
            return self._changes[key]
        return self._base.get(key)

    def __iter__(self) -> Iterator[K]:
        for key, value in self._changes.items():
            if value is not None:
                yield key
        for key in self._base:
            if key not in self._changes:
                yield key

    def values(self) -> Iterator[V]:
        """All values."""
        for value in self._changes.values():
            if value is not None:
                yield value
        if not self._changes:
            yield from self._base.values()
            return
        for key, value in self._base.items():
            if key not in self._changes:
                yield value

    def changed(self, updates: Mapping[K, V | None]) -> LayeredMap[K, V]:
        """A copy with these values; None removes."""
        copy: LayeredMap[K, V] = LayeredMap()
        copy._size = self._size
        for key, value in updates.items():
            copy._size += (value is not None) - (self.get(key) is not None)
        layer = {**self._changes, **updates}
        if len(layer) <= max(_SMALL, isqrt(len(self._base))):
            copy._base, copy._changes = self._base, layer
            return copy
        merged = dict(self._base)
        for key, value in layer.items():
            if value is None:
                merged.pop(key, None)
            else:
                merged[key] = value
        copy._base = merged
        return copy
