"""Two wires joined: bytes, back-pressure, half closes and resets."""

from __future__ import annotations

from mesh.errors import ConnectionLost, MeshError
from waypoint.exchange.byte_pipe import BytePipe
from waypoint.testing.wires import MemoryWire


def joined(start: bytes = b"") -> tuple[MemoryWire, MemoryWire, list[MeshError | None], BytePipe]:
    client, endpoint, ends = MemoryWire(), MemoryWire(), list[MeshError | None]()
    client.pause()
    return client, endpoint, ends, BytePipe(client, endpoint, start, ends.append)


def test_bytes_and_half_closes() -> None:
    client, endpoint, ends, pipe = joined(b"early ")
    assert not client.paused
    client.feed(b"hello")
    endpoint.feed(b"hi")
    assert (endpoint.take(), client.take()) == (b"early hello", b"hi")
    client.hang_up()
    assert endpoint.finished
    endpoint.feed(b" there")
    assert client.take() == b" there"
    assert ends == []
    endpoint.hang_up()
    assert ends == [None]
    assert client.closed
    assert endpoint.closed
    assert (pipe.received, pipe.sent) == (11, 8)


def test_a_slow_side_holds_the_other_back() -> None:
    client, endpoint, _, _ = joined()
    endpoint.stuck = True
    client.feed(b"a" * 1000)
    assert client.paused
    client.feed(b"b" * 1000)
    assert endpoint.waiting == 1000
    endpoint.unstick()
    assert not client.paused
    client.deliver()
    assert len(endpoint.take()) == 2000


def test_a_lost_side_is_a_reset_for_the_other() -> None:
    client, endpoint, ends, _ = joined()
    error = ConnectionLost("gone")
    endpoint.lose(error)
    assert client.was_reset
    assert ends == [error]
