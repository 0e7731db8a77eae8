"""Ends have their time."""

from __future__ import annotations

from waypoint.testing.wires import ManualClock, MemoryWire
from waypoint.wire.ending import end_or_reset, end_within


def test_what_waits_is_sent_or_given_up_in_time() -> None:
    clock, quick, slow, idle = ManualClock(), MemoryWire(), MemoryWire(), MemoryWire()
    for wire in (quick, slow):
        wire.stuck = True
        wire.write(b"a")
    for wire in (quick, slow, idle):
        end_within(wire, clock.timers, 5)
    assert (idle.closed, quick.closed, len(clock.timers)) == (True, False, 2)
    quick.unstick()
    clock.advance(6)
    assert (quick.take(), quick.was_reset) == (b"a", False)
    assert slow.was_reset


def test_an_end_that_does_not_wait() -> None:
    stuck, idle = MemoryWire(), MemoryWire()
    stuck.stuck = True
    stuck.write(b"a")
    end_or_reset(stuck)
    end_or_reset(idle)
    assert (stuck.was_reset, idle.was_reset, idle.closed) == (True, False, True)
