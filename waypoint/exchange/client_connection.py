"""One connection from a client: its protocol is found out, and each of its requests becomes an exchange."""

from __future__ import annotations

from collections.abc import Callable

from waypoint.client import Client
from waypoint.exchange.attempts import Context
from waypoint.exchange.exchange import Exchange
from waypoint.exchange.facts import Facts
from waypoint.http.contract import RequestSink, Responder
from waypoint.http.h1_server_machine import H1ServerMachine, ServerOwner
from waypoint.http.limits import HttpLimits
from waypoint.http.message import RequestHead
from waypoint.wire.contract import Wire


class ClientConnection(ServerOwner):
    """HTTP from one client."""

    __slots__ = ("_context", "_ended", "client", "machine")

    def __init__(
        self,
        context: Context,
        wire: Wire,
        client: Client,
        limits: HttpLimits,
        ended: Callable[[ClientConnection], None],
    ) -> None:
        self._context = context
        self._ended = ended
        self.client = client
        self.machine = H1ServerMachine(wire, context.timers, limits, self)
        wire.attach(self.machine)

    def request(self, responder: Responder, head: RequestHead, *, end: bool, version: str) -> RequestSink:
        """See :class:`ServerOwner`."""
        exchange = Exchange(self._context, self.client, responder, head, end=end, version=version)
        exchange.start()
        return exchange

    def refused(self, status: int, reason: str) -> None:
        """See :class:`ServerOwner`: recorded like a request, of which nothing is known."""
        context = self._context
        facts = Facts(RequestHead(method=b"", path=b"", authority=b""), self.client, "1.1", context.timers.clock())
        facts.ended_at = facts.started_at
        facts.status = status
        facts.add_flag("DPE")
        facts.details = reason
        context.observer.finished(facts)

    def connection_over(self) -> None:
        """See :class:`ServerOwner`."""
        self._ended(self)

    def drain(self) -> None:
        """Serve what is under way and no more."""
        self.machine.drain()
