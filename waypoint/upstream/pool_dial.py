"""One connection of a pool while it is being made, with its deadline."""

from __future__ import annotations

from typing import Protocol

from mesh.errors import MeshError
from waypoint.http.contract import Failure, FailureKind
from waypoint.wire.contract import Wire
from waypoint.wire.dialling import Connector, Dial
from waypoint.wire.timers import Timer, Timers


class DialOwner(Protocol):
    """The pool."""

    def dialled(self, dialling: Dialling, wire: Wire | None, failure: Failure | None) -> None:
        """A connection stands, or there will be none."""
        ...


class Dialling:
    """One connection being made, with its deadline."""

    __slots__ = ("_dial", "_done", "_pool", "_timer", "_timers")

    def __init__(self, pool: DialOwner) -> None:
        self._pool = pool
        self._done = False
        self._dial: Dial | None = None
        self._timer: Timer | None = None
        self._timers: Timers

    def start(self, connector: Connector, timers: Timers, seconds: float) -> None:
        """Begin."""
        self._timers = timers
        self._timer = timers.after(seconds, self._too_slow)
        self._dial = connector.connect(self._report)

    def _report(self, wire: Wire | None, error: MeshError | None) -> None:
        if self._done:
            if wire is not None:
                wire.reset()
            return
        self._over()
        failure = None if error is None else Failure(FailureKind.CONNECT, str(error))
        self._pool.dialled(self, wire, failure)

    def _too_slow(self) -> None:
        if self._done:
            return
        self._over()
        if self._dial is not None:
            self._dial.cancel()
        self._pool.dialled(self, None, Failure(FailureKind.CONNECT_TIMEOUT, "the endpoint does not answer"))

    def _over(self) -> None:
        self._done = True
        if self._timer is not None:
            self._timers.cancel(self._timer)
