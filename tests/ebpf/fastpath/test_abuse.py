"""What gains nothing on the fast path: ends that are not what they say, floods, and ends that vanish."""

from __future__ import annotations

import errno
import os
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from ebpf.fastpath.tables import FastPathMaps
from ebpf.pods import FastPathUse, PodEntry, PodTable
from ebpf.programs_driver import detach_all, load_programs
from ebpf.reasons import Reason
from mesh.testing.conversations import dial, echo, exactly, serve

pytestmark = pytest.mark.root

PORT = 8080
B = "10.244.1.3"


def ask(host: str, port: int = PORT, bind: str | None = None) -> str:
    """One round trip; the error's name if it fails."""
    try:
        with socket.socket() as sock:
            sock.settimeout(5)
            if bind is not None:
                sock.bind((bind, 0))
            sock.connect((host, port))
            sock.sendall(b"x")
            return exactly(sock, 1).decode()
    except TimeoutError:
        return "ETIMEDOUT"
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def test_another_generation_voids_every_verdict_at_once(mesh: Any, maps: FastPathMaps, fast: Any) -> None:
    fast.serve(mesh.places["b"], echo)
    assert mesh.places["a"].run(ask, B) == "x"
    fast.closed(maps, 1)
    maps.set_generation(mesh.places["b"].namespace.cookie(), 8)
    before = fast.counted(mesh, Reason.OUTBOUND_CAPTURED)
    assert mesh.places["a"].run(ask, B) == "x"  # through ztunnel
    assert fast.counted(mesh, Reason.OUTBOUND_CAPTURED) == before + 1
    fast.closed(maps, 0)


def test_without_ztunnel_new_connections_are_refused_and_live_ones_go_on(
    mesh: Any, maps: FastPathMaps, fast: Any
) -> None:
    fast.serve(mesh.places["b"], echo)
    ready, tell = os.pipe()
    go, say_go = os.pipe()

    def client() -> str:
        with dial(B, PORT) as sock:
            sock.sendall(b"x")
            exactly(sock, 1)
            os.write(tell, b"r")
            os.read(go, 1)
            sock.sendall(b"y")
            return exactly(sock, 1).decode()

    actor = mesh.places["a"].start(client)
    os.read(ready, 1)
    mesh.stop_ztunnel()  # its listeners are gone with it; the heartbeat would hold for minutes
    assert mesh.places["a"].run(ask, B) == "ECONNREFUSED"
    os.write(say_go, b"g")
    assert actor.join() == "y"
    record = fast.closed(maps, 1)[0]
    assert (record.sent, record.received) == (2, 2)
    for descriptor in (ready, tell, go, say_go):
        os.close(descriptor)


def test_a_ztunnel_that_hangs_is_not_taken_for_alive(mesh: Any, maps: FastPathMaps, fast: Any) -> None:
    fast.serve(mesh.places["b"], echo)
    maps.stay_alive(0.05)
    time.sleep(0.1)
    before = fast.counted(mesh, Reason.OUTBOUND_CAPTURED)
    assert mesh.places["a"].run(ask, B) == "x"
    assert fast.counted(mesh, Reason.OUTBOUND_CAPTURED) == before + 1


@pytest.mark.parametrize("letter", ["a", "b"])
def test_either_pod_can_opt_out(mesh: Any, maps: FastPathMaps, fast: Any, letter: str) -> None:
    place = mesh.places[letter]
    with PodTable(mesh.paths) as table:
        entry = PodEntry(place.addresses, fast_path=FastPathUse.DISABLED)
        table.enrol(place.namespace.cookie(), entry, place.namespace, place.uid)
        assert table.enrolled()[place.uid].entry.fast_path is FastPathUse.DISABLED
    fast.serve(mesh.places["b"], echo)
    assert mesh.places["a"].run(ask, B) == "x"
    fast.closed(maps, 0)


def test_another_source_address_takes_the_slow_path(mesh: Any, maps: FastPathMaps, fast: Any) -> None:
    name = f"{mesh.name}-a"
    subprocess.run(["ip", "-n", name, "addr", "add", "10.244.1.99/32", "dev", "eth0"], check=True)
    try:
        fast.serve(mesh.places["b"], echo)
        before = fast.counted(mesh, Reason.FAST_SOURCE)
        mesh.places["a"].run(ask, B, PORT, "10.244.1.99")
        assert fast.counted(mesh, Reason.FAST_SOURCE) == before + 1
        fast.closed(maps, 0)
    finally:
        subprocess.run(["ip", "-n", name, "addr", "del", "10.244.1.99/32", "dev", "eth0"], check=True)


def test_a_replayed_4_tuple_meets_ztunnel(mesh: Any, maps: FastPathMaps, fast: Any) -> None:
    """Pod c takes a's address and, while a's connection lives, its very port. On a bridge that may well end a's
    connection; but c reaches ztunnel's plaintext listener at most, never the application, never the splice.
    """
    fast.serve(mesh.places["b"], echo)
    ready, tell = os.pipe()
    go, say_go = os.pipe()

    def client() -> str:
        with dial(B, PORT) as sock:
            os.write(tell, struct.pack("=H", sock.getsockname()[1]))
            os.read(go, 1)
            sock.sendall(b"y")
            return exactly(sock, 1).decode()

    actor = mesh.places["a"].start(client)
    port = struct.unpack("=H", os.read(ready, 2))[0]
    name = f"{mesh.name}-c"

    def tickets_used() -> int:
        """But for ztunnel's own, with which it passes on the plaintext that policy admits."""
        return int(fast.counted(mesh, Reason.INBOUND_TICKET) - fast.counted(mesh, Reason.TICKET_DELIVERY))

    def replay() -> str:
        with socket.socket() as sock:
            sock.settimeout(1)
            sock.bind(("10.244.1.2", port))
            try:
                sock.connect((B, PORT))
            except OSError as error:
                return errno.errorcode.get(error.errno or 0, "timed out")
            return sock.recv(100).decode()

    subprocess.run(["ip", "-n", name, "addr", "add", "10.244.1.2/32", "dev", "lo"], check=True)
    try:
        before = tickets_used(), fast.counted(mesh, Reason.FAST_SPLICED)
        assert mesh.places["c"].run(replay) in ("plaintext\n", "ECONNRESET", "timed out")
        assert (tickets_used(), fast.counted(mesh, Reason.FAST_SPLICED)) == before
    finally:
        subprocess.run(["ip", "-n", name, "addr", "del", "10.244.1.2/32", "dev", "lo"], check=True)
        for letter in "ab":  # b may have learnt that a's address is c's
            subprocess.run(["ip", "-n", f"{mesh.name}-{letter}", "neigh", "flush", "dev", "eth0"], check=True)
    actor.close()
    fast.closed(maps, 1)
    for descriptor in (ready, tell, go, say_go):
        os.close(descriptor)


def test_a_pod_that_is_deleted_mid_flow_leaves_nothing(mesh: Any, maps: FastPathMaps, fast: Any) -> None:
    server = fast.serve(mesh.places["b"], echo)
    ready, tell = os.pipe()

    def client() -> str:
        with dial(B, PORT) as sock:
            sock.settimeout(0.2)
            try:
                while True:
                    sock.sendall(b"x" * 10_000)
                    exactly(sock, 10_000)
                    os.write(tell, b"r")
            except OSError as error:
                return type(error).__name__

    actor = mesh.places["a"].start(client)
    os.read(ready, 1)
    server.close()
    mesh.unenrol("b")
    assert actor.join() in ("ConnectionResetError", "BrokenPipeError", "TimeoutError")
    deadline = time.monotonic() + 5
    while maps.live() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert maps.live() == []
    assert len(fast.closed(maps, 1)) == 1
    os.close(ready)
    os.close(tell)


@pytest.fixture
def cramped(node: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The node with room for 16 in one of its maps."""
    detach_all(node.paths)
    load_programs(replace(node.settings, map_sizes=replace(node.settings.map_sizes, **{request.param: 16})))
    yield node
    detach_all(node.paths)
    node.load()


@pytest.mark.parametrize("cramped", ["fast_connections", "fast_sockets", "fast_closed"], indirect=True)
def test_a_flood_that_fills_the_tables(cramped: Any, mesh: Any, maps: FastPathMaps, fast: Any, request: Any) -> None:
    """A connection that finds no room takes the slow path, or stays on TCP, or leaves no record, which is counted; none
    fails, none is admitted that has no verdict, and nothing is left in the tables.
    """
    full = request.node.callspec.params["cramped"]

    def client() -> int:
        socks = [dial(B, PORT) for _ in range(100)]
        answered = 0
        for _ in range(100):
            for sock in socks:
                sock.sendall(b"x")
                answered += exactly(sock, 1) == b"x"
        for sock in socks:
            sock.close()
        return answered

    def unadmitted() -> int:
        """None of these has a verdict: ztunnel takes them, and finds that nobody listens."""
        return sum(ask(B, PORT + 1) == "x" for _ in range(50))

    fast.serve(mesh.places["b"], echo)
    counts = (Reason.FAST_DIALLED, Reason.OUTBOUND_CAPTURED, Reason.FAST_NO_ROOM, Reason.FAST_UNRECORDED)
    before = [fast.counted(mesh, reason) for reason in counts]
    assert mesh.places["a"].run(client) == 100 * 100
    deadline = time.monotonic() + 10
    while maps.live():
        assert time.monotonic() < deadline, "never concluded"
        time.sleep(0.05)
    dialled, captured, no_room, unrecorded = (
        fast.counted(mesh, reason) - earlier for reason, earlier in zip(counts, before, strict=True)
    )
    assert dialled + captured == 100
    if full == "fast_connections":
        assert 8 <= dialled <= 17
        assert no_room >= captured
    else:
        assert dialled == 100
    if full == "fast_sockets":
        assert no_room > 0
    recorded = fast.closed(maps, dialled - unrecorded)
    assert (unrecorded > 0) == (full == "fast_closed")
    assert all(record.sent == 100 for record in recorded if full != "fast_sockets")
    before = [fast.counted(mesh, reason) for reason in counts]
    assert mesh.places["a"].run(unadmitted) == 0
    assert fast.counted(mesh, Reason.FAST_DIALLED) == before[0]


def forged_syns(source: str, ports: range) -> int:
    """SYNs with somebody else's source, from a raw socket; how many were sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        for port in ports:
            addresses = socket.inet_aton(source) + socket.inet_aton(B)
            segment = struct.pack("!HHIIBBHHH", port, PORT, 1, 0, 5 << 4, 2, 65535, 0, 0)
            check = checksum(addresses + struct.pack("!BBH", 0, socket.IPPROTO_TCP, len(segment)) + segment)
            segment = segment[:16] + struct.pack("!H", check) + segment[18:]
            head = struct.pack("!BBHHHBBH", 0x45, 0, 40, 0, 0, 64, socket.IPPROTO_TCP, 0) + addresses
            raw.sendto(head + segment, (B, 0))
    return len(ports)


def checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


@pytest.mark.parametrize("forger", ["a", "c"])
def test_forged_sources_meet_ztunnel_while_others_flow(splice: Any, maps: FastPathMaps, fast: Any, forger: str) -> None:
    """Raw SYNs with a's address, by a itself past its own connect, or by c, while a dials and is spliced: each comes to
    ztunnel's gate at most, and a's connections are unharmed.
    """
    node = splice.node
    ports = range(20_000, 20_500)  # below those that a dials from
    spliced = fast.counted(node, Reason.FAST_SPLICED)

    def client(sock: socket.socket) -> int:
        for number in range(2000):
            sock.sendall(b"%04d" % number)
            assert exactly(sock, 4) == b"%04d" % number
        return 2000

    splice.serve(echo)
    counts = (Reason.INBOUND_TICKET, Reason.TICKET_DELIVERY, Reason.INBOUND_PLAINTEXT, Reason.FAST_FOREIGN_END)
    before = [fast.counted(node, reason) for reason in counts]
    actor = splice.start(client)
    assert node.places[forger].run(forged_syns, "10.244.1.2", ports) == len(ports)
    assert actor.join() == 2000
    tickets, deliveries, plaintext, foreign = (
        fast.counted(node, reason) - earlier for reason, earlier in zip(counts, before, strict=True)
    )
    assert plaintext >= len(ports)
    assert tickets - deliveries == 1  # the one that a's own connection had
    assert foreign == 0
    assert fast.counted(node, Reason.FAST_SPLICED) == spliced + 1
    assert len(fast.closed(maps, 1)) == 1


@pytest.mark.parametrize("weights", [(1, 1), (3, 1), (1, 7)])
def test_a_service_is_dialled_by_weight(mesh: Any, maps: FastPathMaps, fast: Any, weights: tuple[int, int]) -> None:
    """Of two ports of b; each connection is answered by the one that its record names."""
    a, b = mesh.places["a"], mesh.places["b"]
    endpoints = [fast.address(B, PORT), fast.address(b.ipv4, PORT + 1)]
    maps.admit(a.namespace.cookie(), endpoints[1], b.namespace.cookie(), 7)
    slots = [endpoint for endpoint, weight in zip(endpoints, weights, strict=True) for _ in range(weight)]
    vip = fast.address("10.96.0.10", 80)
    assert maps.set_service(a.namespace.cookie(), vip, slots)
    for number in (0, 1):
        fast.begin(b, serve, PORT + number, lambda sock, number=number: sock.sendall(b"%d" % number))
    count = 2000

    def client() -> list[int]:
        drawn = [0, 0]
        for _ in range(count):
            with dial("10.96.0.10", 80) as sock:
                drawn[int(sock.recv(1))] += 1
        return drawn

    drawn = a.run(client)
    share = weights[0] / sum(weights)
    assert abs(drawn[0] - count * share) < 6 * (count * share * (1 - share)) ** 0.5
    records = fast.closed(maps, count)
    assert [sum(record.destination == endpoint for record in records) for endpoint in endpoints] == drawn
    assert {record.dialled for record in records} == {vip}
