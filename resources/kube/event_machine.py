"""Which event is told next, and when: the same one seldom, and not too many at a time. Pure.

What goes on being so is noticed again and again; told again it is only after a while, which is shorter than the API
keeps events, so that it can still be seen. What cannot be told at the allowed rate waits; when too much waits, what
comes then is let go of and counted, since a status or a log has it as well.
"""

from __future__ import annotations

from collections import OrderedDict, deque

from resources.kube.event_codec import Notice

RATE = 5.0
"""Events per second in the long run."""
BURST = 25.0
AGAIN_SECONDS = 1800.0
"""How long the same is not told again."""
MAX_WAITING = 1000
MAX_REMEMBERED = 20000
TRIES = 3
_ROUNDING = 1e-6
"""What a wait may lack by rounding: waiting on for it might not move the clock at all."""


class EventQueue:
    """Notices to be told. Times are seconds on the monotonic clock."""

    def __init__(self, now: float) -> None:
        self._waiting: deque[Notice] = deque()
        self._told: OrderedDict[Notice, float] = OrderedDict()
        self._tries: dict[Notice, int] = {}
        self._allowance = BURST
        self._counted_at = now
        self.let_go = 0
        """Notices that were not told because too many waited."""

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, notice: Notice, now: float) -> bool:
        """Something was noticed; whether it is to be told now."""
        told = self._told.get(notice)
        if told is not None and now - told < AGAIN_SECONDS:
            return False
        if len(self._waiting) >= MAX_WAITING:
            self.let_go += 1
            return False
        self._told[notice] = now
        self._told.move_to_end(notice)
        while len(self._told) > MAX_REMEMBERED:
            self._told.popitem(last=False)
        self._waiting.append(notice)
        return True

    def take(self, now: float) -> Notice | float:
        """The next notice, which is then out of the queue; or the seconds until there may be one."""
        self._allowance = min(BURST, self._allowance + (now - self._counted_at) * RATE)
        self._counted_at = now
        if not self._waiting:
            return float("inf")
        if self._allowance < 1 - _ROUNDING:
            return (1 - self._allowance) / RATE
        self._allowance -= 1
        return self._waiting.popleft()

    def done(self, notice: Notice) -> None:
        """A notice was told."""
        self._tries.pop(notice, None)

    def failed(self, notice: Notice) -> None:
        """A notice could not be told: some more times it is tried, then it may be noticed anew."""
        tries = self._tries.get(notice, 0) + 1
        if tries < TRIES:
            self._tries[notice] = tries
            self._waiting.append(notice)
        else:
            self._tries.pop(notice, None)
            self._told.pop(notice, None)
