"""Legs between an application and its ztunnel inside a pod: entered in the splice while both talk, and what is not."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import signal
import socket
import struct
import time
from typing import Any

import pytest

from ebpf.fastpath.entry import EntryOutcome, SpliceEntry
from ebpf.fastpath.tables import FastPathMaps
from ebpf.layout import TALKATIVE_SEGMENTS, FastFlow
from ebpf.listeners import socket_cookie
from ebpf.maps import PinnedMap
from ebpf.pods import FastPathUse, PodEntry, PodTable
from ebpf.reasons import Reason
from mesh.testing.conversations import dial, digest_of, echo, exactly, report, say

pytestmark = pytest.mark.root

PORT = 8080
B = "10.244.1.3"
SECONDS = 10.0


def spliced(node: Any) -> int:
    """How many directions of legs have gone past TCP and are alive."""
    with PinnedMap(node.paths, "fast_flows", ctypes.c_uint64, FastFlow) as flows:
        return sum(flow.spliced > 0 for _, flow in flows.items())


def left(node: Any) -> int:
    """Sockets that are entered, and flows."""
    with (
        PinnedMap(node.paths, "fast_sockets", ctypes.c_uint64, ctypes.c_uint64) as sockets,
        PinnedMap(node.paths, "fast_flows", ctypes.c_uint64, FastFlow) as flows,
    ):
        return sockets.count() + flows.count()


def nothing_left(node: Any) -> bool:
    deadline = time.monotonic() + SECONDS
    while left(node) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left(node) == 0


@pytest.fixture
def slow(maps: FastPathMaps) -> FastPathMaps:
    """No verdict holds: what pod a dials goes through ztunnel, over one leg in a and one in b."""
    maps.clear()
    return maps


def answering(sock: socket.socket) -> None:
    """The server's side of ``talk``: until another byte comes."""
    while exactly(sock, 1) == b"t":
        sock.sendall(b"t")


def talk(node: Any, sock: socket.socket, directions: int) -> int:
    """Says a byte and is answered until so many directions are spliced; how often."""
    deadline, number = time.monotonic() + SECONDS, 0
    while spliced(node) < directions or number < 2 * TALKATIVE_SEGMENTS:
        assert time.monotonic() < deadline, f"{spliced(node)} directions are spliced"
        sock.sendall(b"t")
        assert exactly(sock, 1) == b"t"
        number += 1
    sock.sendall(b".")
    return number


@pytest.mark.parametrize("host", [B, "fd00:10:244:1::3", "::ffff:10.244.1.3"])
def test_order_half_close_and_names(mesh: Any, slow: FastPathMaps, fast: Any, host: str) -> None:
    def server(sock: socket.socket) -> None:
        answering(sock)
        report(sock, *digest_of(sock))

    def client() -> tuple[str, int]:
        with dial(host, PORT) as sock:
            talk(mesh, sock, 4)
            digest = say(sock, 60_000_000, 1)
            name: tuple[str, int] = sock.getpeername()[:2]
            sock.shutdown(socket.SHUT_WR)
            assert exactly(sock, 72) == struct.pack("=Q", 60_000_000) + digest
            assert sock.recv(1) == b""
            return name

    fast.serve(mesh.places["b"], server)
    before = fast.counted(mesh, Reason.FAST_LEG_SPLICED)
    assert mesh.places["a"].run(client) == (host, PORT)
    assert fast.counted(mesh, Reason.FAST_LEG_SPLICED) == before + 2
    assert nothing_left(mesh)
    fast.closed(slow, 0)  # ztunnel has its own records of these


@pytest.mark.parametrize("waits", ["client", "server"])
def test_only_with_applications_that_do_not_wait(mesh: Any, slow: FastPathMaps, fast: Any, waits: str) -> None:
    def server(sock: socket.socket) -> None:
        if waits == "server":
            sock.settimeout(None)
        answering(sock)
        assert sock.recv(1) == b""

    def client() -> None:
        with dial(B, PORT) as sock:
            if waits == "client":
                sock.settimeout(None)
            talk(mesh, sock, 2)
            with PinnedMap(mesh.paths, "fast_sockets", ctypes.c_uint64, ctypes.c_uint64) as sockets:
                assert sockets.count() == 2

    fast.serve(mesh.places["b"], server)
    before = fast.counted(mesh, Reason.FAST_LEG_SPLICED), fast.counted(mesh, Reason.FAST_NOT_SPLICED)
    mesh.places["a"].run(client)
    after = fast.counted(mesh, Reason.FAST_LEG_SPLICED), fast.counted(mesh, Reason.FAST_NOT_SPLICED)
    assert after[0] - before[0] == 1
    if waits == "client":  # it is asked where it dials; a server is, where ztunnel's end has been named
        assert after[1] - before[1] == 1


def own_flow(node: Any, sock: socket.socket) -> tuple[int, int] | None:
    """Bytes that a socket has spliced and given to TCP."""
    with PinnedMap(node.paths, "fast_flows", ctypes.c_uint64, FastFlow) as flows:
        flow = flows.get(ctypes.c_uint64(socket_cookie(sock.fileno())))
        return None if flow is None else (flow.spliced, flow.tcp)


def test_bulk_is_left_to_tcp(mesh: Any, slow: FastPathMaps, fast: Any) -> None:
    """A leg that begins with it is not entered; of one that was, the direction that carries it goes by TCP for good."""
    total = 20_000_000

    def server(sock: socket.socket) -> None:
        first = exactly(sock, 1)
        if first == b"t":
            sock.sendall(b"t")
            answering(sock)
        exactly(sock, total)
        sock.sendall(b"a")
        answering(sock)

    def client() -> None:
        with dial(B, PORT) as sock:
            sock.sendall(b"b" + bytes(total))
            assert exactly(sock, 1) == b"a"
            assert own_flow(mesh, sock) is None
        with dial(B, PORT) as sock:
            talk(mesh, sock, 4)
            time.sleep(0.1)  # what was said is read: bulk never goes by TCP behind the splice's rest
            before = own_flow(mesh, sock)
            assert before is not None
            sock.sendall(bytes(total))
            assert exactly(sock, 1) == b"a"
            after = own_flow(mesh, sock)
            assert after is not None
            # What a full buffer leaves of a message may be small; the last message is counted with the next.
            assert after[1] - before[1] > 0.9 * total
            assert after[0] - before[0] < 0.1 * total
            talk(mesh, sock, 4)
            again = own_flow(mesh, sock)
            assert again is not None
            assert (again[0] == after[0], again[1] > after[1]) == (True, True)

    fast.serve(mesh.places["b"], server)
    mesh.places["a"].run(client)


@pytest.mark.parametrize("kind", [FastPathUse.DIRECT, FastPathUse.DISABLED])
def test_a_pod_that_wants_tcp_has_it(mesh: Any, slow: FastPathMaps, fast: Any, kind: FastPathUse) -> None:
    def client() -> None:
        with dial(B, PORT) as sock:
            talk(mesh, sock, 0)
            time.sleep(0.1)
            assert left(mesh) == 0

    for letter in "ab":
        place = mesh.places[letter]
        with PodTable(mesh.paths) as table:
            entry = PodEntry(place.addresses, fast_path=kind)
            table.enrol(place.namespace.cookie(), entry, place.namespace, place.uid)
    fast.serve(mesh.places["b"], answering)
    mesh.places["a"].run(client)


def test_a_reader_that_does_not_read_costs_bounded_memory(mesh: Any, slow: FastPathMaps, fast: Any) -> None:
    def lazy(sock: socket.socket) -> None:
        answering(sock)
        time.sleep(1.5)
        report(sock, *digest_of(sock))

    def client() -> int:
        with dial(B, PORT) as sock:
            talk(mesh, sock, 4)
            sock.setblocking(False)
            data, digest, accepted = os.urandom(10_000), hashlib.blake2b(), 0
            deadline = time.monotonic() + 1
            while time.monotonic() < deadline and accepted < 500_000_000:
                try:
                    size = sock.send(data)
                except BlockingIOError:
                    time.sleep(0.01)
                    continue
                accepted += size
                digest.update(data[:size])
            sock.settimeout(30)
            sock.shutdown(socket.SHUT_WR)
            assert exactly(sock, 72) == struct.pack("=Q", accepted) + digest.digest()
            return accepted

    fast.serve(mesh.places["b"], lazy)
    before = fast.counted(mesh, Reason.FAST_FELL_BACK)
    assert mesh.places["a"].run(client) < 128 << 20  # several queues are in a row
    assert fast.counted(mesh, Reason.FAST_FELL_BACK) > before


def test_a_killed_ztunnel_ends_its_legs(mesh: Any, slow: FastPathMaps, fast: Any) -> None:
    def client(tell: int) -> bytes:
        with dial(B, PORT) as sock:
            talk(mesh, sock, 4)
            os.write(tell, b"r")
            try:
                return sock.recv(1)
            except ConnectionResetError:
                return b""

    def server(sock: socket.socket) -> None:
        answering(sock)
        with contextlib.suppress(ConnectionResetError):
            assert sock.recv(1) == b""
        os.write(writing, b"e")

    reading, writing = os.pipe()
    fast.serve(mesh.places["b"], server)
    ready, tell = os.pipe()
    actor = mesh.places["a"].start(client, tell)
    os.close(tell)
    assert os.read(ready, 1) == b"r"
    os.kill(mesh.ztunnel.pid, signal.SIGKILL)
    assert actor.join() == b""
    assert os.read(reading, 1) == b"e"
    assert nothing_left(mesh)
    for descriptor in (ready, reading, writing):
        os.close(descriptor)


def test_a_reset_is_a_reset(mesh: Any, slow: FastPathMaps, fast: Any) -> None:
    """The small ztunnel of these tests does not pass resets on; its own end of the leg shows that one arrives."""

    def reset(sock: socket.socket) -> None:
        answering(sock)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def client() -> str:
        with dial(B, PORT) as sock:
            talk(mesh, sock, 4)
            try:
                return "end" if sock.recv(1) == b"" else "data"
            except OSError as error:
                return errno.errorcode[error.errno or 0]

    fast.serve(mesh.places["b"], reset)
    assert mesh.places["a"].run(client) in ("end", "ECONNRESET")
    assert nothing_left(mesh)


def test_who_is_no_leg_is_not_entered(mesh: Any, told: FastPathMaps, fast: Any) -> None:
    """A pod's own connection to itself; and a leg, asked for from elsewhere, the other way round, and twice."""

    def own() -> EntryOutcome:
        with (
            SpliceEntry(mesh.paths) as entry,
            socket.create_server(("127.0.0.1", 0)) as listener,
            socket.create_connection(listener.getsockname(), 5) as sock,
        ):
            accepted, _ = listener.accept()
            with accepted:
                for each in (sock, accepted):
                    each.setblocking(False)
                here, there = (fast.address(*name) for name in (sock.getsockname(), sock.getpeername()))
                return entry.enter_leg(here, there)

    def leg() -> dict[str, EntryOutcome]:
        with dial(B, PORT) as sock, SpliceEntry(mesh.paths) as entry:
            talk(mesh, sock, 0)  # named by the programs, but nobody listens
            here, there = fast.address(*sock.getsockname()), fast.address("127.0.0.1", 15001)
            found = {"other way": entry.enter_leg(there, here)}
            for letter in "bc":
                with mesh.places[letter].namespace.entered():
                    elsewhere = entry.enter_leg(here, there)  # a listener of that namespace may have that address
                    assert elsewhere in (EntryOutcome.GONE, EntryOutcome.UNKNOWN)
            found["itself"] = entry.enter_leg(here, there)
            found["again"] = entry.enter_leg(here, there)
            sock.sendall(b"x")
            assert exactly(sock, 1) == b"x"
        return found

    def server(sock: socket.socket) -> None:
        answering(sock)
        echo(sock)

    told.clear()
    assert mesh.places["a"].run(own) is EntryOutcome.UNKNOWN
    fast.serve(mesh.places["b"], server)
    assert mesh.places["a"].run(leg) == {
        "other way": EntryOutcome.UNKNOWN,
        "itself": EntryOutcome.DONE,
        "again": EntryOutcome.UNKNOWN,
    }
    assert nothing_left(mesh)
