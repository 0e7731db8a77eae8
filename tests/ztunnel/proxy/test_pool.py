from __future__ import annotations

import socket
from typing import Any

import pytest
import trio

from mesh.addresses import PeerAddress
from mesh.errors import ConnectFailed, ConnectionLost, HboneUnreachable, MeshError, PeerIdentityMismatch
from mesh.hbone.codec import encode_connect
from mesh.hbone.contract import HboneSettings, Role
from mesh.relay import pool as pool_module
from mesh.relay.openssl_tunnel import OpensslTunnel
from mesh.relay.pool import UNUSED_SECONDS
from mesh.relay.socket_end import RawSocket
from mesh.relay.tunnel import Tunnel
from mesh.tls.handshake_driver import handshake
from mesh.tls.kernel_driver import AnySocket, KernelTls
from mesh.tls.key_log_driver import KeyLog
from mesh.tls.key_schedule_codec import Suite, TrafficSecrets


class Peer:
    """The far end of tunnels, with settings of the test's choice."""

    def __init__(self, kit: Any, settings: HboneSettings | None = None, *, then_close: bool = False) -> None:
        self.kit = kit
        self.settings = settings
        self.then_close = then_close
        self.tunnels: list[Tunnel] = []
        kit.pool.port = kit.listen(self._accepted)

    def _accepted(self, sock: RawSocket, peer: PeerAddress) -> None:
        self.kit.server.tasks.start(self._terminate, sock)

    async def _terminate(self, accepted: RawSocket) -> None:
        sock = trio.socket.from_stdlib_socket(socket.socket(fileno=accepted.detach()))
        context = await self.kit.contexts.server(self.kit.server.identity)
        tls = await handshake(sock, context, server_side=True, deadline=trio.current_time() + 5)
        raw = socket.socket(fileno=sock.detach())
        raw.setblocking(False)
        tunnel = OpensslTunnel(self.kit.engine, raw, tls, Role.SERVER, self, "client", self.settings)
        self.tunnels.append(tunnel)
        if self.then_close:
            tunnel.close(None)
        else:
            tunnel.start()

    def requested(self, tunnel: Tunnel, stream: Any, headers: Any) -> None:
        """Leave it unanswered."""

    def draining(self, tunnel: Tunnel) -> None:
        """No matter."""

    def lost(self, tunnel: Tunnel, error: MeshError | None) -> None:
        """No matter."""

    def close(self) -> None:
        for tunnel in self.tunnels:
            tunnel.close(None)


async def together(kit: Any, count: int) -> list[Tunnel | MeshError]:
    """Check out and open a stream, many at once."""
    found: list[Tunnel | MeshError] = []

    async def one() -> None:
        try:
            tunnel = await kit.pool.checkout(kit.key())
        except MeshError as error:
            found.append(error)
        else:
            tunnel.join(Stub())
            kit.send(tunnel, encode_connect("10.0.0.1:1"))
            found.append(tunnel)

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(one)
    return found


class Stub:
    """An end that does nothing."""

    def pause_reading(self) -> None:
        """Nothing to pause."""

    def resume_reading(self) -> None:
        """Nothing to resume."""

    def tunnel_lost(self, error: MeshError | None) -> None:
        """Nothing to lose."""


class Declining(KernelTls):
    """Remembers who offered keys, and leaves them to OpenSSL."""

    def __init__(self) -> None:
        super().__init__(KeyLog())
        self.offered: list[tuple[bool, TrafficSecrets]] = []

    def give(self, sock: AnySocket, suite: Suite, secrets: TrafficSecrets, *, server_side: bool) -> bool:
        self.offered.append((server_side, secrets))
        return False


async def test_both_ends_offer_their_keys_to_the_kernel(kit: Any) -> None:
    kernel = kit.contexts.kernel = Declining()
    kit.pool.port = kit.listen(kit.terminator.accepted)
    tunnel = await kit.pool.checkout(kit.key())
    assert isinstance(tunnel, OpensslTunnel)
    await kit.until(lambda: len(kit.terminator) == 1)
    (server_side, secrets), (other_side, same) = kernel.offered
    assert {server_side, other_side} == {False, True}
    assert secrets == same
    await kit.until(lambda: tunnel.machine.peer_max_streams == HboneSettings().max_streams)  # it works
    kit.terminator.close(None)
    kernel.key_log.close()


async def test_those_who_ask_together_share_one_tunnel(kit: Any) -> None:
    peer = Peer(kit)
    found = await together(kit, 50)
    assert len(set(found)) == 1
    assert len(peer.tunnels) == len(kit.pool) == 1
    assert kit.pool.ready(kit.key()) is found[0]
    peer.close()


async def test_a_full_tunnel_gets_a_second_one_beside_it(kit: Any) -> None:
    peer = Peer(kit, HboneSettings(max_streams=20))
    found: set[Any] = set()
    for _ in range(50):
        (tunnel,) = await together(kit, 1)
        assert isinstance(tunnel, Tunnel)
        found.add(tunnel)
        await kit.until(lambda tunnel=tunnel: tunnel.machine.peer_max_streams == 20)
    assert len(found) == len(kit.pool) == 3
    assert sorted(tunnel.streams for tunnel in found) == [10, 20, 20]
    peer.close()


async def test_what_a_rush_opened_becomes_empty_again(kit: Any) -> None:
    peer = Peer(kit)
    (first,) = await together(kit, 1)
    assert isinstance(first, Tunnel)
    first.blocked_at = kit.engine.now
    (second,) = await together(kit, 1)
    assert isinstance(second, Tunnel)
    assert second is not first
    first.blocked_at = 0.0
    assert await together(kit, 1) == [first], "of equals the older one"
    assert await together(kit, 3) == [first] * 3
    first.blocked_at = kit.engine.now
    assert await together(kit, 1) == [second], "not the congested one, though it has more"
    peer.close()


async def test_at_the_limit_congestion_is_divided(kit: Any) -> None:
    peer = Peer(kit)
    tunnels: list[Any] = []
    for _ in range(pool_module.MAX_TUNNELS):
        tunnels += await together(kit, 1)
        tunnels[-1].blocked_at = kit.engine.now + 100
    assert await together(kit, 1) == [tunnels[0]]
    assert await together(kit, 1) == [tunnels[1]]
    peer.close()


async def test_a_congested_tunnel_is_avoided_up_to_a_limit(kit: Any) -> None:
    peer = Peer(kit)
    for number in range(1, pool_module.MAX_TUNNELS + 3):
        for tunnel in await together(kit, 1):
            tunnel.blocked_at = kit.engine.now + 100  # type: ignore[union-attr]
        assert len(kit.pool) == min(number, pool_module.MAX_TUNNELS)
    peer.close()


async def test_a_failure_is_shared_and_leaves_nothing(kit: Any) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.2", 0))
        kit.pool.port = unused.getsockname()[1]
        found = await together(kit, 10)
    assert all(isinstance(error, ConnectFailed) for error in found)
    assert not kit.pool._entries
    assert all(sock.fileno() == -1 for sock in kit.client.namespace.made)
    assert len(kit.client.namespace.made) == 1  # one attempt for all


async def test_an_impostor_gets_nothing(kit: Any) -> None:
    port = kit.serve_hbone()
    kit.contexts.others[kit.server.identity] = kit.authority.issue(kit.authority.identity("demo", "other"))
    with pytest.raises(PeerIdentityMismatch, match=r"expected spiffe://cluster\.local/ns/demo/sa/server"):
        await kit.pool.checkout(kit.key())
    assert port
    assert not kit.pool._entries
    assert all(sock.fileno() == -1 for sock in kit.client.namespace.made)


async def test_nobody_answers(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "CONNECT_SECONDS", 0.05)
    with socket.socket() as full:
        full.bind(("127.0.0.2", 0))
        full.listen(0)
        kit.pool.port = full.getsockname()[1]
        fillers = []
        for _ in range(4):  # a full accept queue drops further SYNs
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
            fillers.append(filler)
        await trio.sleep(0.01)
        with pytest.raises(HboneUnreachable, match="NetworkPolicy"):
            await kit.pool.checkout(kit.key())
        for filler in fillers:
            filler.close()


async def test_a_peer_that_takes_no_streams_is_not_dialled_for_ever(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # As if its SETTINGS had come with the last flight of the handshake.
    monkeypatch.setattr(OpensslTunnel, "start", lambda self: setattr(self.machine, "peer_max_streams", 0))
    peer = Peer(kit)
    with trio.fail_after(5), pytest.raises(ConnectFailed, match="took no connection"):
        await kit.pool.checkout(kit.key())
    assert len(peer.tunnels) <= 1
    assert not len(kit.pool)
    assert not kit.pool._entries
    peer.close()


async def test_a_peer_that_ends_at_once(kit: Any) -> None:
    peer = Peer(kit, then_close=True)
    for _ in range(3):
        try:
            with trio.fail_after(5):
                await kit.pool.checkout(kit.key())
        except ConnectFailed:
            pass
    await kit.until(lambda: not len(kit.pool))
    assert not kit.pool._entries
    assert len(peer.tunnels) <= 3


async def test_a_renewed_certificate_retires_tunnels(kit: Any) -> None:
    peer = Peer(kit)
    (old,) = await together(kit, 1)
    assert isinstance(old, Tunnel)
    kit.pool.forget_identity()
    (new,) = await together(kit, 1)
    assert new is not old
    kit.pool.tick(kit.engine.now)
    assert not old.closed  # it has a stream
    for end in list(old._ends):
        old.leave(end)
    kit.engine._flush_dirty()
    kit.pool.tick(kit.engine.now)
    assert old.closed
    assert len(kit.pool) == 1
    peer.close()


async def test_a_tunnel_with_bytes_to_send_is_not_closed(kit: Any) -> None:
    peer = Peer(kit)
    tunnel = await kit.pool.checkout(kit.key())
    kit.pool.forget_identity()
    tunnel.machine.outgoing += b"tail"
    kit.pool.tick(kit.engine.now)
    assert not tunnel.closed
    tunnel.machine.outgoing.clear()
    kit.pool.tick(kit.engine.now)
    assert tunnel.closed
    peer.close()


async def test_an_unused_tunnel_is_closed(kit: Any) -> None:
    peer = Peer(kit)
    tunnel = await kit.pool.checkout(kit.key())
    kit.engine._flush_dirty()
    kit.pool.tick(kit.engine.now + UNUSED_SECONDS / 2)
    assert not tunnel.closed
    for _ in range(2):  # the first one has a PING to send
        tunnel._pinged_at = None  # the peer answered
        kit.engine._flush_dirty()
        kit.pool.tick(kit.engine.now + UNUSED_SECONDS + 2)
    assert tunnel.closed
    await kit.until(lambda: peer.tunnels and peer.tunnels[0].closed)
    assert not kit.pool._entries


async def test_goaway_retires_a_tunnel(kit: Any) -> None:
    peer = Peer(kit)
    (tunnel,) = await together(kit, 1)
    assert isinstance(tunnel, Tunnel)
    await kit.until(lambda: peer.tunnels)
    peer.tunnels[0].ask_to_leave()
    await kit.until(lambda: kit.pool.ready(kit.key()) is None)
    assert not tunnel.closed
    for end in list(tunnel._ends):
        tunnel.leave(end)
    kit.engine._flush_dirty()
    kit.pool.tick(kit.engine.now)
    assert tunnel.closed


async def test_a_pod_that_goes_while_its_tunnel_is_dialled(kit: Any) -> None:
    silent = socket.create_server(("127.0.0.2", 0))
    kit.pool.port = silent.getsockname()[1]
    found: list[BaseException] = []

    async def wait() -> None:
        try:
            await kit.pool.checkout(kit.key())
        except BaseException as error:
            found.append(error)
            raise

    for _ in range(3):
        kit.client.tasks.start(wait)
    await kit.until(lambda: kit.client.namespace.made)
    await trio.testing.wait_all_tasks_blocked()
    kit.client.tasks.stop()
    await kit.until(lambda: len(found) == 3)
    assert not kit.pool._entries
    assert all(sock.fileno() == -1 for sock in kit.client.namespace.made)
    silent.close()


async def test_closing_ends_all_tunnels(kit: Any) -> None:
    peer = Peer(kit)
    tunnel = await kit.pool.checkout(kit.key())
    kit.pool.close(ConnectionLost("over"))
    assert tunnel.closed
    assert not len(kit.pool)
    assert not kit.pool._entries
    peer.close()
