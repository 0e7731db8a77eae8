"""Two sockets joined to each other: what one application does, the other sees."""

from __future__ import annotations

import hashlib
import random
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio

from mesh.errors import ConnectFailed, ConnectionLost, PolicyDenied
from mesh.relay.dialing_end import DialingEnd
from mesh.relay.engine import Engine
from mesh.relay.plain_pair import PlainPair
from mesh.relay.socket_end import LOOKED_AWAY
from tests.mesh.relay.applications import unanswered, until

RESET = struct.pack("ii", 1, 0)


@dataclass
class Joined:
    """A client and a server application, joined by a pair."""

    engine: Engine
    pair: PlainPair
    client: trio.SocketStream
    server: trio.SocketStream
    reports: list[PlainPair]
    watched: list[DialingEnd] = field(default_factory=list)


def small_buffers(sock: socket.socket) -> None:
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, 16384)


@asynccontextmanager
async def joined(*, small: bool = False) -> AsyncIterator[Joined]:
    engine = Engine()
    reports: list[PlainPair] = []
    with socket.create_server(("127.0.0.1", 0)) as gate, socket.create_server(("127.0.0.1", 0)) as application:
        if small:
            small_buffers(gate)
            small_buffers(application)
        client = socket.create_connection(gate.getsockname())
        accepted, _ = gate.accept()
        dialled = socket.socket()
        dialled.setblocking(False)
        if small:
            small_buffers(client)
            small_buffers(accepted)
            small_buffers(dialled)
        pair = PlainPair(engine, accepted, dialled, reports.append)
        watched: list[DialingEnd] = []
        pair.dial(application.getsockname(), watched.append)
        server, _ = application.accept()
        streams = [trio.SocketStream(trio.socket.from_stdlib_socket(sock)) for sock in (client, server)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.run)
            yield Joined(engine, pair, streams[0], streams[1], reports, watched)
            for stream in streams:
                stream.socket.close()
            await until(lambda: reports)
            nursery.cancel_scope.cancel()
    assert reports == [pair]  # once
    assert engine.watched == 0
    assert accepted.fileno() == dialled.fileno() == -1
    engine.close()


async def received(stream: trio.SocketStream, size: int | None = None) -> bytes:
    """So many bytes, or all there are."""
    got = b""
    with trio.fail_after(5):
        while size is None or len(got) < size:
            data = await stream.receive_some()
            if not data:
                break
            got += data
    return got


async def test_both_ways_and_half_close() -> None:
    async with joined() as both:
        await both.client.send_all(b"question")
        await both.client.send_eof()
        assert await received(both.server) == b"question"
        await both.server.send_all(b"answer, ")
        assert await received(both.client, 8) == b"answer, "
        await both.server.send_all(b"all of it")
        await both.server.send_eof()
        assert await received(both.client) == b"all of it"
        await until(lambda: both.reports)
    assert both.pair.error is None
    assert (both.pair.sent, both.pair.received) == (8, 17)


@pytest.mark.parametrize("who", ["client", "server"])
async def test_a_reset_is_passed_on(who: str) -> None:
    async with joined() as both:
        one, other = (both.client, both.server) if who == "client" else (both.server, both.client)
        await one.send_all(b"x")
        await received(other, 1)
        one.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        one.socket.close()
        with trio.fail_after(2), pytest.raises(trio.BrokenResourceError):
            await other.receive_some()
    assert isinstance(both.pair.error, ConnectionLost)


async def test_cutting() -> None:
    async with joined() as both:
        both.pair.cut(PolicyDenied("no longer"))
        both.pair.cut(PolicyDenied("twice"))
        for stream in (both.client, both.server):
            with trio.fail_after(2), pytest.raises(trio.BrokenResourceError):
                await stream.receive_some()
    assert str(both.pair.error) == "no longer"


@pytest.mark.parametrize("small", [False, True])
async def test_bulk_past_a_slow_reader(small: bool) -> None:
    payload = random.Random(4).randbytes(1 << 18)
    async with joined(small=small) as both:

        async def send(stream: trio.SocketStream) -> None:
            await stream.send_all(payload)
            await stream.send_eof()

        async def check(stream: trio.SocketStream) -> None:
            await trio.sleep(0.05)
            digest = hashlib.sha256()
            async for data in stream:
                digest.update(data)
            assert digest.digest() == hashlib.sha256(payload).digest()

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                for stream in (both.client, both.server):
                    nursery.start_soon(send, stream)
                    nursery.start_soon(check, stream)
    assert both.pair.error is None
    assert both.pair.sent == both.pair.received == len(payload)


async def test_what_hung_up_while_it_was_paused_is_still_read() -> None:
    """The server ends its side; the client sends much more than the server takes at once, ends, and is gone. When the
    server reads at last, all of it must be there.
    """
    payload = random.Random(5).randbytes(2 << 20)
    async with joined(small=True) as both:
        await both.server.send_eof()
        assert await received(both.client) == b""

        async def send() -> None:
            await both.client.send_all(payload)
            await both.client.aclose()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            await trio.sleep(0.1)
            assert await received(both.server) == payload
    assert both.pair.error is None
    assert both.pair.sent == len(payload)


async def test_a_client_that_hangs_up_for_good_while_paused() -> None:
    """Both ways are shut with bytes unread: epoll would report that for ever, so it is looked away from until later."""
    async with joined(small=True) as both:
        end = both.pair.accepted
        await both.client.send_all(b"first")
        assert await received(both.server, 5) == b"first"
        # As if the server's socket were full.
        both.pair.dialled.backlog = bytearray(b"?")
        end.pause_reading()
        await both.server.send_eof()
        assert await received(both.client) == b""
        await both.client.send_all(b"last words")
        await both.client.aclose()
        await until(lambda: end.events == LOOKED_AWAY)
        both.pair.dialled.backlog = None
        both.pair.dialled.written(1)
        assert await received(both.server) == b"last words"


async def test_nobody_listens() -> None:
    engine = Engine()
    reports: list[Any] = []
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        accepted, client = socket.socketpair()
        dialled = socket.socket()
        for sock in (accepted, dialled):
            sock.setblocking(False)
        pair = PlainPair(engine, accepted, dialled, reports.append)
        pair.dial(unused.getsockname(), lambda _end: None)
    assert reports == [pair]
    assert isinstance(pair.error, ConnectFailed)
    assert accepted.fileno() == dialled.fileno() == -1
    assert engine.watched == 0
    client.close()
    engine.close()


async def test_a_dial_that_takes_time_is_watched() -> None:
    engine = Engine()
    reports: list[Any] = []
    watched: list[DialingEnd] = []
    with unanswered() as address:
        accepted, client = socket.socketpair()
        dialled = socket.socket()
        for sock in (accepted, dialled):
            sock.setblocking(False)
        pair = PlainPair(engine, accepted, dialled, reports.append)
        pair.dial(address, watched.append)
        assert watched == [pair.dialled]
        watched[0].connect_timed_out()
        watched[0].connect_timed_out()
    assert reports == [pair]
    assert "timed out" in str(pair.error)
    client.close()
    engine.close()


@pytest.mark.pure_form
async def test_a_failing_handler_ends_the_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    async with joined() as both:
        # The slots leave no other way in than the class.
        monkeypatch.setattr(type(both.pair.accepted), "read_input", lambda _self: 1 // 0)
        await both.client.send_all(b"x")
        with trio.fail_after(2), pytest.raises(trio.BrokenResourceError):
            await both.server.receive_some()
        with trio.fail_after(2), pytest.raises(trio.BrokenResourceError):
            await both.client.receive_some()
    assert "a bug" in str(both.pair.error)
