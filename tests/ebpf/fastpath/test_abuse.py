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
from ebpf.settings import MapSizes
from mesh.testing.conversations import dial, echo, exactly

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
def cramped(node: Any) -> Iterator[Any]:
    """The node with room for 16 fast connections."""
    sizes = MapSizes(**{**vars_of(node.settings.map_sizes), "fast_connections": 16})
    detach_all(node.paths)
    load_programs(settings_with(node.settings, sizes))
    yield node
    detach_all(node.paths)
    node.load()


def vars_of(sizes: MapSizes) -> dict[str, int]:
    return {name: getattr(sizes, name) for name in MapSizes.__dataclass_fields__}


def settings_with(settings: Any, sizes: MapSizes) -> Any:
    return replace(settings, map_sizes=sizes)


def test_a_flood_that_fills_the_tables_takes_the_slow_path(
    cramped: Any, mesh: Any, maps: FastPathMaps, fast: Any
) -> None:
    fast.serve(mesh.places["b"], echo)

    def client() -> int:
        socks = [dial(B, PORT) for _ in range(100)]
        answered = 0
        for sock in socks:
            sock.sendall(b"x")
            answered += exactly(sock, 1) == b"x"
        for sock in socks:
            sock.close()
        return answered

    before = fast.counted(mesh, Reason.FAST_DIALLED), fast.counted(mesh, Reason.OUTBOUND_CAPTURED)
    assert mesh.places["a"].run(client) == 100
    dialled = fast.counted(mesh, Reason.FAST_DIALLED) - before[0]
    captured = fast.counted(mesh, Reason.OUTBOUND_CAPTURED) - before[1]
    assert dialled + captured == 100
    assert 8 <= dialled <= 17
    assert fast.counted(mesh, Reason.FAST_NO_ROOM) >= 100 - dialled
    fast.closed(maps, dialled)
