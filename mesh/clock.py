"""The two clocks: monotonic for deadlines, wall for certificates and log lines.

Deadlines and ages are measured on trio's clock, which no NTP step moves and which tests can advance. The wall clock
answers one kind of question only: is this certificate valid, what time shall a record show. A ``Clock`` is handed to
whatever asks either, so that a test states the time instead of waiting for it.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol

import trio


class Clock(Protocol):
    """What time it is, in both senses."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary start; never goes back."""
        ...

    def wall(self) -> float:
        """Seconds since 1970 in UTC; may jump when the machine's clock is set."""
        ...


class SystemClock:
    """The machine's clocks; ``monotonic`` is trio's, so it needs a running trio."""

    def monotonic(self) -> float:
        """Seconds on trio's clock."""
        return trio.current_time()

    def wall(self) -> float:
        """Seconds since 1970."""
        return wall_seconds()


def wall_seconds() -> float:
    """Seconds since 1970 in UTC."""
    return time.time()  # noqa: TID251 -- the one place that reads the wall clock


def utc_now() -> datetime:
    """The wall clock as an aware ``datetime`` in UTC."""
    return datetime.fromtimestamp(wall_seconds(), UTC)
