from __future__ import annotations

import socket
from typing import Any

import pytest
import trio

from mesh.addresses import parse_socket_address
from mesh.errors import ConnectFailed, EnvironmentLacks
from mesh.hbone.codec import ErrorCode, encode_connect
from mesh.model.policy import Match, PolicyAction, StringMatch, StringMatchKind
from mesh.testing.model import make_policy
from ztunnel.proxy import descriptions as descriptions_module

ONLY_OTHERS = make_policy(
    "only-others",
    Match(principals=(StringMatch(StringMatchKind.EXACT, "cluster.local/ns/demo/sa/other"),)),
    namespace="demo",
)


async def opened(kit: Any) -> Any:
    """A tunnel from the client's to the server's pod."""
    kit.serve_hbone()
    return await kit.pool.checkout(kit.key())


async def test_an_admitted_connection(kit: Any) -> None:
    kit.describe(kit.server, kit.client)
    port = await kit.application(kit.echo)
    tunnel = await opened(kit)
    stream = await kit.ask(tunnel, f"127.0.0.2:{port}", forwarded='for="127.0.0.3:4711"')
    assert kit.status(stream) == 200
    assert dict(stream.headers or [])["baggage"].startswith("k8s.namespace.name=demo")
    stream.send(b"hello")
    kit.engine.mark_dirty(tunnel)
    await kit.until(lambda: stream.received == b"hello")
    assert kit.metric("istio_tcp_connections_opened_total", reporter="destination") == 1
    assert kit.metric("istio_tcp_received_bytes_total", reporter="destination") == 5  # live
    stream.send(b"", end=True)
    await kit.until(lambda: stream.ended)
    line = await kit.record(
        "info access connection complete",
        "src.addr=127.0.0.3:4711",
        'src.workload="client"',
        'src.identity="spiffe://cluster.local/ns/demo/sa/client"',
        f"dst.hbone_addr=127.0.0.2:{port}",
        'dst.identity="spiffe://cluster.local/ns/demo/sa/server"',
        "bytes_sent=5 bytes_recv=5",
    )
    assert "error" not in line
    assert kit.deliveries.announced == [parse_socket_address("127.0.0.3:4711")]
    labels = {
        "reporter": "destination",
        "source_principal": "spiffe://cluster.local/ns/demo/sa/client",
        "destination_principal": "spiffe://cluster.local/ns/demo/sa/server",
        "connection_security_policy": "mutual_tls",
    }
    for family in ("connections_opened", "connections_closed"):
        assert kit.metric(f"istio_tcp_{family}_total", **labels) == 1
    for family in ("sent_bytes", "received_bytes"):
        assert kit.metric(f"istio_tcp_{family}_total", **labels) == 5
    assert not tunnel.machine.streams


@pytest.mark.parametrize(
    ("authority", "status", "reason"),
    [
        ("127.0.0.4:80", 400, "not an address of pod demo/server"),
        ("server.demo.svc.cluster.local:80", 400, "no gateway"),
        ("127.0.0.2:15001", 503, "the mesh's own"),
        ("127.0.0.2:15008", 503, "the mesh's own"),
        ("127.0.0.2", 400, "authority"),
        ("127.0.0.2:1", 503, "cannot connect"),
    ],
)
async def test_requests_that_are_refused(kit: Any, authority: str, status: int, reason: str) -> None:
    kit.describe(kit.server, kit.client)
    tunnel = await opened(kit)
    stream = await kit.ask(tunnel, authority)
    assert kit.status(stream) == status
    await kit.record("error access connection complete", reason, "sa/client", "bytes_sent=0 bytes_recv=0")
    await kit.until(lambda: not tunnel.machine.streams)
    # The tunnel serves on.
    port = await kit.application(kit.echo)
    assert kit.status(await kit.ask(tunnel, f"127.0.0.2:{port}")) == 200


async def test_a_claim_to_come_from_elsewhere_is_not_believed(kit: Any) -> None:
    kit.describe(kit.server, kit.client)
    port = await kit.application(kit.echo)
    tunnel = await opened(kit)
    stream = await kit.ask(tunnel, f"127.0.0.2:{port}", forwarded='for="10.9.9.9:1"', baggage="service.name=admin")
    assert kit.status(stream) == 200
    (client,) = kit.deliveries.announced
    assert str(client).startswith("127.0.0.3:")


async def test_an_address_of_another_identity_names_no_workload(kit: Any) -> None:
    """The workload at the client's address is not what has proven its identity: the record does not name it."""
    kit.describe(kit.server)
    other = kit.pod("other", "127.0.0.3")
    kit.tell(kit.workload(other))
    tunnel = await opened(kit)
    await kit.ask(tunnel, "127.0.0.2:1")
    assert "src.workload" not in await kit.record("sa/client")


async def test_policies_decide(kit: Any) -> None:
    kit.describe(kit.server, kit.client)
    kit.policies(ONLY_OTHERS)
    tunnel = await opened(kit)
    stream = await kit.ask(tunnel, "127.0.0.2:80")
    assert kit.status(stream) == 401
    await kit.record("error")
    assert kit.metric("istio_tcp_connections_failed_total", response_flags="DENY", reporter="destination") == 1
    assert kit.deliveries.announced == []


async def test_a_policy_change_cuts_what_it_denies(kit: Any) -> None:
    kit.describe(kit.server, kit.client)
    port = await kit.application(kit.echo)
    tunnel = await opened(kit)
    stream = await kit.ask(tunnel, f"127.0.0.2:{port}")
    kit.policies(
        make_policy("unrelated", Match(destination_ports=(1,)), namespace="demo", action=PolicyAction.DENY)
    )
    await trio.testing.wait_all_tasks_blocked()
    assert not stream.resets
    kit.policies(ONLY_OTHERS)
    await kit.until(lambda: stream.resets)
    assert stream.resets == [ErrorCode.CANCEL]
    await kit.record("closed due to policy change")
    assert kit.metric("istio_tcp_connections_failed_total", response_flags="DENY") == 1


async def test_a_connection_waits_for_its_pod_to_be_described(kit: Any) -> None:
    kit.descriptions.follow(kit.server)
    port = await kit.application(kit.echo)
    tunnel = await opened(kit)
    stream = kit.send(tunnel, encode_connect(f"127.0.0.2:{port}"))
    stream.send(b"early")
    kit.engine.mark_dirty(tunnel)
    await kit.until(lambda: len(kit.table))
    await trio.sleep(0.02)
    assert stream.headers is None
    kit.tell(kit.workload(kit.server))
    await trio.sleep(0.02)
    assert stream.headers is None  # its policies may still forbid it
    kit.policies()
    await kit.until(lambda: stream.received == b"early")
    assert kit.status(stream) == 200


async def test_a_pod_that_nobody_describes(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descriptions_module, "WAIT_SECONDS", 0.02)
    kit.descriptions.follow(kit.server)
    tunnel = await opened(kit)
    stream = await kit.ask(tunnel, "127.0.0.2:80")
    assert kit.status(stream) == 503
    await kit.record("has not described pod demo/server")
    kit.deliverer.forget(kit.server)  # the spare ones
    assert kit.nothing_open(kit.server)


async def test_a_pod_that_goes_while_a_connection_waits(kit: Any) -> None:
    kit.descriptions.follow(kit.server)
    tunnel = await opened(kit)
    stream = kit.send(tunnel, encode_connect("127.0.0.2:80"))
    await kit.until(lambda: len(kit.table))
    kit.server.tasks.stop()
    await kit.until(lambda: stream.headers)
    assert kit.status(stream) == 503
    await kit.record("no longer served")


async def test_a_client_that_gives_up_while_it_waits(kit: Any) -> None:
    kit.descriptions.follow(kit.server)
    tunnel = await opened(kit)
    stream = kit.send(tunnel, encode_connect("127.0.0.2:80"))
    await kit.until(lambda: len(kit.table))
    tunnel.machine.reset_stream(stream.stream, ErrorCode.CANCEL)
    kit.engine.mark_dirty(tunnel)
    await kit.record("connection complete")
    kit.describe(kit.server)
    await trio.testing.wait_all_tasks_blocked()
    assert len(kit.log.lines) == 1


@pytest.mark.parametrize("failure", [EnvironmentLacks("no descriptors"), ConnectFailed("no port"), RuntimeError("bug")])
async def test_no_delivery_socket(kit: Any, failure: Exception) -> None:
    kit.describe(kit.server, kit.client)
    kit.deliveries.failure = failure
    tunnel = await opened(kit)
    stream = await kit.ask(tunnel, "127.0.0.2:80")
    assert kit.status(stream) == (500 if isinstance(failure, RuntimeError) else 503)
    await kit.record("error=")
    kit.deliverer.forget(kit.server)  # the spare ones
    assert kit.nothing_open(kit.server)
    assert not tunnel.closed


async def test_an_application_that_resets(kit: Any) -> None:
    async def reset(stream: trio.SocketStream) -> None:
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        stream.socket.close()

    kit.describe(kit.server, kit.client)
    port = await kit.application(reset)
    tunnel = await opened(kit)
    stream = await kit.ask(tunnel, f"127.0.0.2:{port}")
    await kit.until(lambda: stream.resets)
    await kit.record("the application's connection failed")


async def test_a_client_whose_tunnel_breaks(kit: Any) -> None:
    kit.describe(kit.server, kit.client)
    port = await kit.application(kit.echo)
    tunnel = await opened(kit)
    stream = await kit.ask(tunnel, f"127.0.0.2:{port}")
    assert kit.status(stream) == 200
    tunnel.sock.close()
    kit.engine._handlers.pop(tunnel._fd)
    await kit.record("the peer closed the tunnel")
    tunnel.closed = True
    kit.pool.lost(tunnel, None)
