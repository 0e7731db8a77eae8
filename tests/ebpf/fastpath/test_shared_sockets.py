"""Sockets with several users: threads, processes, and processes they are handed to, over TCP and over the splice."""

from __future__ import annotations

import multiprocessing
import os
import select
import socket
import struct
import sys
import threading
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from ebpf.fastpath.tables import FastPathMaps
from mesh.testing.conversations import SECONDS, echo, exactly

pytestmark = pytest.mark.root

_HEAD = struct.Struct("=HIHI")
_FORK = multiprocessing.get_context("fork")


def in_processes(count: int, function: Callable[[int], object]) -> None:
    """Run it in so many forks of this process at once; fail if one of them does."""
    children = [_FORK.Process(target=function, args=(number,)) for number in range(count)]
    for child in children:
        child.start()
    for child in children:
        child.join(SECONDS)
    assert [child.exitcode for child in children] == [0] * count


def in_threads(count: int, function: Callable[[int], object]) -> None:
    """The same in threads."""
    failures: list[BaseException] = []

    def guarded(number: int) -> None:
        try:
            function(number)
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def frame(writer: int, number: int, size: int) -> bytes:
    """Bytes that tell who wrote them, in which order, and that they are whole."""
    body = os.urandom(size)
    return _HEAD.pack(writer, number, size, zlib.crc32(body)) + body


def read_frames(sock: socket.socket, count: int) -> dict[int, list[int]]:
    """So many frames: for each writer its numbers, in the order in which they arrive."""
    numbers: dict[int, list[int]] = defaultdict(list)
    for _ in range(count):
        writer, number, size, checksum = _HEAD.unpack(exactly(sock, _HEAD.size))
        assert zlib.crc32(exactly(sock, size)) == checksum, f"torn: message {number} of writer {writer}"
        numbers[writer].append(number)
    return numbers


@pytest.mark.parametrize("users", [in_threads, in_processes])
def test_several_writers(wire: Any, users: Any) -> None:
    """Messages of several writers come whole, and those of one writer in order."""
    writers, bursts, each = 6, 12, 40  # a burst is less than a socket takes at once, so no message is sent in parts

    def server(sock: socket.socket) -> list[list[int]]:
        seen: dict[int, list[int]] = defaultdict(list)
        for _ in range(bursts):
            for writer, numbers in read_frames(sock, writers * each).items():
                seen[writer] += numbers
            sock.sendall(b"k")
        return [seen[writer] for writer in range(writers)]

    def client(sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        for burst in range(bursts):

            def write(writer: int, first: int = burst * each) -> None:
                for number in range(first, first + each):
                    message = frame(writer, number, 1 + (number * 37 + writer * 101) % 1500)
                    assert sock.send(message) == len(message)

            users(writers, write)
            assert exactly(sock, 1) == b"k"

    wire.serve(server)
    wire.call(client)
    assert wire.outcome() == [list(range(bursts * each))] * writers


@pytest.mark.parametrize("users", [in_threads, in_processes])
def test_several_readers(wire: Any, users: Any) -> None:
    """Every byte is read by one of them, once."""
    readers, data = 4, os.urandom(2_000_000)

    def server(sock: socket.socket) -> Counter[int]:
        sock.setblocking(False)
        found = _FORK.SimpleQueue()
        ended = _FORK.Barrier(readers)

        def read(_number: int) -> None:
            poller, mine = select.poll(), bytearray()
            poller.register(sock, select.POLLIN)
            while poller.poll(SECONDS * 1000):
                try:
                    part = sock.recv(1000)
                except BlockingIOError:  # another was faster
                    continue
                if not part:
                    break
                mine += part
            ended.wait(SECONDS)
            found.put(Counter(mine))

        users(readers, read)
        return sum((found.get() for _ in range(readers)), Counter())

    def client(sock: socket.socket) -> None:
        for at in range(0, len(data), 2_000):
            sock.sendall(data[at : at + 2_000])
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b""

    wire.serve(server)
    wire.call(client)
    assert wire.outcome() == Counter(data)


def converse(sock: socket.socket, words: Sequence[bytes]) -> None:
    """Say each and hear it back."""
    for word in words:
        sock.sendall(word)
        assert exactly(sock, len(word)) == word


def test_a_socket_is_handed_on_by_scm_rights(wire: Any, maps: FastPathMaps, fast: Any) -> None:
    """On both sides: whoever made it closes it, and whoever was given it goes on, past TCP as before."""
    words = [b"%d," % number * (number + 1) for number in range(300)]

    def hand_on(sock: socket.socket, use: Callable[[socket.socket], object]) -> None:
        giving, taking = socket.socketpair()

        def taker() -> None:
            giving.close()
            sock.close()
            _, descriptors, _, _ = socket.recv_fds(taking, 1, 1)
            with socket.socket(fileno=descriptors[0]) as given:
                given.settimeout(SECONDS)
                use(given)

        child = _FORK.Process(target=taker)
        child.start()
        taking.close()
        socket.send_fds(giving, [b"s"], [sock.fileno()])
        sock.close()
        child.join(SECONDS)
        assert child.exitcode == 0

    def user(sock: socket.socket) -> None:
        before = wire.sent(sock)
        converse(sock, words)
        assert (wire.sent(sock).spliced - before.spliced == sum(map(len, words))) == wire.spliced
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b""

    wire.serve(lambda sock: hand_on(sock, echo))
    wire.call(lambda sock: hand_on(sock, user))
    wire.outcome()
    fast.closed(maps)


ECHO = """
import socket, sys
with socket.socket(fileno=int(sys.argv[1])) as sock:
    sock.settimeout(30)
    while data := sock.recv(65536):
        sock.sendall(data)
"""


def test_a_socket_is_inherited_over_exec(wire: Any, maps: FastPathMaps, fast: Any) -> None:
    def server(sock: socket.socket) -> int:
        sock.set_inheritable(True)
        child = os.spawnv(os.P_NOWAIT, sys.executable, [sys.executable, "-c", ECHO, str(sock.fileno())])
        sock.close()
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def client(sock: socket.socket) -> None:
        converse(sock, [b"before"])
        before = wire.sent(sock)
        converse(sock, [os.urandom(size) for size in (1, 100, 10_000, 100_000)])
        assert (wire.sent(sock).spliced > before.spliced) == wire.spliced
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b""

    wire.serve(server)
    wire.call(client)
    assert wire.outcome() == 0
    fast.closed(maps)
