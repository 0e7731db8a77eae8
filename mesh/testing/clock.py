"""A clock for tests: monotonic as trio's (real or mocked), wall time as the test says."""

from __future__ import annotations

import trio


class AdjustableClock:
    """Both clocks run together until the test sets the wall clock or suspends the machine."""

    def __init__(self, wall: float = 1_800_000_000.0) -> None:
        """Start the wall clock at ``wall``, seconds since 1970. Needs a running trio."""
        self._offset = wall - trio.current_time()

    def monotonic(self) -> float:
        """Seconds on trio's clock."""
        return trio.current_time()

    def wall(self) -> float:
        """Seconds since 1970."""
        return trio.current_time() + self._offset

    def step(self, seconds: float) -> None:
        """Move the wall clock alone, as setting it or a suspended machine does."""
        self._offset += seconds
