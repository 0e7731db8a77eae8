"""One pod being served: what a drain leaves, what a close ends."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from mesh.addresses import parse_ip, parse_socket_address
from mesh.errors import Draining, MeshError
from mesh.relay.engine import Engine
from mesh.relay.socket_end import RawSocket
from mesh.telemetry.access_log import AccessLog
from mesh.telemetry.metrics import L4Metrics, new_registry
from mesh.zds.codec import WorkloadInfo
from ztunnel.inpod import server as server_module
from ztunnel.inpod.server import PodServer
from ztunnel.pod import Pod, PodTasks
from ztunnel.proxy.connections import Connection, ConnectionTable
from ztunnel.proxy.terminator import SETTLE_SECONDS


class Listeners:
    """Three listeners on ports of the kernel's choice."""

    made: list[Listeners]

    def __init__(self, _pod: Pod, _table: object) -> None:
        self.outbound, self.plaintext, self.hbone = ([self._listen()] for _ in range(3))
        self.made.append(self)

    @staticmethod
    def _listen() -> socket.socket:
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        return listener

    def all(self) -> list[socket.socket]:
        return self.outbound + self.plaintext + self.hbone

    def close(self) -> None:
        for listener in self.all():
            listener.close()


class Accepted:
    """A proxy that keeps what it is given."""

    def __init__(self) -> None:
        self.socks: list[RawSocket] = []

    def accepted(self, *arguments: Any) -> None:
        (sock,) = [one for one in arguments if isinstance(one, RawSocket)]
        self.socks.append(sock)


class End:
    sent = received = 0

    def __init__(self, table: ConnectionTable, connection: Connection) -> None:
        self.table, self.connection = table, connection

    def cut(self, error: MeshError) -> None:
        self.table.finished(self.connection, error)


class Lines:
    lines: list[bytes]

    def __init__(self) -> None:
        self.lines = []

    def write(self, line: bytes) -> None:
        self.lines.append(line)


@asynccontextmanager
async def served(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[PodServer, Any]]:
    Listeners.made = []
    monkeypatch.setattr(server_module, "PodListeners", Listeners)
    engine = Engine()
    lines: Any = Lines()
    outbound: Any = Accepted()
    plaintext: Any = Accepted()
    closed: list[str] = []
    forgotten: list[str] = []
    namespace: Any = SimpleNamespace(cookie=lambda: 1, close=lambda: closed.append("namespace"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(engine.run)
        table = ConnectionTable(L4Metrics(new_registry("ztunnel", "0")), AccessLog("text", "info", lines))
        proxies: Any = SimpleNamespace(
            engine=engine,
            contexts=None,
            listener_table=None,
            connections=table,
            deliverer=SimpleNamespace(forget=lambda pod: forgotten.append(pod.name)),
            workers=1,
            outbound=outbound,
            inbound=None,
            plaintext=plaintext,
        )
        pod = Pod(
            "u1",
            WorkloadInfo("web", "demo", "web"),
            namespace,
            [parse_ip("127.0.0.1")],
            "cluster.local",
            PodTasks(nursery, engine),
        )
        kept = SimpleNamespace(
            engine=engine, table=table, outbound=outbound, plaintext=plaintext, closed=closed, lines=lines.lines
        )
        server = PodServer(pod, proxies)
        yield server, kept
        server.close()
        nursery.cancel_scope.cancel()
    assert engine.watched == 0
    engine.close()
    for sock in outbound.socks + plaintext.socks:
        sock.close()


def live(server: PodServer, kept: Any) -> Connection:
    connection: Connection = kept.table.begin(
        server.pod, "inbound", parse_socket_address("10.0.0.9:1"), parse_socket_address("127.0.0.1:80")
    )
    connection.end = End(kept.table, connection)
    return connection


async def test_each_listener_leads_to_its_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    async with served(monkeypatch) as (server, kept):
        (listeners,) = Listeners.made
        assert server.listening
        with (
            socket.create_connection(listeners.outbound[0].getsockname()),
            socket.create_connection(listeners.plaintext[0].getsockname()),
            trio.fail_after(2),
        ):
            while not (kept.outbound.socks and kept.plaintext.socks):  # noqa: ASYNC110 -- the relay has no events
                await trio.sleep(0.001)


async def test_a_drain_leaves_what_is_established(monkeypatch: pytest.MonkeyPatch) -> None:
    async with served(monkeypatch) as (server, kept):
        connection = live(server, kept)
        assert not server.idle
        server.drain()
        server.drain()
        assert not server.listening
        assert all(listener.fileno() == -1 for listener in Listeners.made[0].all())
        kept.engine.now += SETTLE_SECONDS * 2
        assert not server.idle
        kept.table.finished(connection, None)
        assert server.idle
        server.tick(kept.engine.now)
        server.renewed()


async def test_it_is_not_over_before_peers_have_read_that_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    async with served(monkeypatch) as (server, kept):
        server.drain()
        assert not server.idle
        kept.engine.now += SETTLE_SECONDS * 2
        assert server.idle


async def test_closing_ends_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    async with served(monkeypatch) as (server, kept):
        live(server, kept)
        other = SimpleNamespace(name="other")
        somebody_elses = kept.table.begin(
            other, "inbound", parse_socket_address("10.0.0.9:1"), parse_socket_address("10.0.0.1:80")
        )
        server.close()
        assert list(kept.table) == [somebody_elses]
        assert str(Draining("ztunnel is shutting down")).encode() in kept.lines[0]
        assert kept.closed == ["namespace"]
        kept.table.finished(somebody_elses, None)


async def test_listeners_that_cannot_be_watched_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    class Acceptor:
        def __init__(self, engine: Engine, listener: socket.socket, accepted: object) -> None:
            if len(made) == 2:
                raise OSError(24, "Too many open files")
            self.listener = listener
            made.append(self)

        def close(self) -> None:
            self.listener.close()

    monkeypatch.setattr(server_module, "Acceptor", Acceptor)
    with pytest.raises(ExceptionGroup) as caught:
        async with served(monkeypatch):
            pytest.fail("it was made")
    assert caught.value.subgroup(OSError) is not None
    assert all(listener.fileno() == -1 for listener in Listeners.made[0].all())
