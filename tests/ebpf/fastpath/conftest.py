"""A verdict for what pod a dials at pod b, and what the tests of the fast path ask of it."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
import time
import traceback
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from ebpf.counters import Counters
from ebpf.fastpath.flows import Direction, FlowTable
from ebpf.fastpath.tables import FastPathConnection, FastPathMaps
from ebpf.listeners import socket_cookie
from ebpf.pods import FastPathUse, PodEntry, PodTable
from ebpf.reasons import Reason
from mesh.addresses import SocketAddress, parse_ip
from mesh.testing.actors import Actor, ActorFailed
from mesh.testing.conversations import chat, chatting, dial, serve
from ztunnel.fastpath.splicer import Splicer

PORT = 8080
B = "10.244.1.3"
VIP = "10.96.0.9"
GENERATION = 7


@pytest.fixture
def told(mesh: Any) -> Iterator[FastPathMaps]:
    """Everything that a dials at b's port is admitted, and a service of that one endpoint."""
    a, b = mesh.places["a"], mesh.places["b"]
    with FastPathMaps(mesh.paths) as opened:
        opened.clear()
        opened.take_closed()
        opened.set_generation(b.namespace.cookie(), GENERATION)
        for host in (b.ipv4, b.ipv6):
            opened.admit(a.namespace.cookie(), address(host), b.namespace.cookie(), GENERATION)
        opened.set_service(a.namespace.cookie(), SocketAddress(parse_ip(VIP), 80), [address(b.ipv4)])
        opened.stay_alive(600)
        yield opened
        opened.stop()
        opened.clear()


@pytest.fixture
def maps(told: FastPathMaps, mesh: Any) -> Iterator[FastPathMaps]:
    """The same, and what ztunnel does for connections that are worth it: both ends are entered in the splice."""
    with Actor(mesh.cgroup / "ztunnel", None, enter_all, told, mesh.places):
        yield told


def enter_all(told: FastPathMaps, places: Any) -> None:
    """Enter what the programs name, for ever."""
    pods = {place.namespace.cookie(): place for place in places.values()}
    trio.run(Splicer(told, pods.get).run)


def address(host: str, port: int = PORT) -> SocketAddress:
    return SocketAddress(parse_ip(host), port)


def counted(node: Any, reason: Reason) -> int:
    with Counters(node.paths) as counters:
        return counters.read()[reason]


def closed(maps: FastPathMaps, count: int = 1) -> list[FastPathConnection]:
    """Records of closed connections, waited for; more than that many are a failure."""
    found: list[FastPathConnection] = []
    deadline = time.monotonic() + 10
    while len(found) < count and time.monotonic() < deadline:
        found += maps.take_closed()
        time.sleep(0.02)
    time.sleep(0.05)
    found += maps.take_closed()
    assert len(found) == count
    return found


def start(place: Any, handle: Callable[[Any], object], port: int = PORT) -> Any:
    """A server at a port of a pod, listening."""
    return begin(place, serve, port, handle)


def begin(place: Any, server: Callable[..., None], port: int, *arguments: Any) -> Any:
    """A server of another kind."""
    ready, tell = os.pipe()
    actor = place.start(server, port, tell, *arguments)
    os.close(tell)
    with os.fdopen(ready, "rb") as pipe:
        if pipe.read(1) != b"r":
            actor.join()
    return actor


# -- the same conversation over TCP and over the splice ----------------------------------------------------------------


class Wire:
    """Conversations between pods a and b on fast connections, each shown to be spliced, or to be on TCP.

    Both ends begin by chatting until the kernel's own account says so; then the test's functions have the sockets. A
    test that gets a ``wire`` runs over both, and expects of the splice what TCP does.
    """

    def __init__(self, node: Any, spliced: bool) -> None:
        self.node = node
        self.spliced = spliced
        self.chatted = 0
        """Bytes that a client has said before a test's function has its socket; in the client's own process."""
        self._outcomes, self._tell = multiprocessing.Pipe(duplex=False)

    def serve(
        self,
        handle: Callable[[socket.socket], Any],
        port: int = PORT,
        prepare: Callable[[socket.socket], object] | None = None,
    ) -> Any:
        """A server in pod b; ``handle`` has the socket after the chat, and ``outcome`` what it returns.

        Args:
            handle: what the server does.
            port: where.
            prepare: has the socket before the chat; what it returns is kept until the conversation ends.
        """

        def conversation(sock: socket.socket) -> None:
            kept = prepare(sock) if prepare else None
            chatting(sock)
            try:
                self._tell.send((handle(sock), ""))
            except BaseException:
                self._tell.send((None, traceback.format_exc()))
            del kept

        return start(self.node.places["b"], conversation, port)

    def outcome(self) -> Any:
        """What a server's function returned, in the order in which they do."""
        assert self._outcomes.poll(30), "the server's function does not return"
        value, failure = self._outcomes.recv()
        assert not failure, failure
        return value

    def call(self, client: Callable[[socket.socket], Any], host: str = B, port: int = PORT) -> Any:
        """What a client in pod a returns; if it fails, a server that has failed before it is to blame."""
        try:
            return self.node.places["a"].run(self.connected, client, host, port)
        except (OSError, ActorFailed):
            if self._outcomes.poll(0):
                self.outcome()
            raise

    def start(self, client: Callable[[socket.socket], Any], host: str = B, port: int = PORT) -> Any:
        """The same, not waited for."""
        return self.node.places["a"].start(self.connected, client, host, port)

    def connected(self, client: Callable[[socket.socket], Any], host: str, port: int) -> Any:
        """Dial, chat until the way is known, and give the socket to a client."""
        with dial(host, port) as sock:
            self.settle(sock)
            return client(sock)

    def settle(self, sock: socket.socket) -> None:
        """Chat on a dialled socket until its way is known."""
        with FlowTable(self.node.paths) as flows:
            self.chatted = chat(sock, (lambda: both_spliced(flows, sock)) if self.spliced else None)
            assert both_spliced(flows, sock) == self.spliced
            assert flows.sent_by(socket_cookie(sock.fileno())) is not None, "no fast connection"

    def sent(self, sock: socket.socket) -> Direction:
        """How what a socket has sent so far has travelled; not at all, once it is closed."""
        with FlowTable(self.node.paths) as flows:
            return flows.sent_by(socket_cookie(sock.fileno())) or Direction(0, 0)

    def close(self) -> None:
        """Close the pipe of outcomes."""
        self._outcomes.close()
        self._tell.close()


def both_spliced(flows: FlowTable, sock: socket.socket) -> bool:
    """Whether both directions of a fast connection have gone past TCP."""
    own, peer = flows.sent_by(socket_cookie(sock.fileno())), flows.sent_to(socket_cookie(sock.fileno()))
    return own is not None and peer is not None and own.spliced > 0 and peer.spliced > 0


def use(node: Any, letter: str, kind: FastPathUse) -> None:
    """Annotate a pod; undone when it is enrolled again."""
    place = node.places[letter]
    with PodTable(node.paths) as table:
        table.enrol(place.namespace.cookie(), PodEntry(place.addresses, fast_path=kind), place.namespace, place.uid)


@pytest.fixture(params=["tcp", "spliced"])
def wire(request: pytest.FixtureRequest, mesh: Any, maps: FastPathMaps) -> Iterator[Wire]:
    """Fast connections of both kinds."""
    if request.param == "tcp":
        use(mesh, "b", FastPathUse.DIRECT)
    with contextlib.closing(Wire(mesh, request.param == "spliced")) as made:
        yield made


@pytest.fixture
def direct(mesh: Any, maps: FastPathMaps) -> Iterator[Wire]:
    """Fast connections to a pod that asks for TCP."""
    use(mesh, "b", FastPathUse.DIRECT)
    with contextlib.closing(Wire(mesh, False)) as made:
        yield made


@pytest.fixture
def splice(mesh: Any, maps: FastPathMaps) -> Iterator[Wire]:
    """Fast connections that are spliced."""
    with contextlib.closing(Wire(mesh, True)) as made:
        yield made


@pytest.fixture(scope="session")
def fast() -> SimpleNamespace:
    """The helpers of this folder: test folders are no packages, so they cannot be imported."""
    return SimpleNamespace(
        enter_all=enter_all,
        serve=start,
        begin=begin,
        closed=closed,
        counted=counted,
        address=address,
        use=use,
        wire=Wire,
    )
