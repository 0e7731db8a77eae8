from __future__ import annotations

import socket
from typing import Any

import pytest
import trio

from mesh.addresses import SocketAddress, parse_ip
from mesh.model.policy import Match, PolicyAction, StringMatch, StringMatchKind
from mesh.testing.model import make_policy
from ztunnel.proxy import descriptions as descriptions_module

ANYBODY = (StringMatch(StringMatchKind.PRESENCE, ""),)
STRICT = make_policy("strict", Match(not_principals=ANYBODY), namespace="demo", action=PolicyAction.DENY)


def gate(kit: Any, application: int, host: str = "127.0.0.2") -> int:
    """Where strangers arrive; the application listens elsewhere, which in a pod only a ticket tells apart."""
    kit.server.namespace.redirect = SocketAddress(parse_ip("127.0.0.2"), application)
    port: int = kit.listen(lambda sock, peer: kit.plaintext.accepted(kit.server, sock, peer), host)
    return port


async def dialled(port: int, host: str = "127.0.0.2") -> trio.SocketStream:
    plain = socket.create_connection((host, port), source_address=("127.0.0.9", 0))
    return trio.SocketStream(trio.socket.from_stdlib_socket(plain))


async def refused(stream: trio.SocketStream) -> None:
    with trio.fail_after(5), pytest.raises(trio.BrokenResourceError):
        await stream.receive_some()
    await stream.aclose()


async def test_an_admitted_connection(kit: Any) -> None:
    kit.describe(kit.server)
    port = gate(kit, await kit.application(kit.echo))
    async with await dialled(port) as stream:
        source = stream.socket.getsockname()[1]
        await stream.send_all(b"hello there")
        with trio.fail_after(5):
            assert await stream.receive_some() == b"hello there"
        assert kit.metric("istio_tcp_sockets_open", reporter="destination") == 1
        await stream.send_eof()
        with trio.fail_after(5):
            assert await stream.receive_some() == b""
    line = await kit.record(
        "info access connection complete",
        f"src.addr=127.0.0.9:{source} ",
        f"dst.addr=127.0.0.2:{port}",
        'no_mtls="client_sent_plaintext"',
        "bytes_sent=11 bytes_recv=11",
    )
    assert "identity" not in line
    assert [str(client) for client in kit.deliveries.announced] == [f"127.0.0.9:{source}"]
    assert kit.metric("istio_tcp_received_bytes_total", connection_security_policy="unknown") == 11


async def test_bytes_are_named_from_the_servers_side(kit: Any) -> None:
    async def answer(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            await stream.send_all(b"a longer answer")

    kit.describe(kit.server)
    port = gate(kit, await kit.application(answer))
    async with await dialled(port) as stream:
        await stream.send_all(b"short")
        with trio.fail_after(5):
            assert await stream.receive_some() == b"a longer answer"
    await kit.record("bytes_sent=15 bytes_recv=5")
    assert kit.metric("istio_tcp_sent_bytes_total") == 15
    assert kit.metric("istio_tcp_received_bytes_total") == 5


async def test_strict_refuses_and_cuts(kit: Any) -> None:
    kit.describe(kit.server)
    port = gate(kit, await kit.application(kit.echo))
    stream = await dialled(port)
    await stream.send_all(b"x")
    with trio.fail_after(5):
        await stream.receive_some()
    kit.policies(STRICT)
    await refused(stream)
    await kit.record("error", "due to policy change")
    kit.log.lines.clear()
    await refused(await dialled(port))
    await kit.record("error", 'no_mtls="client_sent_plaintext"')
    assert kit.metric("istio_tcp_connections_failed_total", response_flags="DENY") == 2
    assert len(kit.deliveries.announced) == 1


async def test_an_address_that_is_not_the_pods(kit: Any) -> None:
    kit.describe(kit.server)
    await refused(await dialled(gate(kit, 1, "127.0.0.4"), "127.0.0.4"))
    await kit.record("not an address of pod demo/server")


async def test_a_port_of_the_mesh(kit: Any) -> None:
    """Also one taken because ours was held: a delivery there would come back here, and be delivered again."""
    kit.describe(kit.server)
    port = gate(kit, 1)
    kit.server.mesh_ports |= {port}
    await refused(await dialled(port))
    await kit.record("which is the mesh's own")


async def test_an_application_that_does_not_listen(kit: Any) -> None:
    kit.describe(kit.server)
    await refused(await dialled(gate(kit, 1)))
    await kit.record("cannot connect: Connection refused")
    assert kit.metric("istio_tcp_connections_failed_total", response_flags="CONNECT") == 1
    assert kit.engine.watched == len(kit.acceptors)


async def test_waiting_to_be_described(kit: Any) -> None:
    kit.descriptions.follow(kit.server)
    port = gate(kit, await kit.application(kit.echo))
    async with await dialled(port) as stream:
        await stream.send_all(b"early")
        await kit.until(lambda: len(kit.table))
        await trio.sleep(0.02)
        assert not kit.deliveries.announced
        kit.describe(kit.server)
        with trio.fail_after(5):
            assert await stream.receive_some() == b"early"


async def test_never_described(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descriptions_module, "WAIT_SECONDS", 0.02)
    kit.descriptions.follow(kit.server)
    await refused(await dialled(gate(kit, 1)))
    await kit.record("has not described pod demo/server")


async def test_policies_that_have_not_come(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Described, but what forbids the connection may still be on its way: refused."""
    monkeypatch.setattr(descriptions_module, "WAIT_SECONDS", 0.02)
    kit.tell(kit.workload(kit.server))
    kit.descriptions.follow(kit.server)
    await refused(await dialled(gate(kit, 1)))
    await kit.record("error=")
    assert not kit.deliveries.announced


async def test_a_pod_that_goes_meanwhile(kit: Any) -> None:
    kit.descriptions.follow(kit.server)
    stream = await dialled(gate(kit, 1))
    await kit.until(lambda: len(kit.table))
    kit.server.tasks.stop()
    await refused(stream)
    await kit.record("no longer served")


@pytest.mark.parametrize("described", [True, False])
async def test_a_bug_costs_its_connection_only(kit: Any, described: bool) -> None:
    if described:
        kit.describe(kit.server)
    else:
        kit.descriptions.follow(kit.server)
    kit.deliveries.failure = RuntimeError("surprise")
    port = gate(kit, await kit.application(kit.echo))
    stream = await dialled(port)
    if not described:
        await kit.until(lambda: len(kit.table))
        kit.describe(kit.server)
    await refused(stream)
    await kit.record("a bug of this proxy", "surprise")
    kit.log.lines.clear()
    kit.deliveries.failure = None
    async with await dialled(port) as stream:
        await stream.send_all(b"x")
        with trio.fail_after(5):
            assert await stream.receive_some() == b"x"
