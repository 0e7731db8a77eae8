from __future__ import annotations

import dataclasses
import typing

from mesh.model.waypoint import Destination
from mesh.testing.waypoint import FULL_DESTINATION


def test_the_example_sets_every_part_of_the_model() -> None:
    """So that a field of a type that JSON cannot carry is noticed here."""
    seen: set[type] = set()

    def walk(value: object) -> None:
        if dataclasses.is_dataclass(value):
            seen.add(type(value))
            for field in dataclasses.fields(value):
                walk(getattr(value, field.name))
        elif isinstance(value, tuple):
            for inner in value:
                walk(inner)

    walk(FULL_DESTINATION)
    named: set[type] = set()

    def collect(kind: object) -> None:
        if isinstance(kind, type) and dataclasses.is_dataclass(kind) and kind not in named:
            named.add(kind)
            for hint in typing.get_type_hints(kind).values():
                collect(hint)
        for argument in typing.get_args(kind):
            collect(argument)

    collect(Destination)
    assert named - seen == set()
