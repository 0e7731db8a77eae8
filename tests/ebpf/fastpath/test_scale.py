"""Many connections and slow readers: everything answered, everything recorded, memory bounded.

Sizes follow AMBIMESH_TEST_SCALE.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import socket
import struct
import time
from pathlib import Path
from typing import Any

import pytest

from ebpf.fastpath.flows import FlowTable
from ebpf.fastpath.tables import QUEUE_LIMIT, FastPathMaps
from ebpf.listeners import socket_cookie
from ebpf.reasons import Reason
from mesh.testing.conversations import chatting, dial, digest_of, exactly, serve_many
from mesh.testing.scale import admit_many_descriptors, scaled

pytestmark = [pytest.mark.root, pytest.mark.scaled]

PORT = 8080
B = "10.244.1.3"
SO_MEMINFO = 55
MESSAGE_OVERHEAD = 1024
"""Bytes: a ``struct sk_msg``, as the kernel allocates it."""


def test_thousands_of_connections_at_once(mesh: Any, maps: FastPathMaps, fast: Any) -> None:
    """All alive together, spliced as they are entered, each answered with its own bytes and recorded with them."""
    count = scaled(2000, most=10_000)

    def server(port: int, tell: int) -> None:
        admit_many_descriptors()
        serve_many(port, tell)

    def client() -> tuple[int, int]:
        admit_many_descriptors()
        socks = [dial(B, PORT) for _ in range(count)]
        cookies = {socket_cookie(sock.fileno()) for sock in socks}
        rounds = spliced = 0
        with FlowTable(mesh.paths) as flows:
            while spliced < 2 * count and rounds < 100:
                for _ in range(10):
                    for number, sock in enumerate(socks):
                        sock.send(struct.pack("=II", number, rounds))
                    for number, sock in enumerate(socks):
                        assert struct.unpack("=II", exactly(sock, 8)) == (number, rounds)
                    rounds += 1
                ways = flows.all()
                assert cookies <= ways.keys()
                spliced = sum(way.spliced > 0 for way in ways.values())
        for sock in socks:
            sock.close()
        return rounds, spliced

    fast.begin(mesh.places["b"], server, PORT)
    rounds, spliced = mesh.places["a"].run(client)
    assert spliced == 2 * count
    assert {(record.sent, record.received) for record in fast.closed(maps, count)} == {(8 * rounds, 8 * rounds)}
    assert maps.live() == []
    with FlowTable(mesh.paths) as flows:
        assert flows.all() == {}


def test_a_reader_that_does_not_read_costs_bounded_memory(splice: Any, maps: FastPathMaps, fast: Any) -> None:
    """The splice has no window: beyond its limit a direction is TCP's, whose window closes. Nothing is lost."""

    def lazy(sock: socket.socket) -> tuple[int, Any]:
        sock.sendall(b"k")
        at_rest = settled(lambda: held(sock))
        sock.sendall(b"k")
        return at_rest, digest_of(sock)

    def client(sock: socket.socket) -> tuple[int, int, bytes]:
        assert exactly(sock, 1) == b"k"
        data, accepted, digest = os.urandom(1 << 16), 0, hashlib.blake2b()
        sock.setblocking(False)
        answered = False
        while not answered:  # until the other side finds that nothing more comes
            try:
                size = sock.send(data)
            except BlockingIOError:
                time.sleep(0.001)
                with contextlib.suppress(BlockingIOError):
                    answered = sock.recv(1) == b"k"
                continue
            accepted += size
            digest.update(data[:size])
        sock.settimeout(30)
        for _ in range(300):
            sock.sendall(data)
            digest.update(data)
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b""
        return accepted, accepted + 300 * len(data), digest.digest()

    splice.serve(lazy)
    before = fast.counted(splice.node, Reason.FAST_FELL_BACK)
    stuck, total, said = splice.call(client)
    at_rest, heard = splice.outcome()
    assert heard == (total, said)
    assert QUEUE_LIMIT < stuck < 8 * QUEUE_LIMIT
    assert at_rest < 8 * QUEUE_LIMIT
    assert fast.counted(splice.node, Reason.FAST_FELL_BACK) > before


@pytest.mark.parametrize("size", [1, 100])
def test_small_messages_that_nobody_reads_cost_bounded_memory(splice: Any, fast: Any, size: int) -> None:
    """For each that waits the kernel keeps a kilobyte of its own, which it charges to nobody."""
    count = 60_000

    def lazy(sock: socket.socket) -> Any:
        sock.sendall(b"k")
        settled(lambda: held(sock))
        sock.sendall(b"k")
        return digest_of(sock)

    def client(sock: socket.socket) -> tuple[int, int, bytes]:
        assert exactly(sock, 1) == b"k"
        data, digest, said = os.urandom(size * 256), hashlib.blake2b(), 0
        before = splice.sent(sock).spliced
        sock.setblocking(False)
        for number in range(count):
            message = data[number % 256 * size :][:size]
            with contextlib.suppress(BlockingIOError):
                length = sock.send(message)
                digest.update(message[:length])
                said += length
        waiting = (splice.sent(sock).spliced - before) // size
        sock.settimeout(30)
        assert exactly(sock, 1) == b"k"
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b""
        return waiting, said, digest.digest()

    splice.serve(lazy)
    before = fast.counted(splice.node, Reason.FAST_FELL_BACK)
    waiting, said, digest = splice.call(client)
    assert splice.outcome() == (said, digest)
    assert 0 < waiting * (size + MESSAGE_OVERHEAD) < 8 * QUEUE_LIMIT
    assert waiting * size < said
    assert fast.counted(splice.node, Reason.FAST_FELL_BACK) == before + 1


def held(sock: socket.socket) -> int:
    """Kernel memory of what waits to be read on a socket, in bytes."""
    return int(struct.unpack_from("=I", sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 36))[0])


def settled(measure: Any) -> int:
    """A figure, once it has not changed for half a second."""
    last, since = measure(), time.monotonic()
    while time.monotonic() - since < 0.5:
        time.sleep(0.02)
        now = measure()
        if now != last:
            last, since = now, time.monotonic()
    return int(last)


def tcp_memory() -> int:
    """Kernel memory that all TCP sockets of the machine hold, in bytes."""
    return int(re.findall(r"TCP: .* mem (\d+)", Path("/proc/net/sockstat").read_text())[0]) * os.sysconf("SC_PAGESIZE")


def test_many_readers_that_do_not_read(splice: Any, maps: FastPathMaps, fast: Any) -> None:
    """What they hold together is bounded, counted as sockets' memory by the kernel, and freed when they are killed."""
    count = scaled(20, most=100)

    def server(port: int, tell: int) -> None:
        listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=4096)
        os.write(tell, b"r")
        accepted = []
        while True:
            sock, _ = listener.accept()
            sock.settimeout(30)
            chatting(sock)
            accepted.append(sock)

    def client() -> tuple[int, int]:
        socks, data, accepted = [], os.urandom(1 << 18), 0
        for _ in range(count):
            sock = dial(B, PORT)
            splice.settle(sock)
            sock.setblocking(False)
            socks.append(sock)
        moved = time.monotonic()
        while time.monotonic() - moved < 1:
            for sock in socks:
                try:
                    accepted += sock.send(data)
                    moved = time.monotonic()
                except BlockingIOError:
                    continue
            time.sleep(0.001)
        return accepted, tcp_memory()

    victim = fast.begin(splice.node.places["b"], server, PORT)
    before = tcp_memory()
    accepted, most = splice.node.places["a"].run(client)
    assert count * QUEUE_LIMIT < accepted < count * 8 * QUEUE_LIMIT
    assert accepted / 2 < most - before < count * 12 * QUEUE_LIMIT
    victim.close()
    fast.closed(maps, count)
    deadline = time.monotonic() + 20
    while tcp_memory() - before > (most - before) // 4:
        assert time.monotonic() < deadline, f"{tcp_memory() - before} bytes are still held"
        time.sleep(0.05)
