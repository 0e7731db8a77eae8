"""The kit does what tests take for granted."""

from __future__ import annotations

from mesh.model.request_policy import Attribute, RequestAction
from waypoint.testing.exchanges import Stage
from waypoint.testing.policies import condition, policy_of
from waypoint.testing.wires import ManualClock, MemoryWire
from waypoint.wire.contract import NOBODY


def test_a_paused_memory_wire_delivers_later_and_a_closed_one_nothing() -> None:
    stage = Stage()
    wire = stage.client()
    wire.pause()
    wire.feed(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n")
    assert stage.upstreams == []
    wire.resume()
    assert stage.upstreams == []
    wire.deliver()
    assert len(stage.upstreams) == 1
    wire.end()
    assert wire.owner is NOBODY
    wire.write(b"a")
    assert wire.take() == b""


def test_a_stuck_memory_wire_is_congested() -> None:
    wire = MemoryWire()
    wire.stuck = True
    wire.write(b"ab")
    assert (wire.congested, wire.waiting, wire.take()) == (True, 2, b"")
    wire.unstick()
    assert (wire.congested, wire.take()) == (False, b"ab")


def test_a_manual_clock_fires_each_timer_at_its_time() -> None:
    clock = ManualClock()
    start = clock.now
    told: list[float] = []
    clock.timers.after(2, lambda: told.append(clock.now - start))

    def again() -> None:
        clock.timers.after(0.5, lambda: told.append(clock.now - start))

    clock.timers.after(1, again)
    clock.advance(10)
    assert [round(at, 1) for at in told] == [1.5, 2.0]
    assert clock.now == start + 10


def test_a_policy_of_the_kit_wants_all_of_its_conditions() -> None:
    either = condition(Attribute.METHOD, "GET", "HEAD")
    here = condition(Attribute.HEADER, "b", name="x-a")
    [rule] = policy_of(RequestAction.DENY, either, here).rules
    assert [clause.conditions for group in rule.parts for clause in group] == [(either, here)]
    assert [value.value for value in either.values] == ["GET", "HEAD"]
