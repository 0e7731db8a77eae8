"""Ways of reading that ask for more than bytes in order: each over plain TCP and over the splice, with one result."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import select
import socket
import struct
import termios
import time
from collections.abc import Callable
from typing import Any

import pytest

from ebpf.fastpath.tables import FastPathMaps
from ebpf.reasons import Reason
from mesh.testing.conversations import exactly

pytestmark = pytest.mark.root

OUT_OF_TIME = 10.0


def unread(sock: socket.socket) -> int:
    """What SIOCINQ (FIONREAD) says."""
    return asked(sock, termios.FIONREAD)


def asked(sock: socket.socket, request: int) -> int:
    answer = bytearray(4)
    fcntl.ioctl(sock, request, answer)
    return int(struct.unpack("=i", answer)[0])


def wait_for(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + OUT_OF_TIME
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def arrived(sock: socket.socket, size: int) -> None:
    """Wait until so many bytes can be read at once."""

    def readable() -> int:
        try:
            return len(sock.recv(1 << 20, socket.MSG_PEEK))
        except BlockingIOError:
            return 0

    sock.setblocking(False)
    wait_for(lambda: readable() == size)
    sock.settimeout(OUT_OF_TIME)


def refused(call: Callable[[], Any]) -> str:
    """The error's name; what the call returned, if it did not fail."""
    try:
        return repr(call())
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def say_in_pieces(sock: socket.socket, *pieces: bytes) -> None:
    """One message each, and then the other side's word that it has read what it wanted."""
    for piece in pieces:
        sock.sendall(piece)
    assert exactly(sock, 1) == b"k"


def test_the_number_of_unread_bytes(wire: Any) -> None:
    def server(sock: socket.socket) -> list[int]:
        arrived(sock, 150)
        seen = [unread(sock), len(sock.recv(10)), unread(sock), len(sock.recv(100)), unread(sock), len(sock.recv(100))]
        sock.sendall(b"k")
        return [*seen, unread(sock)]

    wire.serve(server)
    wire.call(lambda sock: say_in_pieces(sock, b"x" * 100, b"y" * 50))
    assert wire.outcome() == [150, 10, 140, 100, 40, 40, 0]


def test_what_was_said_is_not_waiting_to_be_sent_once_it_has_arrived(wire: Any) -> None:
    def server(sock: socket.socket) -> None:
        arrived(sock, 100_000)
        sock.sendall(b"k")
        exactly(sock, 100_000)

    def client(sock: socket.socket) -> None:
        say_in_pieces(sock, b"x" * 100_000)
        wait_for(lambda: asked(sock, termios.TIOCOUTQ) == 0)

    wire.serve(server)
    wire.call(client)
    wire.outcome()


def test_peeking(wire: Any) -> None:
    pieces = [b"%09d," % number for number in range(10)]

    def server(sock: socket.socket) -> bytes:
        whole = b"".join(pieces)
        arrived(sock, len(whole))
        sock.setblocking(False)
        for _ in range(2):
            assert sock.recv(1000, socket.MSG_PEEK) == whole
        assert sock.recv(7, socket.MSG_PEEK) == whole[:7]
        assert sock.recv(25) == whole[:25]  # in the middle of a message
        assert sock.recv(1000, socket.MSG_PEEK) == whole[25:]
        assert unread(sock) == len(whole) - 25
        rest = sock.recv(1000)
        assert refused(lambda: sock.recv(1, socket.MSG_PEEK)) == "EAGAIN"
        sock.settimeout(OUT_OF_TIME)
        sock.sendall(b"k")
        assert sock.recv(1, socket.MSG_PEEK) == b""  # the end is not taken by looking at it
        assert sock.recv(1) == b""
        return rest

    wire.serve(server)
    wire.call(lambda sock: say_in_pieces(sock, *pieces))
    assert wire.outcome() == b"".join(pieces)[25:]


def test_reading_into_several_buffers_and_reading_to_throw_away(wire: Any) -> None:
    def server(sock: socket.socket) -> list[bytes]:
        arrived(sock, 70)
        first, second = bytearray(7), bytearray(13)
        assert sock.recvmsg_into([first, second])[0] == 20
        assert sock.recv_into(bytearray(30), 30, socket.MSG_TRUNC) == 30
        rest = sock.recv(100)
        sock.sendall(b"k")
        return [bytes(first), bytes(second), rest]

    wire.serve(server)
    wire.call(lambda sock: say_in_pieces(sock, b"a" * 10, b"b" * 40, b"c" * 20))
    assert wire.outcome() == [b"a" * 7, b"a" * 3 + b"b" * 10, b"c" * 20]


def test_waiting_for_all_without_waiting(wire: Any) -> None:
    """On a socket that does not block MSG_WAITALL gives what there is."""

    def server(sock: socket.socket) -> list[int]:
        arrived(sock, 500)
        first = len(sock.recv(5000, socket.MSG_WAITALL))
        sock.sendall(b"k")
        arrived(sock, 4500)
        return [first, len(sock.recv(4500, socket.MSG_WAITALL))]

    def client(sock: socket.socket) -> None:
        say_in_pieces(sock, b"x" * 500)
        sock.sendall(b"y" * 4500)
        assert sock.recv(1) == b""

    wire.serve(server)
    wire.call(client)
    assert wire.outcome() == [500, 4500]


@pytest.mark.parametrize("later", [False, True])
def test_the_low_water_mark_is_kept(wire: Any, later: bool) -> None:
    """Set while bytes are unread already, or before any come: no reader is told of less than it asked for."""

    def server(sock: socket.socket) -> list[bool]:
        if later:
            sock.sendall(b"k")
            arrived(sock, 10)
            assert exactly(sock, 10) == b"z" * 10
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1000)
        sock.sendall(b"k")
        poller = select.poll()
        poller.register(sock, select.POLLIN)
        arrived(sock, 600)
        seen = [bool(poller.poll(100))]
        sock.sendall(b"k")
        seen.append(bool(poller.poll(OUT_OF_TIME * 1000)))
        assert len(exactly(sock, 1200)) == 1200
        return seen

    def client(sock: socket.socket) -> None:
        if later:
            say_in_pieces(sock, b"z" * 10)
        assert exactly(sock, 1) == b"k"
        before = wire.sent(sock)
        say_in_pieces(sock, b"x" * 600)
        sock.sendall(b"x" * 600)
        assert sock.recv(1) == b""
        assert wire.sent(sock).spliced == before.spliced, "such a reader is served by TCP"

    wire.serve(server)
    wire.call(client)
    assert wire.outcome() == [False, True]


def test_edge_triggered_readiness(wire: Any) -> None:
    """An edge for every arrival, also while bytes are unread, none without; one that says the other side is done.

    The splice does this much too, for a socket that is added to such a set when it is spliced already.
    """

    def server(sock: socket.socket) -> list[list[int]]:
        sock.setblocking(False)
        edges, interesting = [], select.EPOLLIN | select.EPOLLRDHUP
        with select.epoll() as epoll:
            epoll.register(sock.fileno(), interesting | select.EPOLLET)
            for taken in (3, 3, 100, 0):
                edges.append([event & interesting for _, event in epoll.poll(OUT_OF_TIME)])
                if taken:
                    sock.recv(taken)
                assert epoll.poll(0.05) == []
                sock.send(b"k")
            assert sock.recv(10) == b""
        return edges

    def client(sock: socket.socket) -> None:
        for _ in range(3):
            say_in_pieces(sock, b"123456")
        sock.shutdown(socket.SHUT_WR)
        assert exactly(sock, 2) == b"k"

    wire.serve(server)
    wire.call(client)
    assert wire.outcome() == [[select.EPOLLIN]] * 3 + [[select.EPOLLIN | select.EPOLLRDHUP]]


def watched_for_edges(sock: socket.socket) -> select.epoll:
    """As edge-triggered programs do it: right after it is accepted."""
    epoll = select.epoll()
    epoll.register(sock.fileno(), select.EPOLLIN | select.EPOLLET)
    return epoll


@pytest.mark.parametrize("asks", [False, True])
def test_an_edge_triggered_reader_stays_on_tcp_and_misses_nothing(
    mesh: Any, maps: FastPathMaps, fast: Any, asks: bool
) -> None:
    """It takes FIONREAD's word for whether to read on, as nginx does, or takes a short read for the last.

    On the splice it would stop for good where a direction has fallen back to TCP.
    """
    plain = fast.wire(mesh, spliced=False)
    piece, count = bytes(20_001), 400

    def is_last(sock: socket.socket, size: int) -> bool:
        return unread(sock) == 0 if asks else size < 1 << 16

    def server(sock: socket.socket) -> int:
        sock.setblocking(False)
        taken = 0
        with watched_for_edges(sock) as epoll:
            time.sleep(0.5)
            while taken < count * len(piece) and epoll.poll(5):
                with contextlib.suppress(BlockingIOError):
                    while True:
                        size = len(sock.recv(1 << 16))
                        taken += size
                        if is_last(sock, size):
                            break
        sock.send(b"k")
        return taken

    def client(sock: socket.socket) -> int:
        for _ in range(count):
            sock.sendall(piece)
        assert exactly(sock, 1) == b"k"
        return int(plain.sent(sock).spliced)

    plain.serve(server, prepare=watched_for_edges)
    before = fast.counted(mesh, Reason.FAST_NOT_SPLICED)
    assert plain.call(client) == 0
    assert plain.outcome() == count * len(piece)
    assert fast.counted(mesh, Reason.FAST_NOT_SPLICED) == before + 1
    plain.close()


def test_empty_messages_and_corked_ones(wire: Any) -> None:
    def server(sock: socket.socket) -> bytes:
        found = exactly(sock, 6)
        sock.sendall(b"k")
        return found

    def client(sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        sock.send(b"ab")
        assert sock.send(b"") == 0
        sock.send(b"cd", 0x8000)  # MSG_MORE
        sock.sendmsg([b"e", b"", b"f"])
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
        assert exactly(sock, 1) == b"k"

    wire.serve(server)
    wire.call(client)
    assert wire.outcome() == b"abcdef"
