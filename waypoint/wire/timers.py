"""One calendar for all deadlines of a process: requests, attempts, idle connections.

Arming and disarming a timer are a dictionary operation each, whatever their number: most deadlines are disarmed long
before they are due. Due times are rounded up to :data:`RESOLUTION`; all timers of one slot share one entry in a heap.
Nothing here reads a clock or waits: :mod:`waypoint.wire.timers_driver` does.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Final

import structlog

RESOLUTION: Final = 0.005
"""Seconds of one slot: how late a timer may be because of rounding."""

_log = structlog.get_logger("waypoint")


class Timer:
    """One deadline."""

    __slots__ = ("callback", "slot")

    def __init__(self, slot: int, callback: Callable[[], None]) -> None:
        self.slot = slot
        self.callback = callback


class Timers:
    """All deadlines."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """``clock`` returns monotonic seconds."""
        self.clock = clock
        self._slots: dict[int, dict[Timer, None]] = {}
        self._order: list[int] = []
        self.earlier: Callable[[], None] | None = None
        """Called when a timer is due before all others."""

    def after(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call ``callback`` once, in so many seconds, unless it is cancelled."""
        slot = int((self.clock() + seconds) / RESOLUTION) + 1
        timer = Timer(slot, callback)
        timers = self._slots.get(slot)
        if timers is None:
            self._slots[slot] = {timer: None}
            first = not self._order or slot < self._order[0]
            heapq.heappush(self._order, slot)
            if first and self.earlier is not None:
                self.earlier()
        else:
            timers[timer] = None
        return timer

    def cancel(self, timer: Timer) -> None:
        """Forget it; one that has fired or was cancelled is ignored."""
        timers = self._slots.get(timer.slot)
        if timers is not None:
            timers.pop(timer, None)
        timer.callback = _nothing  # whoever is to be called mostly holds the timer: a circle for the collector

    @property
    def next_at(self) -> float | None:
        """When to call :meth:`run` next, in seconds of the clock; None if there is nothing to wait for."""
        while self._order and not self._slots[self._order[0]]:
            del self._slots[heapq.heappop(self._order)]
        return self._order[0] * RESOLUTION if self._order else None

    def run(self) -> None:
        """Fire everything that is due."""
        now = self.clock()
        while self._order and self._order[0] * RESOLUTION <= now:
            timers = self._slots[self._order[0]]
            while timers:
                timer = next(iter(timers))
                del timers[timer]
                callback, timer.callback = timer.callback, _nothing
                try:
                    callback()
                except Exception:  # one connection's bug must not stop everybody's deadlines
                    _log.exception("a timer failed")
            # A callback may have armed an earlier slot meanwhile, so this one need not be the heap's first any more.
            slot = self._order[0]
            if not self._slots[slot]:
                del self._slots[heapq.heappop(self._order)]

    def __len__(self) -> int:
        return sum(map(len, self._slots.values()))


def _nothing() -> None:
    """What a timer calls that is done with."""
