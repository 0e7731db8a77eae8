"""Deciders, backends and observers that tests can look into."""

from __future__ import annotations

from collections.abc import Callable

from mesh.addresses import PeerAddress, SocketAddress, parse_ip
from waypoint.client import Client
from waypoint.exchange.decision import Answer, Decision, Forward, Unavailable
from waypoint.exchange.facts import Facts
from waypoint.http.contract import Failure
from waypoint.http.message import RequestHead
from waypoint.upstream.pool_contract import EndpointPool

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

    def finished(self, facts: Facts) -> None:
        """See :class:`waypoint.exchange.decision.Observer`."""
        self.facts.append(facts)

    @property
    def summary(self) -> list[tuple[int, str]]:
        """Status and flags of each request."""
        return [(facts.status, facts.flags) for facts in self.facts]
