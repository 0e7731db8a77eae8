"""Whether a worker had better be given all that applications dial.

Theory of operation. A connection that lives some milliseconds costs what is around its bytes: waking up, a TLS record,
a send, each way. A worker that has eight such connections at a time does these once for several of them. Two workers
with four each do nearly as much each, and wake one another's peers twice as often. So while connections are many and
short and few at a time, and its core is not used up, a worker asks the kernel for the next ones
(``ebpf.listeners.ListenerTable.prefer``). It asks again as long as that is so; else the workers take turns again a
moment later.

Connections that last are not meant: they are divided, since nobody knows how busy they will be.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sized
from typing import Final

PREFERRED_SECONDS: Final = 0.1
"""How long one wish holds."""
WINDOW: Final = 32
"""Connections between two looks."""
BRISK_SECONDS: Final = 0.05
"""Many: a window's connections end within this time."""
SHORT_SECONDS: Final = 0.02
"""Short: what they live on average, at most."""
FEW: Final = 16
"""Connections alive at most. Those of one worker share records as well with more, but then there is work for two."""
BUSY: Final = 0.85
"""Part of a core; a worker that uses more has all it can do."""


class Preference:
    """Of one worker.

    Args:
        alive: its connections.
        prefer: asks the kernel, for so many seconds.
        worked: processor time that this process has used, in seconds.
    """

    def __init__(
        self, alive: Sized, prefer: Callable[[float], None], worked: Callable[[], float] = time.process_time
    ) -> None:
        self._alive = alive
        self._prefer = prefer
        self._worked = worked
        self._ended = 0
        self._lived = 0.0
        self._since = float("-inf")
        self._worked_before = 0.0

    def ended(self, now: float, lived: float) -> None:
        """A connection is over (``ConnectionTable.when_dialled_over``)."""
        self._ended += 1
        self._lived += lived
        if self._ended < WINDOW:
            return
        worked = self._worked()
        took = now - self._since
        if (
            took < BRISK_SECONDS
            and self._lived < WINDOW * SHORT_SECONDS
            and len(self._alive) <= FEW
            and worked - self._worked_before < BUSY * took
        ):
            self._prefer(PREFERRED_SECONDS)
        self._ended, self._lived, self._since, self._worked_before = 0, 0.0, now, worked
