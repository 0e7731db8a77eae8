"""Which object is written next, and when: each once, not too many at a time, failures later and later. Pure."""

from __future__ import annotations

import heapq

from mesh.backoff import Backoff
from resources.objects import ObjectKey

RATE = 20.0
"""Writes per second in the long run."""
BURST = 40.0
_ROUNDING = 1e-6
"""What a wait may lack by rounding: waiting on for it might not move the clock at all."""
BACKOFF = Backoff(initial=1.0, maximum=120.0)


class WriteQueue:
    """Objects to be written. Times are seconds on the monotonic clock."""

    def __init__(self, now: float) -> None:
        self._due: list[tuple[float, int, ObjectKey]] = []
        self._when: dict[ObjectKey, float] = {}
        self._failures: dict[ObjectKey, int] = {}
        self._order = 0
        self._allowance = BURST
        self._counted_at = now

    def __len__(self) -> int:
        return len(self._when)

    def put(self, key: ObjectKey, now: float) -> None:
        """An object is to be written; one that waits after a failure goes on waiting."""
        if key not in self._when:
            self._push(key, now)

    def drop(self, key: ObjectKey) -> None:
        """An object need not be written any more."""
        self._when.pop(key, None)
        self._failures.pop(key, None)

    def take(self, now: float) -> ObjectKey | float:
        """The next object, which is then out of the queue; or the seconds until there may be one."""
        self._allowance = min(BURST, self._allowance + (now - self._counted_at) * RATE)
        self._counted_at = now
        while self._due:
            when, _, key = self._due[0]
            if self._when.get(key) != when:
                heapq.heappop(self._due)  # dropped, or put in anew
                continue
            if when > now + _ROUNDING:
                return when - now
            if self._allowance < 1 - _ROUNDING:
                return (1 - self._allowance) / RATE
            self._allowance -= 1
            heapq.heappop(self._due)
            del self._when[key]
            return key
        return float("inf")

    def done(self, key: ObjectKey) -> None:
        """An object was written."""
        self._failures.pop(key, None)

    def failed(self, key: ObjectKey, now: float, random_unit: float) -> None:
        """An object could not be written."""
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        self._push(key, now + BACKOFF.delay(failures, random_unit))

    def _push(self, key: ObjectKey, when: float) -> None:
        self._order += 1
        self._when[key] = when
        heapq.heappush(self._due, (when, self._order, key))
