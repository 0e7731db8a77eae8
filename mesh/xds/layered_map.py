"""An immutable mapping whose changed copies are cheap: the snapshots' building block.

A large base that copies share, and a small layer of changes over it. When the layer outgrows the square root of the
base, the two are merged; so a change of one entry among n costs about the square root of n, not n, and readers that
kept an older copy still see it unchanged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import isqrt
from typing import Generic, TypeVar

V = TypeVar("V")

_SMALL = 64


class LayeredMap(Generic[V]):
    """Text keys to values."""

    __slots__ = ("_base", "_changes", "_size")

    def __init__(self, base: Mapping[str, V] | None = None) -> None:
        self._base: dict[str, V] = dict(base) if base else {}
        self._changes: dict[str, V | None] = {}
        """None marks what is removed."""
        self._size = len(self._base)

    def __len__(self) -> int:
        return self._size

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self.get(key) is not None

    def get(self, key: str) -> V | None:
        """The value, or None."""
        if key in self._changes:
            return self._changes[key]
        return self._base.get(key)

    def __iter__(self) -> Iterator[str]:
        for key, value in self._changes.items():
            if value is not None:
                yield key
        for key in self._base:
            if key not in self._changes:
                yield key

    def changed(self, updates: Mapping[str, V | None]) -> LayeredMap[V]:
        """A copy with these values; None removes."""
        copy: LayeredMap[V] = LayeredMap()
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
