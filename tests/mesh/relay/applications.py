"""Applications at the two ends of relays, and how a test waits for what the relays make of what they say."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import pytest
import trio

PATIENCE = 60.0
"""Seconds: far more than anything here takes, also in the virtual machine of ``tests/vm``."""


class Relays(Protocol):
    """What joins a client's application and the server's."""

    async def connect(self) -> trio.SocketStream: ...


async def echo(stream: trio.SocketStream) -> None:
    """The server's application: says what it hears, until the client has nothing more to say or resets."""
    try:
        async with stream:
            async for chunk in stream:
                await stream.send_all(chunk)
    except trio.BrokenResourceError:
        pass


async def until(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 -- the relay has no events to wait for
            await trio.sleep(0.002)


async def says(client: trio.SocketStream, words: bytes) -> None:
    """Something to ``echo``, which is heard again."""
    await client.send_all(words)
    with trio.fail_after(PATIENCE):
        assert await client.receive_some() == words


async def talking(relays: Relays) -> trio.SocketStream:
    """A client of ``echo`` whose connection is there."""
    client = await relays.connect()
    await says(client, b"hello")
    return client


async def reset(client: trio.SocketStream) -> None:
    """Wait for it."""
    with trio.fail_after(PATIENCE), pytest.raises(trio.BrokenResourceError):
        await client.receive_some()


@contextmanager
def unanswered() -> Iterator[Any]:
    """An address on loopback at which a dial neither succeeds nor fails: the listener's queue is full."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        try:
            yield full.getsockname()
        finally:
            for filler in fillers:
                filler.close()
