"""Connections through a real tunnel, from application to application."""

from __future__ import annotations

import hashlib
import random
import socket
import struct
from typing import Any

import pytest
import trio

from mesh.errors import PolicyDenied, TunnelRefused
from mesh.hbone.contract import HboneSettings
from tests.mesh.relay.applications import echo, reset, talking, until


async def test_bytes_come_back(open_relays: Any) -> None:
    async with open_relays(echo) as relays:
        client = await talking(relays)
        await client.send_eof()
        with trio.fail_after(5):
            assert await client.receive_some() == b""
        await until(lambda: relays.closed)
        assert relays.closed[0].error is None
        assert (relays.closed[0].sent, relays.closed[0].received) == (5, 5)
        assert not relays.client.machine.streams
        assert not relays.server.machine.streams


SMALL_WINDOWS = HboneSettings(initial_stream_window=65536, max_stream_window=65536)


@pytest.mark.parametrize("windows", [HboneSettings(), SMALL_WINDOWS])
async def test_bulk_data_is_whole_both_ways(open_relays: Any, windows: HboneSettings) -> None:
    size = 8 << 20
    payload = random.Random(1).randbytes(size)

    async with open_relays(echo, windows) as relays:
        client = await relays.connect()
        received = hashlib.sha256()

        async def send() -> None:
            await client.send_all(payload)
            await client.send_eof()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            with trio.fail_after(30):
                async for chunk in client:
                    received.update(chunk)
        assert received.digest() == hashlib.sha256(payload).digest()


async def test_many_connections_do_not_mix(open_relays: Any) -> None:
    async with open_relays(echo) as relays:

        async def talk(number: int) -> None:
            client = await relays.connect()
            text = b"connection %d;" % number
            for _ in range(20):
                await client.send_all(text)
            await client.send_eof()
            answer = b""
            async for chunk in client:
                answer += chunk
            assert answer == text * 20

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                for number in range(60):
                    nursery.start_soon(talk, number)
        await until(lambda: not relays.client.machine.streams and not relays.server.machine.streams)


async def test_half_close_keeps_the_other_direction(open_relays: Any) -> None:
    async def answer_after_end(stream: trio.SocketStream) -> None:
        async with stream:
            question = b""
            async for chunk in stream:
                question += chunk
            await stream.send_all(question.upper())

    async with open_relays(answer_after_end) as relays:
        client = await relays.connect()
        await client.send_all(b"question")
        await client.send_eof()
        with trio.fail_after(5):
            assert await client.receive_some() == b"QUESTION"
            assert await client.receive_some() == b""


async def test_a_reset_is_passed_on_as_a_reset(open_relays: Any) -> None:
    seen: list[BaseException] = []

    async def wait_for_reset(stream: trio.SocketStream) -> None:
        async with stream:
            try:
                while await stream.receive_some():
                    pass
            except trio.BrokenResourceError as error:
                seen.append(error)

    async with open_relays(wait_for_reset) as relays:
        client = await relays.connect()
        await client.send_all(b"x")
        await until(lambda: relays.server_owner.ends and relays.server_owner.ends[0].received)
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.socket.close()
        await until(lambda: seen)


async def test_what_came_before_a_reset_arrives_before_it(open_relays: Any) -> None:
    received = bytearray()
    resets: list[BaseException] = []

    async def read_to_the_end(stream: trio.SocketStream) -> None:
        async with stream:
            try:
                async for chunk in stream:
                    received.extend(chunk)
            except trio.BrokenResourceError as error:
                resets.append(error)

    async with open_relays(read_to_the_end) as relays:
        client = await relays.connect()
        await until(lambda: relays.server_owner.ends and not relays.server_owner.ends[0].connecting)
        with socket.socket(fileno=client.socket.detach()) as plain:
            # Both before the relay has its next turn: it finds the reset together with the bytes.
            plain.send(b"last words")
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await until(lambda: resets)
        assert received == b"last words"
        assert "reset" in str(relays.closed[0].error)


@pytest.mark.parametrize("sent_ahead", [b"", b"nobody reads this"])
async def test_an_application_that_does_not_listen(open_relays: Any, sent_ahead: bytes) -> None:
    async with open_relays() as relays:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            relays.server_owner.port = unused.getsockname()[1]
            client = await relays.connect()
            await client.send_all(sent_ahead)
            await reset(client)
        await until(lambda: relays.closed)
        error = relays.closed[0].error
        assert isinstance(error, TunnelRefused)
        assert error.status == 503


async def test_a_refusal_carries_its_status(open_relays: Any) -> None:
    async with open_relays() as relays:
        relays.server_owner.status = 401
        relays.server_owner.port = 80
        client = await relays.connect()
        await reset(client)
        await until(lambda: relays.closed)
        assert isinstance(relays.closed[0].error, TunnelRefused)
        assert "AuthorizationPolicy" in str(relays.closed[0].error)


async def test_a_slow_reader_holds_the_writer_and_nobody_else(open_relays: Any) -> None:
    release = trio.Event()

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            if await stream.receive_some(4) == b"slow":
                await release.wait()
                async for _ in stream:
                    pass
            else:
                await stream.send_all(b"quick answer")

    async with open_relays(serve, HboneSettings(initial_stream_window=65536, max_stream_window=262144)) as relays:
        slow = await relays.connect()
        await slow.send_all(b"slow")
        written = 0

        async def write() -> None:
            nonlocal written
            while True:
                await slow.send_all(bytes(65536))
                written += 65536

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            await until(lambda: relays.server_owner.ends and relays.server_owner.ends[0].backlog, 20)
            await trio.sleep(0.3)
            nursery.cancel_scope.cancel()
        # What the writer could put away is bounded by the window and four socket buffers.
        assert written < 64 << 20
        backlog = relays.server_owner.ends[0].backlog
        assert backlog is not None
        assert len(backlog) <= 262144

        quick = await relays.connect()
        await quick.send_all(b"fast")
        with trio.fail_after(5):
            assert await quick.receive_some() == b"quick answer"
        release.set()


async def test_cutting_a_connection_resets_both_applications(open_relays: Any) -> None:
    async with open_relays(echo) as relays:
        client = await talking(relays)
        relays.server_owner.ends[0].cut(PolicyDenied("no longer"))
        await reset(client)


async def test_a_lost_tunnel_resets_its_connections(open_relays: Any) -> None:
    async with open_relays(echo) as relays:
        client = await talking(relays)
        relays.server.close(None)
        await reset(client)
        await until(lambda: relays.client_owner.lost_with)
        assert relays.client.closed


async def test_data_sent_before_the_answer_arrives(open_relays: Any) -> None:
    async with open_relays(echo) as relays:
        client = await relays.connect()
        await client.send_all(b"early" * 1000)
        await client.send_eof()
        answer = b""
        with trio.fail_after(5):
            async for chunk in client:
                answer += chunk
        assert answer == b"early" * 1000


async def test_what_is_over_keeps_nothing_alive(open_relays: Any) -> None:
    async with open_relays(echo) as relays:
        ended = await relays.connect()
        await ended.send_all(b"hello")
        await ended.send_eof()
        await until(lambda: relays.closed)
        torn = await relays.connect()
        await torn.send_all(b"hello")
        await until(lambda: len(relays.server_owner.ends) == 2 and relays.server_owner.ends[-1].received)
        torn.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        torn.socket.close()
        await until(lambda: len(relays.closed) == 2 and all(end.closed for end in relays.server_owner.ends))
        assert [end.stream.owner for end in (*relays.closed, *relays.server_owner.ends)] == [None] * 4
