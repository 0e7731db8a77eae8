"""A waypoint's HTTP over real sockets: an engine, its timers, a listener."""

from __future__ import annotations

import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio

from mesh.addresses import PeerAddress
from mesh.relay.acceptor import Acceptor
from mesh.relay.engine import Engine
from mesh.relay.socket_end import RawSocket
from waypoint.exchange.attempts import Context
from waypoint.exchange.client_connection import ClientConnection
from waypoint.exchange.decision import Decider
from waypoint.http.limits import HttpLimits
from waypoint.testing.exchanges import CLIENT, KeepingObserver
from waypoint.wire.socket_wire import SocketWire
from waypoint.wire.timers import Timers
from waypoint.wire.timers_driver import run_timers


@dataclass
class Serving:
    """What a test needs of it."""

    engine: Engine
    timers: Timers
    observer: KeepingObserver = field(default_factory=KeepingObserver)
    connections: set[ClientConnection] = field(default_factory=set)
    acceptors: list[Acceptor] = field(default_factory=list)
    wires: list[SocketWire] = field(default_factory=list)
    port: int = 0

    def listen(self, decider: Decider, limits: HttpLimits | None = None) -> None:
        """Serve HTTP on a port of loopback."""
        context = Context(self.timers, decider, self.observer, lambda: 0.5)
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        self.port = listener.getsockname()[1]

        def accepted(sock: RawSocket, _peer: PeerAddress) -> None:
            wire = SocketWire(self.engine, socket.socket(fileno=sock.detach()))
            connection = ClientConnection(context, wire, CLIENT, limits or HttpLimits(), self.connections.discard)
            self.connections.add(connection)
            self.wires.append(wire)
            wire.start()

        self.acceptors.append(Acceptor(self.engine, listener, accepted))

    def close(self) -> None:
        """Close every socket that was accepted here."""
        for acceptor in self.acceptors:
            acceptor.close()
        for wire in self.wires:
            wire.reset()


@pytest.fixture
def proxying() -> Callable[[], AbstractAsyncContextManager[Serving]]:
    """``async with proxying() as waypoint``."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[Serving]:
        engine = Engine()
        waypoint = Serving(engine, Timers(time.monotonic))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.run)
            nursery.start_soon(run_timers, waypoint.timers)
            try:
                yield waypoint
            finally:
                waypoint.close()
                nursery.cancel_scope.cancel()
        engine.close()

    return opened
