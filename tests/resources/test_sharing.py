from __future__ import annotations

import pytest

from resources import sharing
from resources.pod import Container
from resources.sharing import shared, shared_mapping


def test_equal_values_of_one_type_are_one() -> None:
    first, second = ("a", "b" * 3), ("a", "bbb")
    assert shared(first) is shared(second)
    assert shared(Container(name="c")) is shared(Container(name="c"))
    assert shared(1) == shared(True)
    assert type(shared(True)) is bool, "equal, and not the same"


def test_what_cannot_be_hashed_is_left_alone() -> None:
    container = Container(name="c", resources={"limits": {}})
    assert shared(container) is container


def test_mappings_are_shared_whatever_their_order() -> None:
    one = shared_mapping({"a": "1", "b": "2"})
    assert one == {"a": "1", "b": "2"}
    assert shared_mapping({"b": "2", "a": "1"}) is one


def test_pools_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "MAX_POOL", 8)
    for number in range(100):
        shared((number,))
        shared_mapping({"x": str(number)})
    assert len(sharing._values) <= 8
    assert len(sharing._mappings) <= 8
