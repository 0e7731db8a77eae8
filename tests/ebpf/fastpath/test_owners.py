"""How the owner of a socket waits decides whether it is spliced: blocking, for levels, for edges, not known yet."""

from __future__ import annotations

import os
import select
import socket
import time
from typing import Any

import pytest

from ebpf.fastpath.tables import FastPathMaps
from ebpf.layout import TALKATIVE_SEGMENTS
from ebpf.pods import FastPathUse
from ebpf.reasons import Reason
from mesh.testing.conversations import dial, echo, exactly

pytestmark = pytest.mark.root

PORT = 8080
B = "10.244.1.3"


@pytest.mark.parametrize("waits", ["neither", "server", "client", "client, later"])
def test_only_sockets_that_do_not_wait_are_spliced(mesh: Any, maps: FastPathMaps, fast: Any, waits: str) -> None:
    """Whoever waits at the moment that counts: what a socket was when it was connected is of no account."""

    def decided() -> int:
        return int(fast.counted(mesh, Reason.FAST_SPLICED) + fast.counted(mesh, Reason.FAST_NOT_SPLICED))

    def server(sock: socket.socket) -> None:
        if waits == "server":
            sock.settimeout(None)
        echo(sock)

    def client() -> int:
        before, number = decided(), 0
        with dial(B, PORT) as sock:
            if waits == "client":
                sock.settimeout(None)
            while decided() == before and number < 10_000:
                if waits == "client, later" and number == TALKATIVE_SEGMENTS // 4:
                    sock.settimeout(None)
                sock.sendall(b"x")
                assert exactly(sock, 1) == b"x"
                number += 1
        return number

    fast.serve(mesh.places["b"], server)
    before = fast.counted(mesh, Reason.FAST_SPLICED), fast.counted(mesh, Reason.FAST_NOT_SPLICED)
    number = mesh.places["a"].run(client)
    after = fast.counted(mesh, Reason.FAST_SPLICED), fast.counted(mesh, Reason.FAST_NOT_SPLICED)
    spliced, direct = after[0] - before[0], after[1] - before[1]
    assert (spliced, direct) == ((1, 0) if waits == "neither" else (0, 1))
    record = fast.closed(maps)[0]
    assert (record.sent, record.received) == (number, number)


def in_sets(sock: socket.socket, events: int, sets: int = 1) -> list[select.epoll]:
    """Epoll sets of levels, the last of them with these events; they last as long as they are kept."""
    made = [select.epoll() for _ in range(sets)]
    for number, epoll in enumerate(made, 1):
        epoll.register(sock.fileno(), events if number == sets else select.EPOLLIN)
    return made


EDGES = select.EPOLLIN | select.EPOLLET


@pytest.mark.parametrize(
    ("end", "events", "sets", "spliced"),
    [
        *(("server", select.EPOLLIN, 1, True), ("server", EDGES, 1, False)),
        *(("client", select.EPOLLIN, 1, True), ("client", EDGES, 1, False)),
        *(("server", select.EPOLLIN, 8, True), ("server", select.EPOLLIN, 9, False), ("server", EDGES, 3, False)),
        ("server", EDGES | select.EPOLLONESHOT, 1, False),
    ],
)
def test_only_sockets_that_nobody_watches_for_edges_are_spliced(
    mesh: Any, maps: FastPathMaps, fast: Any, end: str, events: int, sets: int, spliced: bool
) -> None:
    """They are when they are watched for levels, unless by more sets than are looked through."""
    wire = fast.wire(mesh, spliced)

    def watched(sock: socket.socket) -> list[select.epoll]:
        return in_sets(sock, events, sets)

    def client() -> None:
        with dial(B, PORT) as sock:
            kept = watched(sock) if end == "client" else None
            wire.settle(sock)
            del kept

    wire.serve(lambda sock: sock.recv(1), prepare=watched if end == "server" else None)
    mesh.places["a"].run(client)
    assert wire.outcome() == b""
    wire.close()


@pytest.mark.parametrize("edges", [False, True])
def test_a_pod_that_asks_for_the_splice_has_it_with_blocking_sockets_but_not_with_edges(
    mesh: Any, maps: FastPathMaps, fast: Any, edges: bool
) -> None:
    fast.use(mesh, "b", FastPathUse.SPLICED)
    wire = fast.wire(mesh, not edges)

    def prepared(sock: socket.socket) -> list[select.epoll]:
        sock.settimeout(None)
        return in_sets(sock, EDGES if edges else select.EPOLLIN)

    wire.serve(lambda sock: None, prepare=prepared)
    wire.call(lambda sock: None)
    assert wire.outcome() is None
    wire.close()


@pytest.mark.parametrize("edges", [True, False])
def test_nothing_is_decided_before_the_owner_uses_its_socket(
    mesh: Any, told: FastPathMaps, fast: Any, edges: bool
) -> None:
    """The client is talkative while the server has accepted it, but has not yet said that it waits for edges."""
    go, say_go = os.pipe()

    def server(sock: socket.socket) -> None:
        assert os.read(go, 1) == b"g"
        with select.epoll() as epoll:
            epoll.register(sock.fileno(), select.EPOLLIN | (select.EPOLLET if edges else 0))
            echo(sock)

    def client() -> tuple[int, int]:
        with dial(B, PORT) as sock:
            for _ in range(TALKATIVE_SEGMENTS + 20):
                sock.sendall(b"t")
                time.sleep(0.002)  # a segment of its own, and acknowledged
            early = len(told.talkers.take())
            os.write(say_go, b"g")
            assert len(exactly(sock, TALKATIVE_SEGMENTS + 20)) == TALKATIVE_SEGMENTS + 20
            for _ in range(TALKATIVE_SEGMENTS):
                sock.sendall(b"t")
                assert exactly(sock, 1) == b"t"
            return early, len(told.talkers.take())

    fast.serve(mesh.places["b"], server)
    before = fast.counted(mesh, Reason.FAST_NOT_SPLICED)
    assert mesh.places["a"].run(client) == (0, 0 if edges else 1)
    assert fast.counted(mesh, Reason.FAST_NOT_SPLICED) == before + edges
    fast.closed(told)
    os.close(go)
    os.close(say_go)
