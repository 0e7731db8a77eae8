"""Deciders, backends and observers that tests can look into, and a stage on which exchanges run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mesh.addresses import PeerAddress, SocketAddress, parse_ip
from waypoint.client import Client
from waypoint.exchange.attempts import Context
from waypoint.exchange.client_connection import ClientConnection
from waypoint.exchange.decision import Answer, Decision, Forward
from waypoint.exchange.facts import Facts
from waypoint.http.contract import Failure
from waypoint.http.limits import HttpLimits
from waypoint.http.message import RequestHead
from waypoint.telemetry.tracing import Tracer
from waypoint.testing.wires import ManualClock, MemoryConnector, MemoryWire
from waypoint.upstream.pool_contract import EndpointPool, PoolLimits, Unavailable
from waypoint.upstream.pool_h1 import H1Pool
from waypoint.upstream.pool_h2 import H2Pool

CLIENT = Client(
    identity=None,
    address=PeerAddress(SocketAddress(parse_ip("10.0.0.1"), 1234)),
    destination=SocketAddress(parse_ip("10.96.0.1"), 80),
)


class FixedBackend:
    """Its pools in turn; keeps what became of attempts."""

    def __init__(self, *pools: EndpointPool) -> None:
        self.pools = list(pools)
        self.outcomes: list[tuple[str, int, Failure | None]] = []
        self.chosen = 0

    def choose(self, head: RequestHead, tried: list[EndpointPool]) -> EndpointPool | Unavailable:
        """See :class:`waypoint.exchange.decision.Backend`."""
        if not self.pools:
            return Unavailable("UH", "no healthy upstream")
        self.chosen += 1
        return self.pools[(self.chosen - 1) % len(self.pools)]

    def finished(self, pool: EndpointPool, status: int, failure: Failure | None) -> None:
        """See :class:`waypoint.exchange.decision.Backend`."""
        self.outcomes.append((pool.name, status, failure))


class FixedDecider:
    """One decision for all, or a function that makes one."""

    def __init__(self, decision: Forward | Answer | Callable[[RequestHead], Decision]) -> None:
        self.decision = decision
        self.heads: list[RequestHead] = []

    def decide(self, head: RequestHead, client: Client, facts: Facts) -> Decision:
        """See :class:`waypoint.exchange.decision.Decider`."""
        self.heads.append(head)
        if isinstance(self.decision, Forward | Answer):
            return self.decision
        return self.decision(head)


class KeepingObserver:
    """Keeps all facts."""

    def __init__(self) -> None:
        self.facts: list[Facts] = []
        self.tracer: Tracer | None = None
        """Begins their traces."""

    def began(self, facts: Facts) -> None:
        """See :class:`waypoint.exchange.decision.Observer`."""
        if self.tracer is not None:
            facts.trace = self.tracer.begin(facts.head)

    def finished(self, facts: Facts) -> None:
        """See :class:`waypoint.exchange.decision.Observer`."""
        self.facts.append(facts)

    @property
    def summary(self) -> list[tuple[int, str]]:
        """Status and flags of each request."""
        return [(facts.status, facts.flags) for facts in self.facts]


class Stage:
    """A waypoint's HTTP without a network: clients and endpoints are memory wires, time is the test's."""

    def __init__(
        self,
        *,
        limits: HttpLimits | None = None,
        pool_limits: PoolLimits | None = None,
        endpoints: int = 1,
        http2: bool = False,
        decision: Callable[[RequestHead], Decision] | None = None,
        **forward: Any,
    ) -> None:
        """``forward``: fields of the :class:`Forward` that every request gets, unless ``decision`` makes one."""
        self.clock = ManualClock()
        self.limits = limits or HttpLimits()
        self.connectors = [MemoryConnector() for _ in range(endpoints)]
        made: type[H1Pool] | type[H2Pool] = H2Pool if http2 else H1Pool
        self.pools = [
            made(f"endpoint-{number}", connector, self.clock.timers, pool_limits or PoolLimits(), self.limits)
            for number, connector in enumerate(self.connectors)
        ]
        self.backend = FixedBackend(*self.pools)
        self.decider = FixedDecider(decision or Forward(self.backend, **forward))
        self.observer = KeepingObserver()
        self.context = Context(self.clock.timers, self.decider, self.observer, lambda: 0.5)
        self.ended: list[ClientConnection] = []
        self.connections: list[ClientConnection] = []

    def client(self, first: bytes = b"") -> MemoryWire:
        """A client that has connected, and says something."""
        wire = MemoryWire()
        self.connections.append(ClientConnection(self.context, wire, CLIENT, self.limits, self.ended.append))
        if first:
            wire.feed(first)
        return wire

    @property
    def upstreams(self) -> list[MemoryWire]:
        """The connections to the (first) endpoint, oldest first."""
        return self.connectors[0].wires
