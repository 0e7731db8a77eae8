"""One connection from a client: its protocol is found out, and each of its requests becomes an exchange."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from mesh.errors import MeshError
from waypoint.client import Client
from waypoint.exchange.attempts import Context
from waypoint.exchange.detection import MOST, Spoken, detect, detect_http, server_name
from waypoint.exchange.exchange import Exchange
from waypoint.exchange.facts import Facts
from waypoint.http.contract import RequestSink, Responder
from waypoint.http.h1_server_machine import H1ServerMachine
from waypoint.http.h2_server_machine import H2ServerMachine
from waypoint.http.limits import HttpLimits
from waypoint.http.message import RequestHead
from waypoint.wire.contract import NOBODY, Buffer, Wire
from waypoint.wire.timers import Timer


class ByteServer(Protocol):
    """Serves connections that are not HTTP."""

    def serve(self, client: Client, wire: Wire, start: bytes, server_name: str | None) -> None:
        """Take over a wire.

        Args:
            client: whose connection it is.
            wire: paused; the one who serves it attaches itself and resumes it.
            start: what the client has said already; empty when it waits for the other side to speak.
            server_name: of a TLS ClientHello, empty if it has none; None if it is no TLS.
        """


class ClientConnection:
    """What one client says, until its protocol is known; then HTTP from it."""

    __slots__ = (
        "_bytes",
        "_context",
        "_draining",
        "_ended",
        "_limits",
        "_start",
        "_timer",
        "_wire",
        "client",
        "machine",
    )

    def __init__(
        self,
        context: Context,
        wire: Wire,
        client: Client,
        limits: HttpLimits,
        ended: Callable[[ClientConnection], None],
        *,
        byte_server: ByteServer | None = None,
    ) -> None:
        """Begin.

        Args:
            context: what all exchanges share.
            wire: the connection.
            client: whose it is.
            limits: of HTTP.
            ended: told once, when the connection has ended or was handed over.
            byte_server: takes what is not HTTP; without one that is answered as bad HTTP.
        """
        self._context = context
        self._wire = wire
        self._limits = limits
        self._ended = ended
        self._bytes = byte_server
        self._start = b""
        self._draining = False
        self.client = client
        self.machine: H1ServerMachine | H2ServerMachine | None = None
        self._timer: Timer | None = context.timers.after(
            limits.head_seconds if byte_server is None else limits.detect_seconds, self._undecided
        )
        wire.attach(self)

    # -- the first bytes (WireOwner) ---------------------------------------------------------------------------------

    def wire_data(self, data: Buffer) -> None:
        """Find out what is spoken."""
        start = self._start = self._start + bytes(data)
        spoken = detect_http(start) if self._bytes is None else detect(start)
        if spoken is Spoken.UNDECIDED and len(start) < MOST:
            return
        if spoken is Spoken.HTTP2:
            self._speak(H2ServerMachine(self._wire, self._context.timers, self._limits, self))
        elif spoken is Spoken.HTTP1 or self._bytes is None:
            self._speak(H1ServerMachine(self._wire, self._context.timers, self._limits, self))
        else:
            self._hand_over(self._bytes, server_name(start) if spoken is Spoken.TLS else None)

    def _speak(self, machine: H1ServerMachine | H2ServerMachine) -> None:
        self._decided()
        self.machine = machine
        self._wire.attach(machine)
        start, self._start = self._start, b""
        machine.wire_data(start)
        if self._draining:
            machine.drain()

    def _hand_over(self, byte_server: ByteServer, name: str | None) -> None:
        self._decided()
        self._wire.pause()
        self._wire.attach(NOBODY)
        self._ended(self)
        byte_server.serve(self.client, self._wire, self._start, name)

    def _decided(self) -> None:
        if self._timer is not None:
            self._context.timers.cancel(self._timer)
            self._timer = None

    def _undecided(self) -> None:
        """The client waits, or is slow."""
        self._timer = None
        if self._bytes is not None:
            self._hand_over(self._bytes, None)
        elif self._start:
            self._speak(H1ServerMachine(self._wire, self._context.timers, self._limits, self))
        else:
            self._timer = self._context.timers.after(self._limits.idle_seconds, self._leave)

    def wire_ended(self) -> None:
        """It has nothing to say."""
        self._leave()

    def wire_lost(self, error: MeshError | None) -> None:
        """The connection is gone."""
        self._leave()

    def wire_writable(self) -> None:
        """Nothing was written."""

    def _leave(self) -> None:
        self._decided()
        self._wire.end()
        self._ended(self)

    # -- requests (ServerOwner) --------------------------------------------------------------------------------------

    def request(self, responder: Responder, head: RequestHead, *, end: bool, version: str) -> RequestSink:
        """See :class:`ServerOwner`."""
        exchange = Exchange(self._context, self.client, responder, head, end=end, version=version)
        exchange.start()
        return exchange

    def refused(self, status: int, reason: str) -> None:
        """See :class:`ServerOwner`: recorded like a request, of which nothing is known."""
        context = self._context
        version = "2" if isinstance(self.machine, H2ServerMachine) else "1.1"
        facts = Facts(RequestHead(method=b"", path=b"", authority=b""), self.client, version, context.timers.clock())
        facts.ended_at = facts.started_at
        facts.status = status
        facts.add_flag("DPE")
        facts.details = reason
        context.observer.finished(facts)

    def connection_over(self) -> None:
        """See :class:`ServerOwner`."""
        self._ended(self)

    def drain(self) -> None:
        """Serve what is under way, and what comes before the client has read that no more is taken."""
        self._draining = True
        if self.machine is not None:
            self.machine.drain()
        else:
            self._context.timers.after(self._limits.farewell_seconds, self._leave_unused)

    def cut_off(self) -> None:
        """The time to drain is up: end what is under way."""
        if self.machine is not None:
            for sink in self.machine.under_way():
                sink.cut_off()

    def _leave_unused(self) -> None:
        if self._timer is not None and not self._start:
            self._leave()
