"""Wires over sockets: order, back-pressure, half closes, losses, and ends that lose nothing."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from mesh.errors import MeshError
from mesh.relay.engine import Engine
from tests.waypoint.wire.owners import Told
from waypoint.wire.contract import Wire
from waypoint.wire.dialling import Dial
from waypoint.wire.socket_connector import SocketConnector
from waypoint.wire.socket_wire import SocketWire


async def until(holds: Callable[[], Any]) -> None:
    with trio.fail_after(5):
        while not holds():  # noqa: ASYNC110 -- the engine has no events to wait for
            await trio.sleep(0.005)


@asynccontextmanager
async def wired() -> AsyncIterator[tuple[SocketWire, Told, trio.SocketStream]]:
    """A wire, its owner, and the application at the other end."""
    engine, told = Engine(), Told()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stream = await trio.open_tcp_stream("127.0.0.1", listener.getsockname()[1])
        accepted, _ = listener.accept()
    wire = SocketWire(engine, accepted)
    wire.attach(told)
    wire.start()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(engine.run)
        try:
            yield wire, told, stream
        finally:
            wire.reset()
            stream.socket.close()
            nursery.cancel_scope.cancel()
    engine.close()


async def test_bytes_and_half_closes() -> None:
    async with wired() as (wire, told, stream):
        await stream.send_all(b"hello")
        await until(lambda: told.data == b"hello")
        wire.write(b"hi")
        assert await stream.receive_some(10) == b"hi"
        await stream.send_eof()
        await until(lambda: told.ended)
        assert told.lost == []
        wire.write(b"bye")
        wire.finish()
        assert await stream.receive_some(10) == b"bye"
        assert await stream.receive_some(10) == b""
        assert told.lost == [None]


async def test_a_paused_wire_leaves_bytes_where_they_are() -> None:
    async with wired() as (wire, told, stream):
        wire.pause()
        await stream.send_all(b"later")
        await trio.sleep(0.05)
        assert told.data == b""
        wire.resume()
        assert told.data == b"", "not within the call"
        await until(lambda: told.data == b"later")


async def test_what_the_peer_does_not_take_waits_and_is_told_when_gone() -> None:
    async with wired() as (wire, told, stream):
        data = bytes(range(256)) * 40_000
        wire.write(data)
        wire.write(b"end")
        assert wire.congested
        assert told.writable == 0
        received = b""
        while len(received) < len(data) + 3:
            received += await stream.receive_some(1_000_000)
        assert received == data + b"end"
        await until(lambda: told.writable == 1)
        assert not wire.congested


async def test_an_end_loses_nothing_that_was_written() -> None:
    async with wired() as (wire, told, stream):
        wire.write(bytes(5_000_000))
        wire.end()
        received = 0
        while chunk := await stream.receive_some(1_000_000):
            received += len(chunk)
        assert received == 5_000_000
        assert (told.lost, told.writable) == ([], 0)
        await until(lambda: wire.closed)


async def test_a_reset_peer_is_lost_once() -> None:
    async with wired() as (wire, told, stream):
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        stream.socket.close()
        await until(lambda: told.lost)
        assert len(told.lost) == 1
        assert told.lost[0] is not None
        wire.write(b"in vain")
        assert wire.closed


async def test_a_failed_write_is_told_later() -> None:
    async with wired() as (wire, told, stream):
        wire.pause()
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        stream.socket.close()
        wire.write(b"a")
        assert told.lost == []
        await until(lambda: told.lost)
        assert len(told.lost) == 1


async def test_a_reset_from_here_is_one_for_the_peer() -> None:
    async with wired() as (wire, told, stream):
        wire.reset()
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some(1)
        assert told.lost == []


async def test_dialling() -> None:
    engine = Engine()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        made: list[tuple[Wire | None, MeshError | None]] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.run)
            connector = SocketConnector(engine, ("127.0.0.1", port))
            connector.connect(lambda wire, error: made.append((wire, error)))
            await until(lambda: made)
            wire, error = made[0]
            assert error is None
            assert isinstance(wire, SocketWire)
            dial: Dial = connector.connect(lambda _wire, _error: None)
            dial.cancel()
            wire.reset()
            listener.close()
            connector.connect(lambda wire, error: made.append((wire, error)))
            await until(lambda: len(made) == 2)
            assert made[1][0] is None
            assert "refused" in str(made[1][1])
            nursery.cancel_scope.cancel()
    engine.close()
