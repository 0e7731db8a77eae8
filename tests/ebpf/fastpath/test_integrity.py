"""Order and integrity, by hash, of much random traffic on spliced connections.

Both ends send at once, in messages of a byte to a mebibyte, and each reads the other to its end. The size follows
AMBIMESH_TEST_SCALE; the kernel's account shows that the bytes went past TCP, and that not one is missing in it.
"""

from __future__ import annotations

import hashlib
import itertools
import socket
import threading
import time
from typing import Any, NamedTuple

import pytest

from ebpf.fastpath.flows import Direction
from ebpf.fastpath.tables import QUEUE_LIMIT, FastPathMaps
from ebpf.reasons import Reason
from mesh.testing.conversations import dial, digest_of, exactly, say
from mesh.testing.scale import scaled

pytestmark = [pytest.mark.root, pytest.mark.scaled]

PORT = 8080
PLACES = [("10.244.1.3", PORT), ("fd00:10:244:1::3", PORT), ("::ffff:10.244.1.3", PORT), ("10.96.0.9", 80)]
EACH_WAY = scaled(1_000_000_000) // (2 * len(PLACES))


class Told(NamedTuple):
    """What one end said and heard."""

    said: bytes
    heard: bytes
    size: int
    way: Direction
    """How what it said has travelled."""


def converse(wire: Any, sock: socket.socket, total: int, seed: int) -> Told:
    """Say and hear at once; say that all is said as soon as it is, whatever is still to be heard."""
    said: list[tuple[bytes, Direction]] = []

    def speak() -> None:
        digest = say(sock, total, seed)
        said.append((digest, wire.sent(sock)))
        sock.shutdown(socket.SHUT_WR)

    speaker = threading.Thread(target=speak)
    speaker.start()
    size, heard = digest_of(sock)
    speaker.join()
    return Told(said[0][0], heard, size, said[0][1])


@pytest.mark.parametrize(("host", "port"), PLACES, ids=["ipv4", "ipv6", "mapped", "service"])
def test_both_ways_at_once_in_messages_of_all_sizes(
    splice: Any, maps: FastPathMaps, fast: Any, host: str, port: int
) -> None:
    def client(sock: socket.socket) -> tuple[Told, int, Any]:
        names = sock.getpeername()[:2], sock.getsockname()[:2]
        return converse(splice, sock, EACH_WAY, 1), splice.chatted, names

    splice.serve(lambda sock: converse(splice, sock, EACH_WAY, 2))
    here, chatted, (peer, local) = splice.call(client, host, port)
    there = splice.outcome()
    assert (here.heard, here.size) == (there.said, EACH_WAY)
    assert (there.heard, there.size) == (here.said, EACH_WAY)
    for told in (here, there):
        assert told.way.spliced > QUEUE_LIMIT, f"mostly on TCP: {told.way}"
    record = fast.closed(maps)[0]  # the last byte of the client's chat was not answered
    assert (record.sent, record.received, record.failed) == (EACH_WAY + chatted, EACH_WAY + chatted - 1, False)
    assert peer == (host, port)
    assert record.source == fast.address(*local)
    assert record.dialled == fast.address(host, port)
    assert record.destination.port == PORT
    assert maps.live() == []


def test_many_conversations_at_once(splice: Any, maps: FastPathMaps, fast: Any) -> None:
    """Thirty-two threads with a connection each: what is said on one is heard on that one."""
    each, count = scaled(64_000_000) // 32, 32

    def client() -> list[Told]:
        told: list[Told] = []

        def one(number: int) -> None:
            with dial("10.244.1.3", PORT) as sock:
                splice.settle(sock)
                told.append(converse(splice, sock, each, number))

        threads = [threading.Thread(target=one, args=(number,)) for number in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return told

    splice.serve(lambda sock: converse(splice, sock, each, sock.fileno()))
    here = splice.node.places["a"].run(client)
    there = [splice.outcome() for _ in range(count)]
    assert sorted(told.heard for told in here) == sorted(told.said for told in there)
    assert sorted(told.heard for told in there) == sorted(told.said for told in here)
    assert {told.size for told in here + there} == {each}
    assert all(told.way.spliced > 0 for told in here + there)
    assert len({record.source.port for record in fast.closed(maps, count)}) == count


def test_between_splice_and_tcp_and_back_nothing_is_lost(splice: Any, maps: FastPathMaps, fast: Any) -> None:
    """A reader that comes late to each of many bursts: the splice takes no more, TCP takes the rest, and the next burst
    is spliced again.
    """
    burst, count = 24_000_000, scaled(8)

    def server(sock: socket.socket) -> list[bytes]:
        heard = []
        for _ in range(count):
            assert sock.recv(1, socket.MSG_PEEK)
            time.sleep(0.05)
            heard.append(hashlib.blake2b(exactly(sock, burst)).digest())
            sock.sendall(b"k")
        return heard

    def client(sock: socket.socket) -> tuple[list[bytes], list[Direction]]:
        said, ways = [], [splice.sent(sock)]
        for seed in range(count):
            said.append(say(sock, burst, seed))
            assert exactly(sock, 1) == b"k"
            ways.append(splice.sent(sock))
        return said, ways

    splice.serve(server)
    before = fast.counted(splice.node, Reason.FAST_FELL_BACK), fast.counted(splice.node, Reason.FAST_RETURNED)
    said, ways = splice.call(client)
    assert splice.outcome() == said
    for way, later in itertools.pairwise(ways):
        assert later.spliced > way.spliced
        assert later.tcp > way.tcp
    assert fast.counted(splice.node, Reason.FAST_FELL_BACK) - before[0] >= count
    assert fast.counted(splice.node, Reason.FAST_RETURNED) - before[1] >= count - 1
