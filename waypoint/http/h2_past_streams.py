"""What a server remembers of streams that are closed, so that it can tell a late frame from a forbidden one.

Theory of operation
-------------------
A frame for a closed stream may have been on its way when this side reset it, and must then be borne (RFC 9113 section
5.1). A frame for a stream that the client itself ended, or for a number it has passed over, is a violation (sections
5.1 and 5.1.1). To tell which, it is not the many streams that ended well that are remembered but the two rare things:
the numbers that were skipped, and the streams that were reset from here. Both memories are bounded; of what is older
than they reach, everything is borne.
"""

from __future__ import annotations

import enum
from collections import deque
from typing import Final

_KEPT: Final = 256
"""Runs of skipped numbers, and streams that were reset."""


class Past(enum.Enum):
    """How a closed stream came to its end, as far as is known."""

    SKIPPED = "its number was passed over"
    ENDED = "the client has ended it"
    BORNE = "it was reset from here, or is long ago"


class PastStreams:
    """One connection's memory."""

    __slots__ = ("_borne_below", "_reset", "_skipped", "_skips_known_from")

    def __init__(self) -> None:
        self._skipped: deque[tuple[int, int]] = deque()
        """First and last number of each run, rising."""
        self._reset: dict[int, None] = {}
        self._borne_below = 0
        """A stream below this number may have been reset from here."""
        self._skips_known_from = 0

    def skip(self, first: int, last: int) -> None:
        """The client has opened the stream after ``last`` without having opened ``first`` to ``last``."""
        self._skipped.append((first, last))
        if len(self._skipped) > _KEPT:
            self._skips_known_from = self._skipped.popleft()[1] + 1

    def reset(self, stream_id: int) -> None:
        """A stream was reset from here."""
        self._reset[stream_id] = None
        if len(self._reset) > _KEPT:
            oldest = next(iter(self._reset))
            del self._reset[oldest]
            self._borne_below = max(self._borne_below, oldest + 1)

    def look_up(self, stream_id: int) -> Past:
        """What became of a stream that is not open, and whose number is not above the newest."""
        if stream_id >= self._skips_known_from:
            for first, last in self._skipped:
                if first <= stream_id <= last:
                    return Past.SKIPPED
        if stream_id < max(self._borne_below, self._skips_known_from) or stream_id in self._reset:
            return Past.BORNE
        return Past.ENDED
