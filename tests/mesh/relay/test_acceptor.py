from __future__ import annotations

import errno
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio

from mesh.addresses import PeerAddress, format_ip
from mesh.relay.acceptor import BATCH, Acceptor
from mesh.relay.engine import Engine
from mesh.relay.socket_end import RawSocket
from tests.mesh.relay.applications import until


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    made = Engine()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.run)
        yield made
        nursery.cancel_scope.cancel()
    made.close()


class Listener:
    """A real listener whose accept can be made to fail."""

    family = socket.AF_INET

    def __init__(self) -> None:
        self.sock = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.sock.setblocking(False)
        self.failures: list[int] = []

    def fileno(self) -> int:
        return self.sock.fileno()

    def accept(self) -> Any:
        if self.failures:
            raise OSError(self.failures.pop(0), "made up")
        return self.sock.accept()

    def _accept(self) -> Any:
        """What ``accept`` of a real socket rests on, and the acceptor calls."""
        if self.failures:
            raise OSError(self.failures.pop(0), "made up")
        sock: Any = self.sock
        return sock._accept()

    def close(self) -> None:
        self.sock.close()

    def dial(self) -> socket.socket:
        return socket.create_connection(self.sock.getsockname())


class Taken:
    def __init__(self) -> None:
        self.socks: list[RawSocket] = []
        self.fail = False

    def __call__(self, sock: RawSocket, peer: PeerAddress) -> None:
        self.socks.append(sock)
        assert format_ip(peer.ip) == "127.0.0.1"
        if self.fail:
            raise RuntimeError("surprise")

    def close(self) -> None:
        for sock in self.socks:
            sock.close()


async def made(engine: Engine) -> tuple[Listener, Taken, Acceptor]:
    listener: Any = Listener()
    taken = Taken()
    return listener, taken, Acceptor(engine, listener, taken)


async def test_more_than_a_batch_is_taken(engine: Engine) -> None:
    listener, taken, acceptor = await made(engine)
    clients = [listener.dial() for _ in range(BATCH * 2 + 3)]
    await until(lambda: len(taken.socks) == len(clients))
    acceptor.close()
    taken.close()
    for client in clients:
        client.close()
    assert engine.watched == 0


@pytest.mark.parametrize("code", [errno.ECONNABORTED, errno.EPERM, errno.EPROTO, errno.EHOSTUNREACH])
async def test_what_happened_to_one_connection_does_not_end_the_listener(engine: Engine, code: int) -> None:
    listener, taken, acceptor = await made(engine)
    listener.failures.append(code)
    with listener.dial():
        await until(lambda: taken.socks)
    acceptor.close()
    taken.close()


async def test_a_bug_with_one_connection_does_not_end_the_listener(engine: Engine) -> None:
    listener, taken, acceptor = await made(engine)
    taken.fail = True
    with listener.dial():
        await until(lambda: len(taken.socks) == 1)
        taken.fail = False
        with listener.dial():
            await until(lambda: len(taken.socks) == 2)
    acceptor.close()
    taken.close()


async def test_out_of_descriptors(engine: Engine) -> None:
    listener, taken, acceptor = await made(engine)
    before = Acceptor.out_of_descriptors
    listener.failures.append(errno.EMFILE)
    with listener.dial() as client:
        client.settimeout(2)
        with trio.fail_after(3):
            assert await trio.to_thread.run_sync(client.recv, 1) == b""  # refused, not left to hang
    assert Acceptor.out_of_descriptors == before + 1
    assert not taken.socks
    with listener.dial():
        await until(lambda: taken.socks)
    acceptor.close()
    taken.close()


async def test_those_who_have_connected_are_taken_before_it_closes(engine: Engine) -> None:
    listener, taken, acceptor = await made(engine)
    clients = [listener.dial() for _ in range(BATCH + 5)]
    assert not taken.socks  # the relay has not had its turn
    acceptor.close()
    assert len(taken.socks) == len(clients)
    with pytest.raises(OSError, match=r"Bad file|closed|refused|\[Errno"):
        listener.dial()
    taken.close()
    for client in clients:
        client.close()
