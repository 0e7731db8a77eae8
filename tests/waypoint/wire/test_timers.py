"""Deadlines: all are kept, none comes early, what is cancelled never comes."""

from __future__ import annotations

from typing import Any

import trio
from hypothesis import given
from hypothesis import strategies as st

from waypoint.testing.wires import ManualClock
from waypoint.wire.timers import RESOLUTION, Timers
from waypoint.wire.timers_driver import run_timers


@given(delays=st.lists(st.floats(0, 50), max_size=30), cancelled=st.sets(st.integers(0, 29)), step=st.floats(0.001, 9))
def test_each_fires_once_in_time_and_in_order(delays: list[float], cancelled: set[int], step: float) -> None:
    clock = ManualClock()
    start = clock.now
    fired: dict[int, float] = {}
    timers = {}
    for number, delay in enumerate(delays):

        def fire(number: int = number) -> None:
            assert number not in fired
            fired[number] = clock.now - start

        timers[number] = clock.timers.after(delay, fire)
    for number in cancelled & timers.keys():
        clock.timers.cancel(timers[number])
        clock.timers.cancel(timers[number])
    while clock.now < start + 60:
        clock.now += step
        clock.timers.run()
    assert fired.keys() == timers.keys() - cancelled
    for number, at in fired.items():
        assert delays[number] <= at <= delays[number] + RESOLUTION + step + 1e-6
    assert len(clock.timers) == 0
    assert clock.timers.next_at is None


def test_timers_can_be_set_and_cancelled_while_they_fire() -> None:
    clock = ManualClock()
    told = []

    def again() -> None:
        told.append(clock.now)
        clock.timers.cancel(doomed)
        if len(told) < 3:
            clock.timers.after(0, again)

    clock.timers.after(1, again)
    doomed = clock.timers.after(1, lambda: told.append(-1.0))
    clock.advance(2)
    assert len(told) == 3
    assert -1 not in told


def test_a_failing_timer_stops_no_other(capsys: Any) -> None:
    clock = ManualClock()
    told = []

    def fail() -> None:
        raise ValueError("a bug")

    clock.timers.after(1, fail)
    clock.timers.after(1, lambda: told.append(1))
    clock.advance(2)
    assert told == [1]
    assert "a timer failed" in capsys.readouterr().out


async def test_the_driver_sleeps_until_the_next_and_hears_of_earlier_ones(
    autojump_clock: trio.testing.MockClock,
) -> None:
    timers = Timers(trio.current_time)
    told: list[float] = []
    start = trio.current_time()

    def tell() -> None:
        told.append(round(trio.current_time() - start, 1))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_timers, timers)
        await trio.sleep(1)
        timers.after(100, tell)
        await trio.sleep(1)
        timers.after(10, tell)
        await trio.sleep(200)
        assert told == [12.0, 101.0]
        nursery.cancel_scope.cancel()
