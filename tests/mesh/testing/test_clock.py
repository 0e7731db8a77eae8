from __future__ import annotations

import trio
from trio.testing import MockClock

from mesh.testing.clock import AdjustableClock


async def test_both_clocks_run_and_only_the_wall_clock_is_stepped(autojump_clock: MockClock) -> None:
    clock = AdjustableClock(wall=1000.0)
    await trio.sleep(5)
    assert clock.wall() == 1005.0
    before = clock.monotonic()
    clock.step(3600)
    assert clock.wall() == 4605.0
    assert clock.monotonic() == before
