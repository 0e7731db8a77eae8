from __future__ import annotations

import gc
import socket
import struct
from typing import Any

import pytest
import trio

from mesh.addresses import SocketAddress, parse_ip, parse_socket_address
from mesh.model.policy import Match, PolicyAction
from mesh.model.workload import TunnelProtocol
from mesh.testing.model import make_policy, make_service
from ztunnel.proxy import descriptions as descriptions_module

OURS = ("mesh.", "ztunnel.", "ebpf.", "_socket")


def gate(kit: Any) -> int:
    """Where the connect program would send what the client's pod dials."""
    port: int = kit.listen(lambda sock, peer: kit.outbound.accepted(kit.client, kit.pool, sock, peer), "127.0.0.1")
    return port


async def dialled(port: int) -> trio.SocketStream:
    plain = socket.create_connection(("127.0.0.1", port), source_address=("127.0.0.3", 0))
    return trio.SocketStream(trio.socket.from_stdlib_socket(plain))


async def refused(stream: trio.SocketStream) -> None:
    with trio.fail_after(5), pytest.raises(trio.BrokenResourceError):
        await stream.receive_some()
    await stream.aclose()


async def exchanged(stream: trio.SocketStream, text: bytes) -> None:
    await stream.send_all(text)
    with trio.fail_after(5):
        assert await stream.receive_some() == text


async def test_through_a_tunnel(kit: Any) -> None:
    kit.describe(kit.server, kit.client)
    port = await kit.application(kit.echo)
    kit.serve_hbone()
    kit.originals.destination = SocketAddress(parse_ip("127.0.0.2"), port)
    listening = gate(kit)
    async with await dialled(listening) as stream:
        source = stream.socket.getsockname()[1]
        await exchanged(stream, b"hello")
        async with await dialled(listening) as second:
            await exchanged(second, b"over the same tunnel")
            assert len(kit.pool) == 1
        await kit.until(lambda: len(kit.log.lines) == 2)
        kit.log.lines.clear()
        await stream.send_eof()
        with trio.fail_after(5):
            assert await stream.receive_some() == b""
    await kit.until(lambda: len(kit.log.lines) == 2)
    (outbound,) = [line for line in kit.log.lines if 'direction="outbound"' in line]
    (inbound,) = [line for line in kit.log.lines if 'direction="inbound"' in line]
    for line in (outbound, inbound):
        assert f"src.addr=127.0.0.3:{source} " in line
        assert 'src.identity="spiffe://cluster.local/ns/demo/sa/client"' in line
        assert 'dst.identity="spiffe://cluster.local/ns/demo/sa/server"' in line
        assert f"dst.hbone_addr=127.0.0.2:{port}" in line
        assert "bytes_sent=5 bytes_recv=5" in line
    assert kit.metric("istio_tcp_connections_opened_total", reporter="source") == 2
    assert kit.metric("istio_tcp_connections_closed_total", reporter="source") == 2
    assert kit.metric("istio_tcp_sockets_open") == 0


async def test_by_a_service(kit: Any) -> None:
    kit.describe(kit.client)
    port = await kit.application(kit.echo)
    kit.serve_hbone()
    kit.tell(
        make_service("web", "10.96.0.9", ports={80: port}, namespace="demo"),
        kit.workload(kit.server, services={"demo/web.demo.svc.cluster.local": {80: port}}),
    )
    kit.descriptions.follow(kit.server)
    kit.originals.destination = parse_socket_address("10.96.0.9:80")
    async with await dialled(gate(kit)) as stream:
        await exchanged(stream, b"hello")
    await kit.until(lambda: len(kit.log.lines) == 2)
    (outbound,) = [line for line in kit.log.lines if 'direction="outbound"' in line]
    assert 'dst.service="web.demo.svc.cluster.local"' in outbound
    assert kit.metric("istio_tcp_connections_opened_total", destination_service_name="web") == 1


async def test_bytes_are_counted_as_the_server_sees_them(kit: Any) -> None:
    async def answer(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            await stream.send_all(b"a longer answer")

    kit.describe(kit.client)
    port = await kit.application(answer)
    kit.originals.destination = SocketAddress(parse_ip("127.0.0.2"), port)
    async with await dialled(gate(kit)) as stream:
        await stream.send_all(b"short")
        with trio.fail_after(5):
            assert await stream.receive_some() == b"a longer answer"
    await kit.record("bytes_sent=5 bytes_recv=15", 'no_mtls="destination_unknown"')
    assert kit.metric("istio_tcp_sent_bytes_total", reporter="source") == 15
    assert kit.metric("istio_tcp_received_bytes_total", reporter="source") == 5


async def test_a_workload_outside_the_mesh(kit: Any) -> None:
    kit.describe(kit.client)
    port = await kit.application(kit.echo)
    kit.tell(kit.workload(kit.server, tunnel_protocol=TunnelProtocol.NONE))
    kit.originals.destination = SocketAddress(parse_ip("127.0.0.2"), port)
    async with await dialled(gate(kit)) as stream:
        await exchanged(stream, b"hello")
    await kit.record('no_mtls="destination_not_enrolled"', 'dst.workload="server"')


@pytest.mark.parametrize(
    ("dialled_address", "flag", "reason"),
    [
        (None, "-", "dialled a port of the mesh itself"),
        ("127.0.0.1:15001", "-", "dialled a port of the mesh itself"),
        ("[::1]:15008", "-", "dialled a port of the mesh itself"),
        ("10.1.1.1:15006", "-", "ztunnel's own port in pod demo/far"),
        ("10.96.0.9:81", "CONNECT", "has no port 81"),
        ("10.96.0.9:80", "CONNECT", "has no endpoints"),
        ("127.0.0.4:1", "CONNECT", "cannot connect"),
    ],
)
async def test_destinations_that_cannot_be(kit: Any, dialled_address: str | None, flag: str, reason: str) -> None:
    kit.describe(kit.client, kit.server)
    kit.tell(make_service("web", "10.96.0.9", namespace="demo"), kit.workload(kit.pod("far", "10.1.1.1")))
    if dialled_address is not None:
        kit.originals.destination = parse_socket_address(dialled_address)
    await refused(await dialled(gate(kit)))
    await kit.record("error access", 'direction="outbound"', reason)
    assert kit.metric("istio_tcp_connections_failed_total", response_flags=flag, reporter="source") == 1


async def test_a_tunnel_that_cannot_be_had(kit: Any) -> None:
    kit.describe(kit.client, kit.server)
    kit.serve_hbone()
    kit.contexts.others[kit.server.identity] = kit.authority.issue(kit.authority.identity("demo", "other"))
    kit.originals.destination = parse_socket_address("127.0.0.2:80")
    await refused(await dialled(gate(kit)))
    await kit.until(lambda: any("expected spiffe" in line for line in kit.log.lines))
    (outbound,) = [line for line in kit.log.lines if 'direction="outbound"' in line]
    assert "dst.identity" not in outbound
    assert kit.metric("istio_tcp_connections_failed_total", response_flags="TLS_FAILURE", reporter="source") == 1


async def test_a_refusal_at_the_far_end(kit: Any) -> None:
    kit.describe(kit.client, kit.server)
    kit.policies(make_policy("no", Match(destination_ports=(80,)), namespace="demo", action=PolicyAction.DENY))
    kit.serve_hbone()
    kit.originals.destination = parse_socket_address("127.0.0.2:80")
    await refused(await dialled(gate(kit)))
    await kit.until(lambda: len(kit.log.lines) == 2)
    (outbound,) = [line for line in kit.log.lines if 'direction="outbound"' in line]
    assert "http status: 401" in outbound
    assert 'dst.identity="spiffe://cluster.local/ns/demo/sa/server"' in outbound


async def test_a_pod_without_an_address_of_the_family(kit: Any) -> None:
    kit.describe(kit.client)
    kit.tell(kit.workload(kit.pod("six", "fd00::2")))
    kit.originals.destination = parse_socket_address("[fd00::2]:80")
    await refused(await dialled(gate(kit)))
    await kit.record("no address of the family")


async def test_nothing_leaves_before_the_control_plane_has_spoken(kit: Any) -> None:
    """What looks like no workload of the mesh may only be one not heard of yet."""
    kit.descriptions.follow(kit.client)
    port = await kit.application(kit.echo)
    kit.originals.destination = SocketAddress(parse_ip("127.0.0.2"), port)
    kit.tell(kit.workload(kit.client))
    async with await dialled(gate(kit)) as stream:
        await stream.send_all(b"early")
        await kit.until(lambda: len(kit.table))
        await trio.sleep(0.02)
        assert not kit.client.namespace.made
        kit.policies()
        with trio.fail_after(5):
            assert await stream.receive_some() == b"early"


async def test_a_pod_that_nobody_describes(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descriptions_module, "WAIT_SECONDS", 0.02)
    kit.descriptions.follow(kit.client)
    kit.originals.destination = parse_socket_address("127.0.0.2:80")
    await refused(await dialled(gate(kit)))
    await kit.record("has not described pod demo/client")


@pytest.mark.parametrize("when", ["before it is described", "while the tunnel is dialled"])
async def test_a_pod_that_goes_meanwhile(kit: Any, when: str) -> None:
    silent = socket.create_server(("127.0.0.2", 0))
    if when.startswith("while"):
        kit.describe(kit.client, kit.server)
        kit.pool.port = silent.getsockname()[1]
    else:
        kit.descriptions.follow(kit.client)
    kit.originals.destination = parse_socket_address("127.0.0.2:80")
    stream = await dialled(gate(kit))
    await kit.until(lambda: len(kit.table))
    await trio.testing.wait_all_tasks_blocked()
    kit.client.tasks.stop()
    await refused(stream)
    await kit.record("no longer served")
    silent.close()


@pytest.mark.parametrize("where", ["take", "pool"])
async def test_a_bug_costs_its_connection_only(kit: Any, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kit.describe(kit.client, kit.server)
    port = await kit.application(kit.echo)
    kit.serve_hbone()
    kit.originals.destination = SocketAddress(parse_ip("127.0.0.2"), port)
    listening = gate(kit)
    with monkeypatch.context() as patch:
        if where == "take":
            patch.setattr(kit.originals, "failure", RuntimeError("surprise"))
        else:
            patch.setattr(kit.pool, "_open", None)
        await refused(await dialled(listening))
    await kit.record("a bug of this proxy")
    async with await dialled(listening) as stream:
        await exchanged(stream, b"hello")


async def test_what_is_over_leaves_nothing_to_the_collector(kit: Any) -> None:
    """Circles would fill memory between two collections, and no cache holds what is never used again."""
    kit.describe(kit.server, kit.client)
    port = await kit.application(kit.echo)
    kit.serve_hbone()
    kit.originals.destination = SocketAddress(parse_ip("127.0.0.2"), port)
    listening = gate(kit)

    async def connections(count: int) -> None:
        for number in range(count):
            stream = await dialled(listening)
            await exchanged(stream, b"hello")
            if number % 2:
                await stream.send_eof()
                with trio.fail_after(5):
                    assert await stream.receive_some() == b""
            else:
                stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await stream.aclose()
        await kit.until(lambda: len(kit.table) == 0)

    await connections(4)
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        await connections(8)
        gc.collect()
        left = {type(found).__qualname__ for found in gc.garbage if type(found).__module__.startswith(OURS)}
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
    assert not left
