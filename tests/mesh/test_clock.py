"""The two clocks."""

from __future__ import annotations

from datetime import UTC, datetime

import trio
import trio.testing

from mesh.clock import Clock, SystemClock, utc_now, wall_seconds


async def test_monotonic_time_is_trios(autojump_clock: trio.testing.MockClock) -> None:
    clock: Clock = SystemClock()
    before = clock.monotonic()
    await trio.sleep(1000)  # mocked: passes at once
    assert clock.monotonic() - before == 1000


def test_wall_time_is_the_machines() -> None:
    rounding = 1e-5
    low = datetime.now(UTC).timestamp() - rounding
    now, seconds, system = utc_now(), wall_seconds(), SystemClock().wall()
    high = datetime.now(UTC).timestamp() + rounding
    assert now.tzinfo is UTC
    for wall in (now.timestamp(), seconds, system):
        assert low <= wall <= high
