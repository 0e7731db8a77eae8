"""How connections end, and what the other side sees of it: over plain TCP and over the splice, with one result."""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

import pytest

from ebpf.fastpath.tables import FastPathMaps
from mesh.testing.conversations import digest_of, exactly, say

pytestmark = pytest.mark.root


def reset(sock: socket.socket) -> None:
    """Close it by a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def outcome_of(call: Callable[[], Any]) -> Any:
    """The name of the error, or what the call returned."""
    try:
        return call()
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def gone(sock: socket.socket) -> None:
    """Wait until the other side has ended the connection."""
    poller = select.poll()
    poller.register(sock, select.POLLRDHUP)
    assert poller.poll(10_000)


def test_the_client_ends_its_half_first(wire: Any, maps: FastPathMaps, fast: Any) -> None:
    """And reads much after it: the half that is open carries on past TCP."""
    total = 30_000_000

    def server(sock: socket.socket) -> tuple[tuple[int, bytes], bytes, int]:
        heard = digest_of(sock)
        before = wire.sent(sock)
        return heard, say(sock, total, 2), wire.sent(sock).spliced - before.spliced

    def client(sock: socket.socket) -> tuple[bytes, tuple[int, bytes]]:
        said = say(sock, total, 1)
        sock.shutdown(socket.SHUT_WR)
        assert outcome_of(lambda: sock.send(b"x")) == "EPIPE"
        return said, digest_of(sock)

    wire.serve(server)
    said, heard = wire.call(client)
    there, answered, spliced = wire.outcome()
    assert there == (total, said)
    assert heard == (total, answered)
    assert (spliced > 0) == wire.spliced
    assert fast.closed(maps)[0].failed is False


def test_the_server_ends_its_half_first(wire: Any) -> None:
    total = 30_000_000

    def server(sock: socket.socket) -> tuple[bytes, tuple[int, bytes]]:
        said = say(sock, total, 2)
        sock.shutdown(socket.SHUT_WR)
        return said, digest_of(sock)

    def client(sock: socket.socket) -> tuple[tuple[int, bytes], bytes, int]:
        heard = digest_of(sock)
        before = wire.sent(sock)
        return heard, say(sock, total, 1), wire.sent(sock).spliced - before.spliced

    wire.serve(server)
    heard, said, spliced = wire.call(client)
    answered, there = wire.outcome()
    assert heard == (total, answered)
    assert there == (total, said)
    assert (spliced > 0) == wire.spliced


def test_both_end_their_halves_at_once(wire: Any, maps: FastPathMaps, fast: Any) -> None:
    """What was said before is read by both, then the end, again and again."""

    def end(sock: socket.socket, text: bytes) -> list[bytes]:
        sock.sendall(text)
        sock.shutdown(socket.SHUT_WR)
        gone(sock)
        return [exactly(sock, 1000), sock.recv(1), sock.recv(1)]

    wire.serve(lambda sock: end(sock, b"s" * 1000))
    assert wire.call(lambda sock: end(sock, b"c" * 1000)) == [b"s" * 1000, b"", b""]
    assert wire.outcome() == [b"c" * 1000, b"", b""]
    fast.closed(maps)


def test_closing_leaves_what_was_said_to_be_read(wire: Any) -> None:
    def server(sock: socket.socket) -> list[Any]:
        gone(sock)
        return [len(exactly(sock, 50_000)), sock.recv(1)]

    wire.serve(server)
    wire.call(lambda sock: sock.sendall(b"x" * 50_000))
    assert wire.outcome() == [50_000, b""]


def test_a_reset_is_told_after_what_was_unread(wire: Any, maps: FastPathMaps, fast: Any) -> None:
    def server(sock: socket.socket) -> list[Any]:
        gone(sock)
        return [
            sock.recv(10),
            len(sock.recv(2000)),
            outcome_of(lambda: sock.recv(1)),
            outcome_of(lambda: sock.recv(1)),
            outcome_of(lambda: sock.send(b"x")),
        ]

    def client(sock: socket.socket) -> int:
        sock.sendall(b"x" * 1000)
        reset(sock)
        return int(wire.chatted) + 1000

    wire.serve(server)
    total = wire.call(client)
    assert wire.outcome() == [b"x" * 10, 990, "ECONNRESET", b"", "EPIPE"]
    assert fast.closed(maps)[0].sent == total


def test_a_reset_by_the_server(wire: Any, maps: FastPathMaps, fast: Any) -> None:
    def server(sock: socket.socket) -> None:
        assert sock.recv(1) == b"x"
        reset(sock)

    def client(sock: socket.socket) -> Any:
        sock.sendall(b"x")
        return outcome_of(lambda: sock.recv(1))

    wire.serve(server)
    assert wire.call(client) == "ECONNRESET"
    fast.closed(maps)


def test_saying_something_to_a_closed_end(wire: Any, maps: FastPathMaps, fast: Any) -> None:
    """The first message is answered by a reset; then writing fails."""

    def client(sock: socket.socket) -> list[Any]:
        assert sock.recv(1) == b""
        first = sock.send(b"y" * 1000)
        poller = select.poll()
        poller.register(sock, 0)
        assert poller.poll(10_000)  # POLLERR: the reset is here
        return [first, outcome_of(lambda: sock.send(b"y")), outcome_of(lambda: sock.send(b"y"))]

    wire.serve(lambda sock: None)
    assert wire.call(client) == [1000, "EPIPE", "EPIPE"]
    fast.closed(maps)


def test_nobody_reads_any_more(wire: Any) -> None:
    """SHUT_RD: what arrives all the same can be read, as on Linux it always can; the other direction goes on."""

    def server(sock: socket.socket) -> list[Any]:
        sock.shutdown(socket.SHUT_RD)
        sock.sendall(b"k")
        poller = select.poll()
        poller.register(sock, select.POLLIN)
        poller.poll(10_000)
        time.sleep(0.05)
        found = sock.recv(100)
        sock.sendall(b"done")
        return [found, exactly(sock, 0)]

    def client(sock: socket.socket) -> bytes:
        assert exactly(sock, 1) == b"k"
        sock.sendall(b"x" * 10)
        return exactly(sock, 4)

    wire.serve(server)
    assert wire.call(client) == b"done"
    assert wire.outcome() == [b"x" * 10, b""]


@pytest.mark.parametrize("unread", [False, True])
def test_a_killed_server_ends_its_connections(wire: Any, maps: FastPathMaps, fast: Any, unread: bool) -> None:
    """kill -9 in the middle of a conversation, with bytes on their way in both directions or with none."""

    def server(sock: socket.socket) -> None:
        sock.sendall(b"k")
        time.sleep(30)

    def client(tell: int, sock: socket.socket) -> bytes:
        assert exactly(sock, 1) == b"k"
        if unread:
            sock.sendall(b"x" * 10_000)
        os.write(tell, b"r")
        gone(sock)
        try:
            return sock.recv(1)
        except ConnectionResetError:
            return b""

    ready, tell = os.pipe()
    victim = wire.serve(server)
    actor = wire.start(lambda sock: client(tell, sock))
    os.close(tell)
    with os.fdopen(ready, "rb") as pipe:
        assert pipe.read(1) == b"r"
    os.kill(victim.pid, signal.SIGKILL)
    assert actor.join() == b""
    fast.closed(maps)
    assert maps.live() == []


def test_a_killed_client_in_the_middle_of_a_transfer(wire: Any, maps: FastPathMaps, fast: Any) -> None:
    """The server reads an unbroken beginning of what was being said, and then the end."""
    counters = b"".join(number.to_bytes(4, "big") for number in range(1 << 18))

    def server(sock: socket.socket) -> tuple[int, bool]:
        heard = bytearray()
        try:
            while data := sock.recv(1 << 16):
                heard += data
        except ConnectionResetError:
            pass
        whole, part = divmod(len(heard), len(counters))
        return len(heard), bytes(heard) == counters * whole + counters[:part]

    def client(tell: int, sock: socket.socket) -> None:
        for number in range(1000):
            sock.sendall(counters)
            if number == 5:
                os.write(tell, b"r")

    ready, tell = os.pipe()
    wire.serve(server)
    actor = wire.start(lambda sock: client(tell, sock))
    os.close(tell)
    with os.fdopen(ready, "rb") as pipe:
        assert pipe.read(1) == b"r"
    os.kill(actor.pid, signal.SIGKILL)
    size, unbroken = wire.outcome()
    assert size >= 5 * len(counters)
    assert unbroken
    fast.closed(maps)
