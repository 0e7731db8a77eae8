"""HTTP/1.1 connections to one endpoint: as many as requests at a time, kept alive in between."""

from __future__ import annotations

from collections import deque

from waypoint.http.contract import Call, Failure, FailureKind, ResponseSink
from waypoint.http.h1_client_machine import H1ClientMachine
from waypoint.http.limits import HttpLimits
from waypoint.upstream.pool_contract import EndpointPool, PoolLimits
from waypoint.upstream.pool_dial import Dialling
from waypoint.wire.contract import Wire
from waypoint.wire.dialling import Connector
from waypoint.wire.timers import Timer, Timers


class H1Pool(EndpointPool):
    """See the module's docstring."""

    __slots__ = (
        *("_connections", "_connector", "_dials", "_draining", "_http", "_idle", "_limits", "_pending", "_sweeper"),
        *("_timers", "_active"),
    )

    def __init__(
        self, name: str, connector: Connector, timers: Timers, limits: PoolLimits, http: HttpLimits | None = None
    ) -> None:
        super().__init__(name)
        self._active = 0
        self._connector = connector
        self._timers = timers
        self._limits = limits
        self._http = http or HttpLimits()
        self._idle: deque[H1ClientMachine] = deque()
        """Used longest ago first."""
        self._connections = 0
        """Made; without those being made."""
        self._dials: dict[Dialling, None] = {}
        self._pending: dict[ResponseSink, None] = {}
        self._draining = False
        self._sweeper: Timer | None = None

    @property
    def active(self) -> int:
        """See :class:`EndpointPool`."""
        return self._active

    @property
    def connections(self) -> int:
        """How many there are."""
        return self._connections

    @property
    def idle(self) -> int:
        """See :class:`EndpointPool`."""
        return len(self._idle)

    @property
    def pending(self) -> int:
        """How many requests wait."""
        return len(self._pending)

    def open(self, sink: ResponseSink, *, fresh: bool = False) -> Call | Failure | None:
        """See :class:`EndpointPool`."""
        if self._idle and not fresh:
            machine = self._idle.pop()
            self._active += 1
            machine.begin(sink)
            return machine
        if len(self._pending) >= self._limits.pending:
            return Failure(FailureKind.OVERFLOW, "too many requests wait for a connection to the endpoint")
        if fresh and self._idle and self._connections + len(self._dials) >= self._limits.connections:
            self._idle[0].close()
        self._active += 1
        self._pending[sink] = None
        self._dial()
        return None

    def forget(self, sink: ResponseSink) -> None:
        """See :class:`EndpointPool`."""
        if sink in self._pending:
            del self._pending[sink]
            self._active -= 1

    def _dial(self) -> None:
        """Make connections for those who wait, as far as limits allow."""
        limit = self._limits.connections
        while len(self._dials) < len(self._pending) and self._connections + len(self._dials) < limit:
            dialling = Dialling(self)
            self._dials[dialling] = None
            dialling.start(self._connector, self._timers, self._limits.connect_seconds)

    def dialled(self, dialling: Dialling, wire: Wire | None, failure: Failure | None) -> None:
        """See :class:`DialOwner`."""
        self._dials.pop(dialling, None)
        if wire is None:
            pending, self._pending = self._pending, {}
            self._active -= len(pending)
            for sink in pending:
                sink.call_failed(failure or Failure(FailureKind.CONNECT, "no connection"))
            return
        self._connections += 1
        machine = H1ClientMachine(wire, self._http, self)
        wire.attach(machine)
        self._put(machine)

    # -- connections (ClientOwner) -----------------------------------------------------------------------------------

    def call_over(self, machine: H1ClientMachine) -> None:
        """A connection is free."""
        self._active -= 1
        per_connection = self._limits.requests_per_connection
        if self._draining or (per_connection and machine.requests >= per_connection):
            machine.close()
        else:
            self._put(machine)

    def _put(self, machine: H1ClientMachine) -> None:
        if self._pending:
            sink = next(iter(self._pending))
            del self._pending[sink]
            machine.begin(sink)
            sink.call_ready(machine)
            return
        if self._draining:
            machine.close()
            return
        machine.idle_since = self._timers.clock()
        self._idle.append(machine)
        if self._sweeper is None:
            self._sweeper = self._timers.after(self._limits.idle_seconds, self._sweep)

    def connection_gone(self, machine: H1ClientMachine) -> None:
        """A connection has ended."""
        self._connections -= 1
        if machine.in_call:
            machine.in_call = False
            self._active -= 1
        else:
            try:
                self._idle.remove(machine)
            except ValueError:
                pass  # closed before it was put back
        if self._pending:
            self._dial()

    def _sweep(self) -> None:
        """Close what was idle for too long."""
        self._sweeper = None
        now, longest = self._timers.clock(), self._limits.idle_seconds
        while self._idle and self._idle[0].idle_since + longest <= now + 0.001:
            self._idle[0].close()
        if self._idle:
            wait = max(self._idle[0].idle_since + longest - now, 0.01)
            self._sweeper = self._timers.after(wait, self._sweep)

    def drain(self) -> None:
        """See :class:`EndpointPool`."""
        self._draining = True
        while self._idle:
            self._idle[0].close()
