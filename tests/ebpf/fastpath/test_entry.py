"""Connections entered in the splice while they are in use, and requests to enter what must not be."""

from __future__ import annotations

import ctypes
import hashlib
import os
import random
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ebpf import syscall
from ebpf.fastpath.entry import EntryOutcome, SpliceEntry
from ebpf.fastpath.tables import FastPathConnection, FastPathMaps
from ebpf.layout import FLOW_SPLICED, TALKATIVE_SEGMENTS, FastFlow
from ebpf.listeners import socket_cookie
from ebpf.maps import PinnedMap
from ebpf.pods import FastPathUse, PodEntry, PodTable
from ebpf.reasons import Reason
from mesh.addresses import SocketAddress, parse_ip
from mesh.errors import MeshError
from mesh.testing.actors import Actor
from mesh.testing.conversations import dial, echo, exactly
from ztunnel.fastpath.splicer import Splicer

pytestmark = pytest.mark.root

PORT = 8080
B = "10.244.1.3"


def entered(node: Any) -> int:
    """How many sockets are in the sockhash."""
    with PinnedMap(node.paths, "fast_sockets", ctypes.c_uint64, ctypes.c_uint64) as sockets:
        return sockets.count()


def ways(node: Any, cookie: int) -> tuple[FastFlow, FastFlow]:
    """What the socket of this cookie sends, and what the other end does."""
    with PinnedMap(node.paths, "fast_flows", ctypes.c_uint64, FastFlow) as flows:
        flow = flows.get(ctypes.c_uint64(cookie)) or FastFlow()
        return flow, flows.get(ctypes.c_uint64(flow.peer_cookie)) or FastFlow()


def talk(sock: socket.socket, exchanges: int = TALKATIVE_SEGMENTS) -> None:
    """Enough for the connection to be worth it."""
    for _ in range(exchanges):
        sock.sendall(b"t")
        assert exactly(sock, 1) == b"t"


# -- while it is in use ------------------------------------------------------------------------------------------------


def speak(sock: socket.socket, seed: int, seconds: float, told: list[tuple[int, bytes]]) -> None:
    """Says random bytes in pieces of all sizes, with pauses as interactive programs make."""
    source, digest, size = random.Random(seed), hashlib.blake2b(), 0
    pool, deadline = os.urandom(1 << 20), time.monotonic() + seconds
    while time.monotonic() < deadline:
        piece = pool[: source.choice((1, 10, 100, 1500, 20_000, 300_000))]
        piece = piece[source.randrange(len(piece)) :]
        sock.sendall(piece)
        digest.update(piece)
        size += len(piece)
        if source.random() < 0.1:
            time.sleep(0.001)
    told.append((size, digest.digest()))
    sock.shutdown(socket.SHUT_WR)


def converse(sock: socket.socket, seed: int) -> tuple[bytes, bytes]:
    """Both ways at once, to the end; what it said and what it heard."""
    told: list[tuple[int, bytes]] = []
    speaker = threading.Thread(target=speak, args=(sock, seed, 0.5, told))
    speaker.start()
    heard, size = hashlib.blake2b(), 0
    while data := sock.recv(1 << 16):
        heard.update(data)
        size += len(data)
    speaker.join()
    return struct.pack("=Q", told[0][0]) + told[0][1], struct.pack("=Q", size) + heard.digest()


def test_order_and_integrity_of_connections_entered_under_traffic(mesh: Any, maps: FastPathMaps, fast: Any) -> None:
    """Both ends talk at once when they are entered, at whatever moment that hits; forty times."""
    count = 40
    reading, writing = os.pipe()

    def server(sock: socket.socket) -> None:
        said, heard = converse(sock, 1)
        os.write(writing, said + heard)

    def client() -> list[tuple[bytes, bytes]]:
        found = []
        for number in range(count):
            with dial(B, PORT) as sock:
                found.append(converse(sock, number))
        return found

    fast.serve(mesh.places["b"], server)
    before = fast.counted(mesh, Reason.FAST_SPLICED)
    ours = mesh.places["a"].run(client)
    theirs = [os.read(reading, 144) for _ in range(count)]
    for (said, heard), other in zip(ours, theirs, strict=True):
        assert (said, heard) == (other[72:], other[:72])
    assert fast.counted(mesh, Reason.FAST_SPLICED) == before + count
    records = fast.closed(maps, count)
    assert sum(record.sent + record.received for record in records) == sum(
        struct.unpack_from("=Q", part)[0] for said in ours for part in said
    )
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize("host", [B, "fd00:10:244:1::3", "::ffff:10.244.1.3"])
def test_both_directions_go_past_tcp_soon_after(mesh: Any, maps: FastPathMaps, fast: Any, host: str) -> None:
    def client() -> tuple[int, int, int, int]:
        with dial(host, PORT) as sock:
            cookie, deadline = socket_cookie(sock.fileno()), time.monotonic() + 10
            flow, other = ways(mesh, cookie)
            while not flow.mode == other.mode == FLOW_SPLICED and time.monotonic() < deadline:
                talk(sock, 10)
                flow, other = ways(mesh, cookie)
            talk(sock, 10)
            flow_later, other_later = ways(mesh, cookie)
            return (
                *(flow_later.tcp - flow.tcp, other_later.tcp - other.tcp),
                *(flow_later.spliced - flow.spliced, other_later.spliced - other.spliced),
            )

    fast.serve(mesh.places["b"], echo)
    assert mesh.places["a"].run(client) == (0, 0, 10, 10)
    fast.closed(maps)


def test_a_reader_that_waits_since_before_the_entry_is_not_forgotten(
    mesh: Any, maps: FastPathMaps, fast: Any
) -> None:
    """A pod asked for the splice although it waits: its call knows only of TCP, so one more message goes there."""

    def waiting(sock: socket.socket) -> None:
        sock.settimeout(None)
        while data := sock.recv(100):
            sock.send(data)

    for letter in "ab":
        place = mesh.places[letter]
        with PodTable(mesh.paths) as table:
            entry = PodEntry(place.addresses, fast_path=FastPathUse.SPLICED)
            table.enrol(place.namespace.cookie(), entry, place.namespace, place.uid)

    def client() -> None:
        with dial(B, PORT) as sock:
            talk(sock)
            time.sleep(0.2)  # the server waits in recv, and both ends are entered meanwhile
            talk(sock, 1000)

    fast.serve(mesh.places["b"], waiting)
    before = fast.counted(mesh, Reason.FAST_SPLICED)
    mesh.places["a"].run(client)
    assert fast.counted(mesh, Reason.FAST_SPLICED) == before + 1
    assert fast.closed(maps)[0].sent == 1000 + TALKATIVE_SEGMENTS


# -- what is refused ---------------------------------------------------------------------------------------------------


class Named:
    """A connection that the programs have named, and that nobody has entered yet."""

    def __init__(self, node: Any, told: FastPathMaps, then: Callable[[socket.socket], object] | None = None) -> None:
        self.node = node
        self.then = then
        """What the client does with its socket once the connection is named."""
        self.told = told
        self.go, self._say_go = os.pipe()
        ready, tell = os.pipe()
        self.actor = node.places["a"].start(self.client, tell)
        assert os.read(ready, 1) == b"r"
        os.close(ready)
        os.close(tell)
        (talker,) = told.talkers.take()
        self.cookie = talker.client
        found = told.find(self.cookie)
        assert found is not None
        self.connection: FastPathConnection = found

    def client(self, tell: int) -> str:
        with dial(B, PORT) as sock:
            talk(sock)
            kept = self.then(sock) if self.then else None
            os.write(tell, b"r")
            os.read(self.go, 1)
            talk(sock)
            del kept
        return "well"

    def end(self) -> str:
        os.write(self._say_go, b"g")
        os.close(self._say_go)
        result: str = self.actor.join()
        os.close(self.go)
        return result


@pytest.fixture
def named(mesh: Any, told: FastPathMaps, fast: Any) -> Iterator[Named]:
    fast.serve(mesh.places["b"], echo)
    made = Named(mesh, told)
    yield made
    assert made.end() == "well"  # whatever was tried, the connection works
    fast.closed(told)


def attempt(node: Any, letter: str, cookie: int, local: SocketAddress, remote: SocketAddress) -> EntryOutcome:
    with SpliceEntry(node.paths) as entry, node.places[letter].namespace.entered():
        return entry.enter(cookie, local, remote)


def test_only_from_inside_its_own_namespace(mesh: Any, named: Named) -> None:
    connection = named.connection
    ends = connection.source, connection.destination
    elsewhere = EntryOutcome.GONE, EntryOutcome.UNKNOWN  # a listener of that namespace may have those addresses
    for letter in "bc":
        assert attempt(mesh, letter, named.cookie, *ends) in elsewhere
    with SpliceEntry(mesh.paths) as entry:
        assert entry.enter(named.cookie, *ends) in elsewhere
    assert entered(mesh) == 0
    assert attempt(mesh, "a", named.cookie, *ends) is EntryOutcome.DONE
    assert attempt(mesh, "a", named.cookie, *ends) is EntryOutcome.UNKNOWN  # it is there already
    assert attempt(mesh, "a", connection.server_cookie, *ends[::-1]) in elsewhere
    assert attempt(mesh, "b", connection.server_cookie, *ends[::-1]) is EntryOutcome.DONE
    assert entered(mesh) == 2


def test_a_cookie_does_not_stand_for_another_socket(mesh: Any, named: Named) -> None:
    connection = named.connection
    ends = connection.source, connection.destination
    for cookie in (0, connection.server_cookie, named.cookie + 1000):
        assert attempt(mesh, "a", cookie, *ends) is EntryOutcome.UNKNOWN
    assert entered(mesh) == 0


def test_a_socket_that_the_programs_do_not_know(mesh: Any, named: Named, fast: Any) -> None:
    """A pod's own connection to itself, in the right namespace, with its true cookie."""

    def own() -> EntryOutcome:
        with (
            SpliceEntry(mesh.paths) as entry,
            socket.create_server(("127.0.0.1", 0)) as listener,
            socket.create_connection(listener.getsockname(), 5) as sock,
        ):
            sock.setblocking(False)
            here, there = (fast.address(*name) for name in (sock.getsockname(), sock.getpeername()))
            return entry.enter(socket_cookie(sock.fileno()), here, there)

    assert mesh.places["a"].run(own) is EntryOutcome.UNKNOWN
    assert entered(mesh) == 0


def test_a_pod_that_has_changed_its_mind(mesh: Any, named: Named) -> None:
    place = mesh.places["a"]
    with PodTable(mesh.paths) as table:
        entry = PodEntry(place.addresses, fast_path=FastPathUse.DIRECT)
        table.enrol(place.namespace.cookie(), entry, place.namespace, place.uid)
    ends = named.connection.source, named.connection.destination
    assert attempt(mesh, "a", named.cookie, *ends) is EntryOutcome.UNFIT
    assert entered(mesh) == 0


def test_a_socket_that_is_watched_for_edges_meanwhile(mesh: Any, told: FastPathMaps, fast: Any) -> None:
    def watched(sock: socket.socket) -> select.epoll:
        epoll = select.epoll()
        epoll.register(sock.fileno(), select.EPOLLIN | select.EPOLLET)
        return epoll

    fast.serve(mesh.places["b"], echo)
    named = Named(mesh, told, watched)
    ends = named.connection.source, named.connection.destination
    assert attempt(mesh, "a", named.cookie, *ends) is EntryOutcome.UNFIT
    assert entered(mesh) == 0
    assert named.end() == "well"
    fast.closed(told)


def test_a_malformed_request(mesh: Any) -> None:
    program = syscall.require_pin(mesh.paths.programs / "mesh_enter")
    data = ctypes.create_string_buffer(20)
    arguments = ctypes.create_string_buffer(struct.pack("=IIIIQQ", program, 0, 20, 0, ctypes.addressof(data), 0), 80)
    assert syscall.call(syscall.PROGRAM_TEST_RUN, arguments) == 0
    assert struct.unpack_from("=I", arguments.raw, 4)[0] == EntryOutcome.MALFORMED
    os.close(program)


# -- ends that vanish, and no room -------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["both", "server"])
def test_a_socket_that_is_closed_meanwhile(mesh: Any, told: FastPathMaps, fast: Any, first: str) -> None:
    """The programs have named the connection; when ztunnel gets to it, an end is closing or gone."""
    ended, end = os.pipe()

    def server(sock: socket.socket) -> None:
        for _ in range(TALKATIVE_SEGMENTS):
            sock.sendall(exactly(sock, 1))

    def client(tell: int) -> bytes:
        with dial(B, PORT) as sock:
            talk(sock)
            rest = sock.recv(1)  # the server has closed
            if first == "both":
                sock.close()
            os.write(tell, b"r")
            os.read(ended, 1)
            return rest

    fast.serve(mesh.places["b"], server)
    ready, tell = os.pipe()
    actor = mesh.places["a"].start(client, tell)
    os.read(ready, 1)
    (talker,) = told.talkers.take()
    splicer = Splicer(told, {place.namespace.cookie(): place for place in mesh.places.values()}.get)
    before = fast.counted(mesh, Reason.FAST_SPLICED)
    assert not splicer.enter(talker)
    assert not splicer.enter(talker)
    assert (entered(mesh), fast.counted(mesh, Reason.FAST_SPLICED)) == (0, before)
    os.write(end, b"e")
    assert actor.join() == b""
    fast.closed(told)
    for descriptor in (ready, tell, ended, end):
        os.close(descriptor)


def test_connections_that_find_the_ring_full_ask_again(mesh: Any, told: FastPathMaps, fast: Any) -> None:
    """More become talkative together than the ring holds; once somebody reads it, all are spliced."""
    room, count = 4096 // 64 - 1, 100  # a ring is never quite full
    reading, writing = os.pipe()
    go, say_go = os.pipe()

    def client() -> int:
        socks = [dial(B, PORT) for _ in range(count)]
        for sock in socks:
            talk(sock)
        os.write(writing, b"r")
        os.read(go, 1)
        deadline = time.monotonic() + 20
        while fast.counted(mesh, Reason.FAST_SPLICED) < before + count and time.monotonic() < deadline:
            for sock in socks:
                talk(sock, 10)
        for sock in socks:
            sock.close()
        return int(fast.counted(mesh, Reason.FAST_SPLICED) - before)

    fast.serve(mesh.places["b"], echo)
    before, refused = fast.counted(mesh, Reason.FAST_SPLICED), fast.counted(mesh, Reason.FAST_NO_ROOM)
    actor = mesh.places["a"].start(client)
    assert os.read(reading, 1) == b"r"
    assert fast.counted(mesh, Reason.FAST_NO_ROOM) == refused + count - room  # once for each
    with Actor(mesh.cgroup / "ztunnel", None, fast.enter_all, told, mesh.places):
        os.write(say_go, b"g")
        assert actor.join() == count
    assert fast.counted(mesh, Reason.FAST_NO_ROOM) == refused + count - room
    fast.closed(told, count)
    for descriptor in (reading, writing, go, say_go):
        os.close(descriptor)


def test_a_closed_program_and_ring_are_no_other_file(mesh: Any) -> None:
    entry = SpliceEntry(mesh.paths)
    entry.close()
    entry.close()
    nobody = SocketAddress(parse_ip("::"), 0)
    with pytest.raises(MeshError):
        entry.enter(1, nobody, nobody)
