"""TLS in the kernel, by a kernel that has it: how tunnels end, by those at their ends and by others."""

from __future__ import annotations

import socket
from dataclasses import replace

import pytest
import trio

from mesh.certificates.contexts import ContextCache
from mesh.errors import ConnectionLost, MeshError, TlsFailure
from mesh.hbone import codec
from mesh.hbone.contract import Role
from mesh.relay.engine import Engine
from mesh.relay.tunnel import PING_EVERY
from mesh.relay.tunnels import make_tunnel
from mesh.testing.ca import TestAuthority
from mesh.tls.context import server_context
from mesh.tls.handshake_driver import EstablishedTls, KernelHasTls, handshake
from mesh.tls.kernel_codec import HANDSHAKE, SET_RECORD_TYPE, SOL_TLS
from mesh.tls.kernel_driver import KernelTls
from tests.mesh.relay.applications import echo, reset, talking, until
from tests.vm.kernel_tls import CLIENT, SERVER, SIDES, Owner, against_openssl, record_of, relays_between, shaken

pytestmark = [pytest.mark.vm, pytest.mark.root]
ROLES = pytest.mark.parametrize("role", [Role.CLIENT, Role.SERVER], ids=["client", "server"])


@SIDES
@pytest.mark.parametrize("client_ends", [True, False])
async def test_good_bye_is_understood(kernel: KernelTls, of_client: bool, of_server: bool, client_ends: bool) -> None:
    client, server = await shaken(kernel, of_client, of_server)
    async with relays_between(client, server, echo) as relays:
        stream = await talking(relays)
        one, other = (relays.client, relays.server) if client_ends else (relays.server, relays.client)
        owner = relays.server_owner if client_ends else relays.client_owner
        one.tick(one.engine.now + PING_EVERY + 1)
        await until(lambda: one._pinged_at is None)  # nothing is left unread, for which TCP would reset
        one.drain()
        one.close(None)
        await until(lambda: other.closed)
        (error,) = owner.lost_with
        assert isinstance(error, ConnectionLost)
        assert "the peer closed the tunnel" in str(error)
        assert owner.went_away == 1
        await reset(stream)


async def test_good_bye_of_the_kernels_is_one_for_openssl(kernel: KernelTls) -> None:
    """Not a bare end of TCP, which anybody on the way could make."""
    client, (server_socket, server) = await shaken(kernel, True, False)
    assert isinstance(server, EstablishedTls)
    engine = Engine()
    tunnel = make_tunnel(engine, *client, Role.CLIENT, Owner(engine), "peer")
    tunnel.close(None)
    engine.close()
    with server_socket:
        server_socket.settimeout(60)
        while data := server_socket.recv(65536):
            server.incoming.write(data)
    assert server.ssl_object.read(65536).startswith(b"PRI * HTTP/2.0")
    assert server.ssl_object.read(65536) == b""  # without close_notify it would raise that it wants more


@ROLES
@pytest.mark.parametrize("where", [5, 20, -1], ids=["first byte", "inside", "tag"])
async def test_a_forged_record_ends_the_tunnel(kernel: KernelTls, role: Role, where: int) -> None:
    async with against_openssl(kernel, role) as against:
        record = record_of(against.peer, bytes(100))
        record[where] ^= 1
        against.peer_socket.send(record)
        error = await against.failure()
        assert isinstance(error, TlsFailure)
        assert "altered" in str(error)


@ROLES
@pytest.mark.parametrize(
    "made_up",
    [b"\x17\x03\x03\xff\xff", b"\x17\x02\x00\x00\x20", b"\x17\x03\x03\x00\x00", b"this is not TLS, at all"],
    ids=["too long", "no version", "too short", "no record"],
)
async def test_what_is_no_record_ends_the_tunnel(kernel: KernelTls, role: Role, made_up: bytes) -> None:
    async with against_openssl(kernel, role) as against:
        against.peer_socket.send(made_up + bytes(64))
        assert isinstance(await against.failure(), TlsFailure)


@ROLES
async def test_a_record_that_is_sent_again_ends_the_tunnel(kernel: KernelTls, role: Role) -> None:
    async with against_openssl(kernel, role) as against:
        record = record_of(against.peer, b"P" if role is Role.SERVER else bytes(3))
        against.peer_socket.send(record)
        against.peer_socket.send(record)
        error = await against.failure()
        assert isinstance(error, TlsFailure)
        assert "altered" in str(error)


@ROLES
async def test_half_a_record_and_then_nothing_is_a_lost_connection(kernel: KernelTls, role: Role) -> None:
    async with against_openssl(kernel, role) as against:
        against.tunnel.join(Stub())
        against.peer_socket.send(record_of(against.peer, bytes(100))[:50])
        await trio.sleep(0.1)
        assert not against.tunnel.closed
        against.peer_socket.shutdown(socket.SHUT_WR)
        assert isinstance(await against.failure(), ConnectionLost)


class Stub:
    """An end that does nothing."""

    received = 0

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def tunnel_lost(self, error: MeshError | None) -> None: ...


@ROLES
async def test_a_peer_that_changes_keys_loses_the_tunnel_with_a_clear_error(kernel: KernelTls, role: Role) -> None:
    client, server = await shaken(kernel, True, True)
    (sock, tls), (peer_socket, _) = (client, server) if role is Role.CLIENT else (server, client)
    engine = Engine()
    with peer_socket:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.run)
            owner = Owner(engine)
            tunnel = make_tunnel(engine, sock, tls, role, owner, "peer")
            tunnel.start()
            peer_socket.sendmsg([b"\x18\0\0\1\0"], [(SOL_TLS, SET_RECORD_TYPE, bytes([HANDSHAKE]))])
            await until(lambda: tunnel.closed)
            nursery.cancel_scope.cancel()
        (error,) = owner.lost_with
        assert isinstance(error, TlsFailure)
        assert "changes its TLS keys" in str(error)
    engine.close()


async def test_tickets_of_a_server_are_passed_over(kernel: KernelTls) -> None:
    client, (peer_socket, _) = await shaken(kernel, True, True)
    engine = Engine()
    ticket = b"\x04\0\0\x08" + bytes(8)
    with peer_socket:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.run)
            tunnel = make_tunnel(engine, *client, Role.CLIENT, Owner(engine), "peer")
            tunnel.start()
            for _ in range(3):
                peer_socket.sendmsg([ticket + ticket], [(SOL_TLS, SET_RECORD_TYPE, bytes([HANDSHAKE]))])
            peer_socket.send(codec.frame(4, 0, 0, b"\0\3\0\0\0\x07"))  # SETTINGS_MAX_CONCURRENT_STREAMS
            await until(lambda: tunnel.machine.peer_max_streams == 7)
            assert not tunnel.closed
            tunnel.close(None)
            nursery.cancel_scope.cancel()
    engine.close()


async def test_a_server_that_refuses_us_is_understood(kernel: KernelTls) -> None:
    """In TLS 1.3 the refusal comes after the client's handshake: an alert that the kernel opens."""
    stranger = TestAuthority()
    credentials = replace(stranger.issue(stranger.identity("demo", "client")), roots=CLIENT.roots)
    left = trio.socket.socket()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        await left.connect(listener.getsockname())
        right = trio.socket.from_stdlib_socket(listener.accept()[0])

    async def refuse() -> None:
        with pytest.raises(TlsFailure, match="not acceptable"):
            await handshake(right, server_context(SERVER), server_side=True, deadline=trio.current_time() + 60)

    with right:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(refuse)
            tls = await handshake(
                left,
                ContextCache(kernel.key_log).client(credentials),
                server_side=False,
                deadline=trio.current_time() + 60,
                kernel=kernel,
            )
        assert isinstance(tls, KernelHasTls)
        raw = socket.socket(fileno=left.detach())
        raw.setblocking(False)
        engine = Engine()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.run)
            owner = Owner(engine)
            tunnel = make_tunnel(engine, raw, tls, Role.CLIENT, owner, "peer")
            tunnel.start()
            await until(lambda: tunnel.closed)
            nursery.cancel_scope.cancel()
        engine.close()
        (error,) = owner.lost_with
        assert isinstance(error, TlsFailure)
        assert "does not trust our certificate's root" in str(error)
