"""The same-node fast path with real programs and sockets: what is carried, what is shown, what is recorded."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import select
import socket
import struct
import threading
import time
from typing import Any

import pytest

from ebpf.fastpath.socket_diag import SocketKiller
from ebpf.fastpath.tables import FastPathMaps
from ebpf.layout import TALKATIVE_SEGMENTS
from ebpf.maps import PinnedMap
from ebpf.reasons import Reason
from mesh.testing.conversations import dial, echo, exactly

pytestmark = pytest.mark.root

PORT = 8080
VIP = "10.96.0.9"


# -- whose payload goes past TCP ---------------------------------------------------------------------------------------


def test_a_short_connection_is_not_entered(mesh: Any, maps: FastPathMaps, fast: Any) -> None:
    def client() -> None:
        with dial("10.244.1.3", PORT) as sock:
            for _ in range(TALKATIVE_SEGMENTS // 4):
                sock.sendall(b"x")
                assert exactly(sock, 1) == b"x"
            time.sleep(0.1)
            with PinnedMap(mesh.paths, "fast_sockets", ctypes.c_uint64, ctypes.c_uint64) as entered:
                assert entered.count() == 0

    fast.serve(mesh.places["b"], echo)
    before = fast.counted(mesh, Reason.FAST_SPLICED), fast.counted(mesh, Reason.FAST_NOT_SPLICED)
    mesh.places["a"].run(client)
    assert (fast.counted(mesh, Reason.FAST_SPLICED), fast.counted(mesh, Reason.FAST_NOT_SPLICED)) == before
    fast.closed(maps)


# -- what is carried ---------------------------------------------------------------------------------------------------


def test_edge_triggered_server(mesh: Any, maps: FastPathMaps, fast: Any) -> None:
    """On TCP; what it has to be told is the same."""

    def edge(sock: socket.socket) -> None:
        sock.setblocking(False)
        with select.epoll() as epoll:
            epoll.register(sock.fileno(), select.EPOLLIN | select.EPOLLET | select.EPOLLRDHUP)
            while True:
                if not epoll.poll(10):
                    return
                with contextlib.suppress(BlockingIOError):
                    while True:
                        data = sock.recv(4096)
                        if not data:
                            return
                        sock.settimeout(30)
                        sock.sendall(data)
                        sock.setblocking(False)

    def client() -> None:
        with dial("10.244.1.3", PORT) as sock:
            for size in [*range(1, 2000, 7), 100_000, 5_000_000] * 2:
                data = os.urandom(size)
                sender = threading.Thread(target=sock.sendall, args=(data,))
                sender.start()
                assert exactly(sock, size) == data
                sender.join()

    fast.serve(mesh.places["b"], edge)
    mesh.places["a"].run(client)
    fast.closed(maps)


def test_a_refused_dial_is_recorded_as_failed(mesh: Any, maps: FastPathMaps, fast: Any) -> None:
    def client() -> str:
        try:
            dial("10.244.1.3", PORT).close()
        except OSError as error:
            return errno.errorcode[error.errno or 0]
        return "connected"

    assert mesh.places["a"].run(client) == "ECONNREFUSED"
    record = fast.closed(maps)[0]
    assert (record.failed, record.sent, record.received) == (True, 0, 0)


def test_a_destroyed_connection_is_over_at_both_ends_and_others_go_on(mesh: Any, maps: FastPathMaps, fast: Any) -> None:
    a, b = mesh.places["a"], mesh.places["b"]
    fast.serve(b, echo)
    tell_read, tell = os.pipe()
    go, go_write = os.pipe()

    def client() -> list[str]:
        socks = [dial("10.244.1.3", PORT), dial("10.244.1.3", PORT)]
        for sock in socks:
            sock.sendall(b"x")
            exactly(sock, 1)
        os.write(tell, struct.pack("=H", socks[0].getsockname()[1]))
        os.read(go, 1)
        seen = []
        for sock in socks:
            try:
                sock.sendall(b"y")
                seen.append(exactly(sock, 1).decode())
            except OSError as error:
                seen.append(errno.errorcode[error.errno or 0])
            sock.close()
        return seen

    actor = a.start(client)
    port = struct.unpack("=H", os.read(tell_read, 2))[0]
    victim = next(live for live in maps.live() if live.source.port == port)
    with SocketKiller(a.namespace) as killer:
        assert killer.end(victim.source, victim.destination, victim.cookie)
        assert not killer.end(victim.source, victim.destination, victim.cookie)
    with SocketKiller(b.namespace) as killer:
        killer.end(victim.destination, victim.source, victim.server_cookie)
    os.write(go_write, b"g")
    assert actor.join() == ["ECONNABORTED", "y"]
    assert sorted(record.sent for record in fast.closed(maps, 2)) == [1, 2]
    for descriptor in (tell_read, tell, go, go_write):
        os.close(descriptor)
