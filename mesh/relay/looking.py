"""How long the relay looks for more before it sleeps.

Theory of operation
-------------------
Falling asleep and being woken takes longer than much of what the relay waits for, on virtual machines above all: an
idle virtual core takes some 20 us to run whom it was woken for. Looking, with others let run in between, finds it at
once, and costs processor time when there is nothing. So, as in the kernel's own halt polling, looking in vain halves
the time, down to none, and a wake-up that came soon restores it.

Where others want the core, looking only makes them wait, and whoever yields comes back late. Then the relay sleeps at
once for a millisecond, and for twice as long each time that this comes again soon, up to :data:`_LONGEST_PAUSE`. Being
late once is not being in the way: a quiet connection's core is taken away now and then, too.

No clock and no I/O: ``mesh.relay.engine`` looks, and tells what came of it.
"""

from __future__ import annotations

from typing import Final

LONGEST: Final = 0.00005
"""Most seconds to look."""

LONG_YIELD: Final = 0.00007
"""When letting others run took longer, somebody wanted the core (seconds)."""

_SHORTEST: Final = 0.000005
"""Below this looking is given up."""

_FIRST_PAUSE: Final = 0.001
_LONGEST_PAUSE: Final = 0.05
"""Seconds without looking after somebody wanted the core; also how soon that must come again to count as again."""


class Looking:
    """See the module's docstring. Times are seconds of one monotonic clock."""

    __slots__ = ("_pause", "_paused_until", "seconds")

    def __init__(self) -> None:
        self.seconds = LONGEST
        """How long to look next time; 0 for not at all."""
        self._pause = _FIRST_PAUSE
        self._paused_until = float("-inf")

    def in_vain(self) -> None:
        """Nothing came while the relay looked."""
        self.seconds = self.seconds / 2 if self.seconds > 2 * _SHORTEST else 0.0

    def in_the_way(self, now: float) -> None:
        """Others wanted the core: a yield took longer than :data:`LONG_YIELD`."""
        again = now < self._paused_until + _LONGEST_PAUSE
        self._pause = min(2 * self._pause, _LONGEST_PAUSE) if again else _FIRST_PAUSE
        self._paused_until = now + self._pause
        self.seconds = 0.0

    def woken(self, waited_since: float, now: float) -> None:
        """Something came while the relay slept."""
        if now < waited_since + LONGEST and now > self._paused_until:
            self.seconds = LONGEST
