from __future__ import annotations

import pytest

from ztunnel.worker.preference import FEW, PREFERRED_SECONDS, WINDOW, Preference


class Load:
    """A worker and its connections, with a clock of the test's."""

    def __init__(self, *, per_second: float, lived: float, alive: int, busy: float) -> None:
        self.per_second = per_second
        self.lived = lived
        self.alive = [None] * alive
        self.busy = busy
        self.now = 1000.0
        self.asked: list[float] = []
        self.preference = Preference(self.alive, self.asked.append, lambda: self.now * self.busy)

    def go_on(self, connections: int) -> list[float]:
        self.asked.clear()
        for _ in range(connections):
            self.now += 1 / self.per_second
            self.preference.ended(self.now, self.lived)
        return self.asked


def test_many_short_connections_are_asked_for_again_and_again() -> None:
    load = Load(per_second=5000, lived=0.002, alive=8, busy=0.6)
    assert load.go_on(WINDOW) == []  # nobody knows yet how long that took
    assert load.go_on(WINDOW - 1) == []
    assert load.go_on(1) == [PREFERRED_SECONDS]
    assert load.go_on(10 * WINDOW) == [PREFERRED_SECONDS] * 10
    assert WINDOW / load.per_second < PREFERRED_SECONDS  # no gap between two wishes


@pytest.mark.parametrize(
    "load",
    [
        Load(per_second=100, lived=0.002, alive=8, busy=0.1),
        Load(per_second=5000, lived=0.2, alive=8, busy=0.6),
        Load(per_second=5000, lived=0.002, alive=FEW + 1, busy=0.6),
        Load(per_second=5000, lived=0.002, alive=8, busy=0.95),
    ],
    ids=["few", "long", "many at a time", "used up"],
)
def test_others_are_divided(load: Load) -> None:
    assert load.go_on(10 * WINDOW) == []


def test_it_ends_when_the_load_changes() -> None:
    load = Load(per_second=5000, lived=0.002, alive=8, busy=0.6)
    assert load.go_on(3 * WINDOW)
    load.busy = 0.0
    load.now += 60
    assert load.go_on(WINDOW) == []  # since the last window much time has passed
    load.lived = 1.0
    assert load.go_on(3 * WINDOW) == []
