from __future__ import annotations

import random
import socket
from datetime import timedelta
from typing import Any

import pytest
import trio

from mesh.errors import ConnectionLost, IdentityUnavailable
from mesh.hbone.codec import encode_connect
from mesh.identity import SpiffeId
from mesh.testing.ca import TestAuthority
from ztunnel.proxy import terminator as terminator_module
from ztunnel.proxy.terminator import MAX_HANDSHAKES_PER_PEER, SETTLE_SECONDS


async def dialled(kit: Any, source: str = "127.0.0.9") -> trio.SocketStream:
    # The kernel completes the connection on its own, whatever the relay does with it afterwards.
    plain = socket.create_connection(("127.0.0.2", kit.pool.port), source_address=(source, 0))
    return trio.SocketStream(trio.socket.from_stdlib_socket(plain))


async def ended(stream: trio.SocketStream) -> None:
    with trio.fail_after(5):
        try:
            while await stream.receive_some():
                pass
        except trio.BrokenResourceError:
            pass


@pytest.mark.parametrize(
    "attack",
    [b"", b"GET / HTTP/1.1\r\n\r\n", random.Random(3).randbytes(4000), b"\x16\x03\x01\x02\x00\x01"],
    ids=["nothing", "http", "garbage", "half"],
)
async def test_what_is_no_handshake_is_recorded_once(kit: Any, attack: bytes) -> None:
    kit.serve_hbone()
    async with await dialled(kit) as stream:
        if attack:
            await stream.send_all(attack)
        try:
            await stream.send_eof()
        except trio.BrokenResourceError:
            pass
        await ended(stream)
    await kit.record('direction="inbound"', 'no_mtls="not_established"', "src.addr=127.0.0.9:", "error=", "TLS")
    assert kit.metric("istio_tcp_connections_failed_total", response_flags="TLS_FAILURE") == 1
    assert kit.metric("istio_tcp_sockets_open") == 0
    assert kit.terminator._of_peer == {}


async def test_a_silent_peer_is_given_up(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminator_module, "HANDSHAKE_SECONDS", 0.05)
    kit.serve_hbone()
    async with await dialled(kit) as stream:
        await ended(stream)
    await kit.record("no TLS handshake in time")


@pytest.mark.parametrize("case", ["foreign", "unknown", "expired", "nameless"])
async def test_certificates_that_do_not_count(kit: Any, case: str) -> None:
    kit.serve_hbone()
    identity = kit.client.identity
    stranger = TestAuthority()
    made: dict[str, Any] = {
        "foreign": kit.authority.issue(SpiffeId("elsewhere", "demo", "client")),
        "unknown": stranger.issue(identity),
        "expired": kit.authority.issue(identity, lifetime=timedelta(seconds=-5)),
        "nameless": kit.authority.issue(identity, uris=[]),
    }
    credentials = made[case]
    if case == "unknown":
        fields = {name: getattr(credentials, name) for name in credentials.__dataclass_fields__}
        credentials = type(credentials)(**fields | {"roots": kit.authority.roots})
    kit.contexts.others[identity] = credentials
    # In TLS 1.3 the client is done before the server has looked: its tunnel stands, and is then lost.
    await kit.pool.checkout(kit.key())
    await kit.record('direction="inbound"', "error=")
    await kit.until(lambda: not len(kit.pool))
    assert not len(kit.terminator)


async def test_no_certificate_for_the_pod(kit: Any) -> None:
    kit.serve_hbone()
    kit.contexts.failure = IdentityUnavailable("the certificate service is away")
    async with await dialled(kit) as stream:
        await ended(stream)
    await kit.record("the certificate service is away")
    assert kit.metric("istio_tcp_connections_failed_total", response_flags="IDENTITY_ERROR") == 1


async def test_handshakes_of_one_address_are_limited(kit: Any) -> None:
    kit.serve_hbone()
    streams = [await dialled(kit) for _ in range(MAX_HANDSHAKES_PER_PEER)]
    await kit.until(lambda: kit.terminator._handshakes == MAX_HANDSHAKES_PER_PEER)
    async with await dialled(kit) as one_more:
        await ended(one_more)
    await kit.until(lambda: len(kit.log.lines) == 1)
    assert "too many unfinished TLS handshakes" in kit.log.lines[0]
    await kit.pool.checkout(kit.key())  # another address is served
    for stream in streams:
        await stream.aclose()
    await kit.until(lambda: not kit.terminator._handshakes)
    assert kit.terminator._of_peer == {}
    assert len(kit.log.lines) == 1 + MAX_HANDSHAKES_PER_PEER


@pytest.mark.parametrize(("workers", "share"), [(2, 16), (3, 11), (4, 8), (16, 8)])
async def test_workers_share_the_limit(kit: Any, workers: int, share: int) -> None:
    kit.serve_hbone()
    kit.terminator._workers = workers
    streams = [await dialled(kit) for _ in range(share + 2)]
    await kit.until(lambda: len(kit.log.lines) == 2)
    assert kit.terminator._handshakes == share
    for stream in streams:
        await stream.aclose()


async def test_handshakes_of_all_are_limited(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminator_module, "MAX_HANDSHAKES", 5)
    kit.serve_hbone()
    streams = [await dialled(kit, f"127.0.0.{10 + number}") for number in range(8)]
    await kit.until(lambda: len(kit.log.lines) == 3)
    for stream in streams:
        await stream.aclose()


async def test_a_bug_in_a_handshake_costs_its_connection_only(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    kit.serve_hbone()
    with monkeypatch.context() as patch:
        patch.setattr(terminator_module, "handshake", None)
        async with await dialled(kit) as stream:
            await ended(stream)
    await kit.record("a bug of this proxy")
    await kit.pool.checkout(kit.key())


async def test_a_pod_that_goes_while_shaking_hands(kit: Any) -> None:
    kit.serve_hbone()
    async with await dialled(kit) as stream:
        await kit.until(lambda: kit.terminator._handshakes)
        kit.server.tasks.stop()
        await ended(stream)
    await kit.record("no longer served")
    assert not kit.terminator._handshakes


async def test_requests_that_cross_the_goaway_are_served(kit: Any) -> None:
    kit.describe(kit.server, kit.client)
    port = await kit.application(kit.echo)
    kit.serve_hbone()
    tunnel = await kit.pool.checkout(kit.key())
    await kit.until(lambda: len(kit.terminator))
    kit.terminator.drain()
    crossing = kit.send(tunnel, encode_connect(f"127.0.0.2:{port}"))  # we have not read the GOAWAY yet
    await kit.until(lambda: crossing.headers or crossing.resets)
    assert kit.status(crossing) == 200
    assert kit.pool.ready(kit.key()) is None
    drained = kit.engine.now
    kit.terminator.tick(drained + SETTLE_SECONDS / 2)
    assert not tunnel.machine.streams[1].remote_ended
    kit.terminator.tick(drained + SETTLE_SECONDS * 2)
    assert len(kit.terminator) == 1  # the stream goes on
    late = kit.send(tunnel, encode_connect(f"127.0.0.2:{port}"))
    await kit.until(lambda: late.resets)
    crossing.send(b"still here")
    kit.engine.mark_dirty(tunnel)
    await kit.until(lambda: crossing.received == b"still here")
    crossing.send(b"", end=True)
    await kit.until(lambda: crossing.ended)
    await kit.until(lambda: not len(kit.table))
    kit.terminator.tick(drained + SETTLE_SECONDS * 2)
    assert not len(kit.terminator)
    await kit.until(lambda: tunnel.closed)


async def test_a_tunnel_made_while_draining_is_asked_to_leave(kit: Any) -> None:
    kit.serve_hbone()
    async with await dialled(kit):
        await kit.until(lambda: kit.terminator._handshakes)
        kit.terminator.drain()
        assert not kit.terminator.settled(kit.engine.now + 100)  # somebody is still shaking hands
        tunnel = await kit.pool.checkout(kit.key())
        await kit.until(lambda: tunnel.machine.draining)


async def test_a_tunnel_nobody_uses_is_closed(kit: Any) -> None:
    kit.serve_hbone()
    tunnel = await kit.pool.checkout(kit.key())
    await kit.until(lambda: len(kit.terminator))
    (served,) = kit.terminator._served
    for _ in range(2):  # the first one has a PING to send
        served._pinged_at = None
        kit.engine._flush_dirty()
        assert len(kit.terminator) == 1
        kit.terminator.tick(served.last_used + terminator_module.UNUSED_SECONDS + 1)
    assert not len(kit.terminator)
    await kit.until(lambda: tunnel.closed)


async def test_closing_ends_what_runs_on_the_tunnels(kit: Any) -> None:
    kit.describe(kit.server, kit.client)
    port = await kit.application(kit.echo)
    kit.serve_hbone()
    tunnel = await kit.pool.checkout(kit.key())
    stream = await kit.ask(tunnel, f"127.0.0.2:{port}")
    assert kit.status(stream) == 200
    kit.terminator.close(ConnectionLost("the end"))
    await kit.record("the end")
    assert not len(kit.terminator)
