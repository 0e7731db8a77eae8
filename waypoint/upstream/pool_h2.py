"""HTTP/2 connections to one endpoint: one, and another one only while all are full."""

from __future__ import annotations

from waypoint.http.contract import Call, Failure, FailureKind, ResponseSink
from waypoint.http.h2_client_machine import H2ClientMachine
from waypoint.http.limits import HttpLimits
from waypoint.upstream.pool_contract import EndpointPool, PoolLimits
from waypoint.upstream.pool_dial import Dialling
from waypoint.wire.contract import Wire
from waypoint.wire.dialling import Connector
from waypoint.wire.timers import Timer, Timers


class H2Pool(EndpointPool):
    """See the module's docstring."""

    __slots__ = (
        *("_connector", "_dialling", "_draining", "_http", "_limits", "_machines", "_pending", "_sweeper"),
        *("_timers",),
    )

    def __init__(
        self, name: str, connector: Connector, timers: Timers, limits: PoolLimits, http: HttpLimits | None = None
    ) -> None:
        super().__init__(name)
        self._connector = connector
        self._timers = timers
        self._limits = limits
        self._http = http or HttpLimits()
        self._machines: list[H2ClientMachine] = []
        """Those that take requests."""
        self._pending: dict[ResponseSink, None] = {}
        self._dialling: Dialling | None = None
        self._draining = False
        self._sweeper: Timer | None = None

    @property
    def connections(self) -> int:
        """How many take requests."""
        return len(self._machines)

    @property
    def idle(self) -> int:
        """See :class:`EndpointPool`."""
        return sum(not machine.calls for machine in self._machines)

    @property
    def pending(self) -> int:
        """How many requests wait."""
        return len(self._pending)

    @property
    def active(self) -> int:
        """See :class:`EndpointPool`."""
        return len(self._pending) + sum(machine.calls for machine in self._machines)

    def open(self, sink: ResponseSink, *, fresh: bool = False) -> Call | Failure | None:
        """See :class:`EndpointPool`; every connection is as good as a fresh one."""
        call = self._begin(sink)
        if call is not None:
            return call
        if len(self._pending) >= self._limits.pending:
            return Failure(FailureKind.OVERFLOW, "too many requests wait for a connection to the endpoint")
        self._pending[sink] = None
        self._dial()
        return None

    def _begin(self, sink: ResponseSink) -> Call | None:
        for machine in self._machines:
            if machine.free:
                call = machine.begin(sink)
                per_connection = self._limits.requests_per_connection
                if per_connection and machine.requests >= per_connection:
                    machine.retire()
                return call
        return None

    def forget(self, sink: ResponseSink) -> None:
        """See :class:`EndpointPool`."""
        self._pending.pop(sink, None)

    def _dial(self) -> None:
        if self._dialling is None and self._pending and len(self._machines) < self._limits.connections:
            self._dialling = Dialling(self)
            self._dialling.start(self._connector, self._timers, self._limits.connect_seconds)

    def dialled(self, dialling: Dialling, wire: Wire | None, failure: Failure | None) -> None:
        """See :class:`DialOwner`."""
        self._dialling = None
        if wire is None:
            pending, self._pending = self._pending, {}
            for sink in pending:
                sink.call_failed(failure or Failure(FailureKind.CONNECT, "no connection"))
            return
        machine = H2ClientMachine(wire, self._timers, self._http, self)
        wire.attach(machine)
        self._machines.append(machine)
        if self._sweeper is None:
            self._sweeper = self._timers.after(self._limits.idle_seconds, self._sweep)
        self._serve_pending()
        if self._draining:
            self.drain()

    def _serve_pending(self) -> None:
        while self._pending:
            sink = next(iter(self._pending))
            call = self._begin(sink)
            if call is None:
                self._dial()
                return
            del self._pending[sink]
            sink.call_ready(call)

    # -- connections (H2ClientOwner) ---------------------------------------------------------------------------------

    def stream_free(self, machine: H2ClientMachine) -> None:
        """See :class:`H2ClientOwner`."""
        if self._pending:
            self._serve_pending()

    def h2_connection_gone(self, machine: H2ClientMachine) -> None:
        """See :class:`H2ClientOwner`."""
        if machine in self._machines:
            self._machines.remove(machine)
        self._dial()

    def _sweep(self) -> None:
        """Close what was idle for too long."""
        self._sweeper = None
        now, longest = self._timers.clock(), self._limits.idle_seconds
        for machine in list(self._machines):
            if not machine.calls and machine.idle_since + longest <= now + 0.001:
                machine.retire()
        if self._machines:
            idle = [machine.idle_since for machine in self._machines if not machine.calls]
            wait = max(min(idle, default=now) + longest - now, 0.01)
            self._sweeper = self._timers.after(wait, self._sweep)

    def drain(self) -> None:
        """See :class:`EndpointPool`."""
        self._draining = True
        for machine in list(self._machines):
            machine.retire()
