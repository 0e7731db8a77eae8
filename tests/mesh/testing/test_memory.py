from __future__ import annotations

import weakref
from dataclasses import dataclass
from functools import lru_cache

from mesh.testing.memory import texts_within


@dataclass(slots=True, weakref_slot=True)
class Holder:
    text: str
    others: list[object]


def test_what_is_held_anywhere_is_found() -> None:
    inner = Holder("inner", [])
    outer = Holder("outer", [{"key": ("deep",)}, inner])
    inner.others.append(outer)
    assert {"outer", "inner", "key", "deep"} <= texts_within(outer)
    assert "inner" not in texts_within(Holder("outer", [weakref.ref(inner)]))


def test_what_a_cache_keeps_is_found() -> None:
    @lru_cache
    def made(text: str) -> str:
        return text * 2

    made("once")
    assert {"once", "onceonce"} <= texts_within(made)
