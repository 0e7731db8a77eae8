"""Equal values kept once: pods of one template have the same labels, containers and owners, thousands of times.

What is shared must never be changed, which holds for everything here. The pools forget all they hold when they are
full: sharing saves memory, and nothing rests on it.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TypeVar

MAX_POOL = 1 << 16
"""Values of one pool."""

_Value = TypeVar("_Value", bound=Hashable)
_Member = TypeVar("_Member", bound=Hashable)
_values: dict[Hashable, Hashable] = {}
_mappings: dict[tuple[Hashable, ...], Mapping[str, Hashable]] = {}
"""By their keys and values in turn: one tuple instead of one for each pair."""


def shared(value: _Value) -> _Value:
    """An equal value of the same type, the first one there was; ``value`` itself if it cannot be hashed."""
    if len(_values) >= MAX_POOL:
        _values.clear()
    try:
        found = _values.setdefault((type(value), value), value)
    except TypeError:  # holds a list or mapping that nobody here reads
        return value
    return found  # type: ignore[return-value]  # equal, and of the same type


def shared_mapping(value: Mapping[str, _Member]) -> dict[str, _Member]:
    """An equal mapping, the first one there was."""
    if len(_mappings) >= MAX_POOL:
        _mappings.clear()
    flat = tuple(part for pair in sorted(value.items()) for part in pair)
    return _mappings.setdefault(flat, dict(value))  # type: ignore[return-value]
