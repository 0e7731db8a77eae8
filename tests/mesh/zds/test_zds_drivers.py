"""Server and client over real SOCK_SEQPACKET sockets; hostile packets on either side."""

import array
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from mesh.errors import ConnectFailed, ConnectionLost, EnvironmentLacks, InvalidMessage
from mesh.netns import NetworkNamespace
from mesh.zds import packet_driver
from mesh.zds.client_driver import run_zds_client
from mesh.zds.codec import (
    AddWorkload,
    DeleteWorkload,
    KeepWorkload,
    SnapshotSent,
    WorkloadInfo,
    decode_acknowledgement,
    encode_acknowledgement,
    encode_hello,
    encode_request,
)
from mesh.zds.packet_driver import PacketSocket
from mesh.zds.server_driver import ZdsLimits, ZdsServer, ZtunnelAway, ZtunnelRefused
from tests.descriptors import open_descriptors, settled_descriptors

INFO = WorkloadInfo("client-1", "shop", "client")
OWN_NAMESPACE = "/proc/self/ns/net"


async def eventually(condition: Callable[[], bool]) -> None:
    with trio.fail_after(5):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await trio.sleep(0.005)


class RecordingHandler:
    """Does what a ztunnel does, on paper; closes namespaces as it must."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, ...]] = []
        self.refuse: dict[str, Exception] = {}
        self.inodes: list[int] = []
        self.disconnections = 0
        self.hold: trio.Event | None = None

    async def add(self, uid: str, info: WorkloadInfo, namespace: NetworkNamespace) -> None:
        if self.hold is not None:
            await self.hold.wait()
        if uid in self.refuse:
            raise self.refuse[uid]
        self.calls.append(("add", uid, info.name, info.namespace, info.service_account))
        self.inodes.append(namespace.inode)
        namespace.close()

    async def keep(self, uid: str) -> None:
        if uid in self.refuse:
            raise self.refuse[uid]
        self.calls.append(("keep", uid))

    async def delete(self, uid: str) -> None:
        self.calls.append(("delete", uid))

    async def snapshot_sent(self) -> None:
        self.calls.append(("snapshot",))

    def disconnected(self) -> None:
        self.disconnections += 1


@asynccontextmanager
async def serving(server: ZdsServer, path: Path) -> AsyncIterator[None]:
    with packet_driver.listen(path, socket.SOCK_SEQPACKET) as listener:
        async with trio.open_nursery() as nursery:
            await nursery.start(server.serve, listener)
            yield
            nursery.cancel_scope.cancel()
    server.close()


@asynccontextmanager
async def following(path: Path, handler: RecordingHandler) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_zds_client, path, handler)
        yield
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def by_hand(path: Path) -> AsyncIterator[PacketSocket]:
    packets = await packet_driver.connect(path)
    try:
        yield packets
    finally:
        packets.close()


async def test_a_snapshot_then_steady_adds_and_deletes(tmp_path: Path) -> None:
    server, handler = ZdsServer(), RecordingHandler()
    with NetworkNamespace.open(OWN_NAMESPACE) as namespace:
        server.remember("u1", INFO, namespace)
        server.keep("u2")
        async with serving(server, tmp_path / "z"), following(tmp_path / "z", handler):
            await eventually(lambda: ("snapshot",) in handler.calls)
            assert handler.calls == [("add", "u1", "client-1", "shop", "client"), ("keep", "u2"), ("snapshot",)]
            assert handler.inodes == [namespace.inode]
            await server.add("u3", INFO, namespace)
            await server.delete("u1")
            assert handler.calls[3:] == [("add", "u3", "client-1", "shop", "client"), ("delete", "u1")]
            assert sorted(server.uids()) == ["u2", "u3"]


async def test_who_is_not_admitted_is_told_nothing(tmp_path: Path) -> None:
    asked: list[int] = []

    async def admit(pid: int) -> None:
        asked.append(pid)
        if len(asked) == 1:
            raise EnvironmentLacks("somebody else")

    server, handler = ZdsServer(admit=admit), RecordingHandler()
    server.keep("u1")
    async with serving(server, tmp_path / "z"):
        async with by_hand(tmp_path / "z") as packets:
            await packets.send(encode_hello())
            assert await packets.receive() is None
        assert server.connected == 0
        async with following(tmp_path / "z", handler):
            await eventually(lambda: ("snapshot",) in handler.calls)
    assert asked == [os.getpid()] * 2


async def test_without_a_ztunnel_an_add_says_so_and_the_next_snapshot_has_the_pod(tmp_path: Path) -> None:
    server, handler = ZdsServer(), RecordingHandler()
    with NetworkNamespace.open(OWN_NAMESPACE) as namespace:
        async with serving(server, tmp_path / "z"):
            with pytest.raises(ZtunnelAway, match="ztunnel is not connected"):
                await server.add("u1", INFO, namespace)
            async with following(tmp_path / "z", handler):
                await eventually(lambda: ("snapshot",) in handler.calls)
                assert handler.calls[0][:2] == ("add", "u1")


async def test_an_error_acknowledgement_reaches_the_caller_whatever_its_kind(tmp_path: Path) -> None:
    refused: list[tuple[str, str]] = []
    server = ZdsServer(on_refused=lambda uid, reason: refused.append((uid, reason)))
    handler = RecordingHandler()
    # Errors that look like the connection's own or the codec's must not be taken for them.
    handler.refuse = {"u1": ConnectionLost("inside"), "u2": InvalidMessage("odd"), "u3": ConnectFailed("no listener")}
    with NetworkNamespace.open(OWN_NAMESPACE) as namespace:
        server.remember("u1", INFO, namespace)
        async with serving(server, tmp_path / "z"), following(tmp_path / "z", handler):
            await eventually(lambda: ("snapshot",) in handler.calls)
            assert refused == [("u1", "inside")]
            for uid, words in (("u1", "inside"), ("u2", "odd"), ("u3", "no listener")):
                with pytest.raises(ZtunnelRefused, match=words):
                    await server.add(uid, INFO, namespace)
            await server.add("u4", INFO, namespace)
            assert handler.disconnections == 0


async def test_no_descriptor_is_leaked_by_adds_refusals_and_reconnects(tmp_path: Path) -> None:
    server, handler = ZdsServer(), RecordingHandler()
    handler.refuse = {"bad": ConnectFailed("no")}
    before = settled_descriptors()
    with NetworkNamespace.open(OWN_NAMESPACE) as namespace:
        async with serving(server, tmp_path / "z"):
            for _ in range(2):
                async with following(tmp_path / "z", handler):
                    await eventually(lambda: server.connected == 1)
                    await server.add("good", INFO, namespace)
                    with pytest.raises(ZtunnelRefused):
                        await server.add("bad", INFO, namespace)
                await eventually(lambda: server.connected == 0)
    assert open_descriptors() == before


async def test_add_goes_to_the_newest_and_delete_to_all(tmp_path: Path) -> None:
    server, old, new = ZdsServer(), RecordingHandler(), RecordingHandler()
    with NetworkNamespace.open(OWN_NAMESPACE) as namespace:
        async with serving(server, tmp_path / "z"), following(tmp_path / "z", old):
            await eventually(lambda: server.connected == 1)
            async with following(tmp_path / "z", new):
                await eventually(lambda: ("snapshot",) in new.calls)
                await server.add("u1", INFO, namespace)
                await server.delete("u1")
            assert old.calls == [("snapshot",), ("delete", "u1")]
            assert [call[0] for call in new.calls] == ["snapshot", "add", "delete"]
            # The newest has gone: the one before it serves again.
            await eventually(lambda: server.connected == 1)
            await server.add("u2", INFO, namespace)
            assert old.calls[-1][:2] == ("add", "u2")


async def test_a_ztunnel_that_dies_while_it_is_asked_fails_the_caller_at_once(tmp_path: Path) -> None:
    server = ZdsServer()
    outcome: list[str] = []

    async def add() -> None:
        with NetworkNamespace.open(OWN_NAMESPACE) as namespace, pytest.raises(ZtunnelAway) as raised:
            await server.add("u1", INFO, namespace)
        outcome.append(str(raised.value))

    async with serving(server, tmp_path / "z"), trio.open_nursery() as nursery:
        async with by_hand(tmp_path / "z") as packets:
            await packets.send(encode_hello())
            assert await packets.receive() is not None
            await packets.send(encode_acknowledgement())
            await eventually(lambda: server.connected == 1)
            nursery.start_soon(add)
            packet = await packets.receive()
            assert packet is not None
            packet.close()
        with trio.fail_after(2):
            await eventually(lambda: len(outcome) == 1)


async def test_a_ztunnel_that_never_acknowledges_is_given_up(tmp_path: Path) -> None:
    server = ZdsServer(ZdsLimits(acknowledgement=0.1))
    async with serving(server, tmp_path / "z"), by_hand(tmp_path / "z") as packets:
        await packets.send(encode_hello())
        assert await packets.receive() is not None
        with trio.fail_after(2):
            assert await packets.receive() is None


@pytest.mark.parametrize(
    "first", [b"\xff\xff\xff", b"", b"\x08\x09", b"x" * 2000], ids=["garbage", "nothing", "version", "long"]
)
async def test_a_bad_hello_ends_that_connection_only(tmp_path: Path, first: bytes) -> None:
    server, handler = ZdsServer(ZdsLimits(hello=0.2)), RecordingHandler()
    async with serving(server, tmp_path / "z"):
        async with by_hand(tmp_path / "z") as packets:
            if first:
                await packets.send(first)
            with trio.fail_after(2):
                assert await packets.receive() is None
        async with following(tmp_path / "z", handler):
            await eventually(lambda: ("snapshot",) in handler.calls)


async def test_an_acknowledgement_nobody_asked_for_ends_that_connection(tmp_path: Path) -> None:
    server = ZdsServer()
    async with serving(server, tmp_path / "z"), by_hand(tmp_path / "z") as packets:
        await packets.send(encode_hello())
        assert await packets.receive() is not None
        await packets.send(encode_acknowledgement())
        await packets.send(encode_acknowledgement())
        with trio.fail_after(2):
            assert await packets.receive() is None


async def test_reconnects_are_slowed(tmp_path: Path) -> None:
    server = ZdsServer(ZdsLimits(connections_per_second=20))
    async with serving(server, tmp_path / "z"):
        begin = trio.current_time()
        for _ in range(5):
            async with by_hand(tmp_path / "z") as packets:
                await packets.send(encode_hello())
                assert await packets.receive() is not None
        assert trio.current_time() - begin >= 4 / 20


async def test_more_connections_than_allowed_are_closed(tmp_path: Path) -> None:
    server = ZdsServer(ZdsLimits(connections=1, connections_per_second=1000))
    async with serving(server, tmp_path / "z"), by_hand(tmp_path / "z") as first:
        await first.send(encode_hello())
        assert await first.receive() is not None
        async with by_hand(tmp_path / "z") as second:
            with trio.fail_after(2):
                assert await second.receive() is None


async def ask(agent: trio.socket.SocketType, data: bytes, descriptors: list[int]) -> str:
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors).tobytes())] if descriptors else []
    await agent.sendmsg([data], rights)
    with trio.fail_after(5):
        return decode_acknowledgement(await agent.recv(1024))


@asynccontextmanager
async def hand_agent(path: Path, handler: RecordingHandler) -> AsyncIterator[trio.socket.SocketType]:
    """The client under test, its agent played by hand."""
    with packet_driver.listen(path, socket.SOCK_SEQPACKET) as listener:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_zds_client, path, handler)
            accepted, _ = await listener.accept()
            with accepted:
                assert await accepted.recv(1024) == encode_hello()
                yield accepted
            nursery.cancel_scope.cancel()


ADD = encode_request(AddWorkload("u1", INFO))


@pytest.mark.parametrize(
    ("data", "descriptors", "words"),
    [
        (ADD, 0, "0 descriptors"),
        (ADD, 2, "2 descriptors"),
        (ADD, 9, "descriptors were cut"),
        (ADD + b"\x00" * 2000, 1, "data were cut"),
        (encode_request(DeleteWorkload("u1")), 1, "1 descriptors"),
        (encode_request(KeepWorkload("u1")), 1, "1 descriptors"),
        (encode_request(SnapshotSent()), 1, "1 descriptors"),
        (b"\xff\xff\xff\xff", 1, "not a WorkloadRequest"),
        (b"\x7a\x00", 0, "no known kind"),
    ],
    ids=["none", "two", "nine", "truncated", "del-fd", "keep-fd", "snapshot-fd", "garbage", "unknown"],
)
async def test_a_bad_packet_is_refused_and_the_next_one_served(
    tmp_path: Path, data: bytes, descriptors: int, words: str
) -> None:
    handler = RecordingHandler()
    async with hand_agent(tmp_path / "z", handler) as agent:
        with NetworkNamespace.open(OWN_NAMESPACE) as namespace:
            before = settled_descriptors()
            assert words in await ask(agent, data, [namespace.fd] * descriptors)
            assert open_descriptors() == before
            assert handler.calls == []
            assert await ask(agent, ADD, [namespace.fd]) == ""
            assert handler.calls == [("add", "u1", "client-1", "shop", "client")]
            assert open_descriptors() == before


@pytest.mark.parametrize("path", ["/dev/null", "/proc/self/ns/mnt"])
async def test_a_descriptor_that_is_no_network_namespace_is_refused(tmp_path: Path, path: str) -> None:
    handler = RecordingHandler()
    async with hand_agent(tmp_path / "z", handler) as agent:
        with NetworkNamespace.open(path) as pretender:
            assert "no network namespace" in await ask(agent, ADD, [pretender.fd])
    assert handler.calls == []


async def test_a_stream_of_bad_packets_makes_the_client_reconnect(tmp_path: Path) -> None:
    handler = RecordingHandler()
    async with hand_agent(tmp_path / "z", handler) as agent:
        for _ in range(17):
            await agent.send(b"\xff\xff")
        await eventually(lambda: handler.disconnections == 1)


async def test_the_client_waits_for_an_agent_and_comes_back_to_it(tmp_path: Path) -> None:
    handler = RecordingHandler()
    async with following(tmp_path / "z", handler):
        await trio.sleep(0.1)
        async with serving(ZdsServer(), tmp_path / "z"):
            await eventually(lambda: handler.calls.count(("snapshot",)) == 1)
        await eventually(lambda: handler.disconnections == 1)
        async with serving(ZdsServer(), tmp_path / "z"):
            await eventually(lambda: handler.calls.count(("snapshot",)) == 2)
        await eventually(lambda: handler.disconnections == 2)


async def test_a_pod_deleted_during_the_snapshot_is_deleted_afterwards(tmp_path: Path) -> None:
    server, handler = ZdsServer(), RecordingHandler()
    handler.hold = trio.Event()
    with NetworkNamespace.open(OWN_NAMESPACE) as namespace:
        server.remember("u1", INFO, namespace)
        server.remember("u2", INFO, namespace)
        async with serving(server, tmp_path / "z"), following(tmp_path / "z", handler):
            await eventually(lambda: server.connected == 1)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.delete, "u1")
                nursery.start_soon(server.delete, "u2")
                await trio.sleep(0.02)
                handler.hold.set()
            assert [call[:2] for call in handler.calls] == [
                ("add", "u1"),
                ("snapshot",),
                ("delete", "u1"),
                ("delete", "u2"),
            ] or [call[:2] for call in handler.calls][2:] == [("delete", "u2"), ("delete", "u1")]
