from __future__ import annotations

import array
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from ebpf.listeners import socket_cookie
from mesh.errors import ConnectionLost, InvalidMessage
from tests.descriptors import open_descriptors, settled_descriptors
from ztunnel.fanout import channel_driver
from ztunnel.fanout.channel_driver import Channel, channel_pair
from ztunnel.fanout.packets_machine import PACKET_BYTES


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[Channel, Channel]]:
    one, other = channel_pair()
    with Channel(one) as here, Channel(other) as there:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(here.run)
            nursery.start_soon(there.run)
            yield here, there
            nursery.cancel_scope.cancel()


async def test_messages_long_and_short_with_and_without_descriptors() -> None:
    async with connected() as (here, there):
        with socket.socket() as passed:
            cookie = socket_cookie(passed.fileno())
            here.send(b"first")
            here.send(bytes(300_000), passed.fileno())
            here.send(b"")
        with trio.fail_after(5):
            assert await there.receive() == (b"first", None)
            message, descriptor = await there.receive()
            assert len(message) == 300_000
            assert descriptor is not None
            assert socket_cookie(descriptor) == cookie
            os.close(descriptor)
            assert await there.receive() == (b"", None)
            there.send(b"back")
            assert await here.receive() == (b"back", None)


async def test_sent_returns_when_nothing_waits() -> None:
    async with connected() as (here, there):
        here.send(b"x" * 1_000_000)
        with trio.move_on_after(0.05) as scope:
            await here.sent()
        assert scope.cancelled_caught  # nobody has read, and the socket holds less
        async with trio.open_nursery() as nursery:
            nursery.start_soon(there.receive)
            with trio.fail_after(5):
                await here.sent()


async def test_the_end_of_the_other_side_is_told() -> None:
    async with connected() as (here, there):
        there.send(b"last words")
        await there.sent()
        there.close()
        with trio.fail_after(5):
            assert await here.receive() == (b"last words", None)
            with pytest.raises(ConnectionLost, match="ended"):
                await here.receive()
        here.send(b"into the void")


async def test_who_does_not_read_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_driver, "MAX_WAITING_BYTES", 1000)
    before = settled_descriptors()
    one, other = channel_pair()
    with other, Channel(one) as here:
        here.send(b"x" * 600, other.fileno())
        here.send(b"x" * 600, other.fileno())
        with pytest.raises(ConnectionLost, match="1000 bytes wait"), trio.fail_after(5):
            await here.receive()
    assert open_descriptors() == before  # descriptors that were to be sent are not left behind


async def test_packets_that_make_no_sense_end_it() -> None:
    before = settled_descriptors()
    for packet, descriptors in ((b"\x07", 0), (bytes(PACKET_BYTES + 1), 0), (b"\x01x", 1), (b"\x00", 2)):
        one, other = channel_pair()
        with other, Channel(one) as here:
            rights = array.array("i", [other.fileno()] * descriptors).tobytes()
            other.sendmsg([packet], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if descriptors else [])
            with pytest.raises(InvalidMessage), trio.fail_after(5):
                await here.receive()
    assert open_descriptors() == before
