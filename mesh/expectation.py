"""What a kind's definition takes at a place: the names of its fields, or the values of a choice; for remedies."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterator

import msgspec
from msgspec import inspect

Path = tuple[str | int, ...]
"""Names and indexes from the outermost value inwards."""

CLOSE_ENOUGH = 0.6
"""Of difflib's ratio; a field that resembles nothing is better named alone than with a wild guess."""


def field_remedy(kind: type[msgspec.Struct], path: Path, name: str) -> str:
    """What to do about the unknown field ``name`` of what stands at ``path`` of a ``kind``."""
    groups = [one for one in _types_at(kind, path) if isinstance(one, inspect.StructType)]
    known = [field.encode_name for group in groups for field in group.fields]
    near = difflib.get_close_matches(name, known, n=1, cutoff=CLOSE_ENOUGH)
    return f"did you mean {near[0]}?" if near else "correct its name or remove it"


def choice_remedy(kind: type[msgspec.Struct], path: Path) -> str:
    """The values of the choice at ``path`` of a ``kind``; empty if there is none."""
    values = [
        str(value) for one in _types_at(kind, path) if isinstance(one, inspect.LiteralType) for value in one.values
    ]
    if len(values) == 1:
        return f"it is {values[0]}"
    return f"it is one of {', '.join(values)}" if values else ""


def _types_at(kind: type[msgspec.Struct], path: Path) -> list[inspect.Type]:
    types = [_type_of(kind)]
    for segment in path:
        types = [inner for one in types for inner in _inner(one, segment)]
    return [alternative for one in types for alternative in _alternatives(one)]


@functools.cache
def _type_of(kind: type[msgspec.Struct]) -> inspect.Type:
    return inspect.type_info(kind)


def _inner(one: inspect.Type, segment: str | int) -> Iterator[inspect.Type]:
    for alternative in _alternatives(one):
        if isinstance(alternative, inspect.StructType):
            yield from (field.type for field in alternative.fields if field.encode_name == segment)
        elif isinstance(alternative, inspect.DictType):
            yield alternative.value_type
        elif isinstance(alternative, inspect.VarTupleType | inspect.ListType):
            yield alternative.item_type


def _alternatives(one: inspect.Type) -> tuple[inspect.Type, ...]:
    return one.types if isinstance(one, inspect.UnionType) else (one,)
