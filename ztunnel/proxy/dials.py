"""Dials in progress, ended when they take too long."""

from __future__ import annotations

from mesh.relay.dialing_end import DialingEnd
from mesh.relay.engine import Engine

CONNECT_SECONDS = 10.0


class Dials:
    """Connections of the relay that are being made. Few outlast a turn, so a list and a look per second do."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._watched: list[tuple[float, DialingEnd]] = []

    def watch(self, end: DialingEnd) -> None:
        """End this dial with a time-out, should it last."""
        self._watched.append((self._engine.now + CONNECT_SECONDS, end))

    def tick(self, now: float) -> None:
        """Once per second."""
        if not self._watched:
            return
        overdue = [end for deadline, end in self._watched if end.connecting and now > deadline]
        self._watched = [
            (deadline, end) for deadline, end in self._watched if end.connecting and not end.closed and now <= deadline
        ]
        for end in overdue:
            end.connect_timed_out()
