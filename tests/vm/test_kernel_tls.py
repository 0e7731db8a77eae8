"""TLS in the kernel, by a kernel that has it, against OpenSSL and against itself."""

from __future__ import annotations

import hashlib
import os
import random
import select
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import trio
from cryptography.hazmat.primitives import serialization

from mesh.certificates.contexts import ContextCache
from mesh.errors import ConnectionLost, MeshError, TlsFailure
from mesh.hbone import codec
from mesh.hbone.contract import HboneStream, Role
from mesh.relay.engine import Engine
from mesh.relay.kernel_tunnel import KernelTunnel
from mesh.relay.openssl_tunnel import OpensslTunnel
from mesh.relay.stream_end import StreamEnd
from mesh.relay.tunnel import Tunnel
from mesh.relay.tunnels import make_tunnel
from mesh.testing.ca import TestAuthority
from mesh.tls import kernel_driver
from mesh.tls.context import server_context
from mesh.tls.credentials import Credentials
from mesh.tls.handshake_driver import EstablishedTls, KernelHasTls, handshake
from mesh.tls.kernel_codec import HANDSHAKE, SET_RECORD_TYPE, SOL_TLS
from mesh.tls.kernel_driver import KernelTls, find_kernel_tls
from mesh.tls.key_schedule_codec import SUITES

pytestmark = [pytest.mark.vm, pytest.mark.root]

BULK = 50 * 1024 * 1024
SIDES = pytest.mark.parametrize(
    ("of_client", "of_server"), [(True, False), (False, True), (True, True)], ids=["client", "server", "both"]
)
"""Whose TLS is the kernel's."""
authority = TestAuthority()
CLIENT = authority.issue(authority.identity("demo", "client"))
SERVER = authority.issue(authority.identity("demo", "server"))
TRIAL = """
from mesh.tls.kernel_driver import describe, find_kernel_tls
print(describe(find_kernel_tls("auto")))
"""
UNPRIVILEGED = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all", "--")


@pytest.fixture(scope="module")
def kernel() -> Iterator[KernelTls]:
    found = find_kernel_tls("auto")
    assert isinstance(found, KernelTls), found.reason
    yield found
    found.key_log.close()


# -- whether it is there -----------------------------------------------------------------------------------------------


def tried_by_another_process(*before: str) -> str:
    done = subprocess.run([*before, sys.executable, "-c", TRIAL], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1]


def module_is_loaded() -> bool:
    with open("/proc/modules") as modules:
        return any(line.startswith("tls ") for line in modules)


def test_a_process_without_privileges_has_it_only_when_the_module_is_there() -> None:
    subprocess.run(["modprobe", "--remove", "tls"], check=True)
    assert "modprobe tls" in tried_by_another_process(*UNPRIVILEGED)
    assert not module_is_loaded()
    subprocess.run(["modprobe", "tls"], check=True)
    assert tried_by_another_process(*UNPRIVILEGED) == "on: 0 connections, 0 declined"


def test_a_process_with_privileges_has_the_kernel_load_the_module() -> None:
    subprocess.run(["modprobe", "--remove", "tls"], check=True)
    assert tried_by_another_process() == "on: 0 connections, 0 declined"
    assert module_is_loaded()


@pytest.mark.parametrize("suite", SUITES.values(), ids=lambda suite: suite.name)
def test_both_suites_stand_the_trial(suite: Any) -> None:
    kernel_driver._try_out(suite)


# -- a pair of ends ----------------------------------------------------------------------------------------------------


Ended = tuple[socket.socket, EstablishedTls | KernelHasTls]


async def shaken(
    kernel: KernelTls, of_client: bool, of_server: bool, client_credentials: Credentials = CLIENT
) -> tuple[Ended, Ended]:
    """A connection over loopback whose handshake is done: the client's end and the server's."""
    results: dict[bool, Ended] = {}

    async def shake(sock: trio.socket.SocketType, *, server_side: bool) -> None:
        given = kernel if (of_server if server_side else of_client) else None
        contexts = ContextCache(given.key_log if given else None)
        context = contexts.server(SERVER) if server_side else contexts.client(client_credentials)
        tls = await handshake(
            sock, context, server_side=server_side, deadline=trio.current_time() + 60, kernel=given
        )
        assert isinstance(tls, KernelHasTls if given else EstablishedTls)
        raw = socket.socket(fileno=sock.detach())
        raw.setblocking(False)
        results[server_side] = raw, tls

    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = trio.socket.socket()
        await client.connect(listener.getsockname())
        server = trio.socket.from_stdlib_socket(listener.accept()[0])
    with client, server:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: shake(server, server_side=True))
            await shake(client, server_side=False)
    return results[False], results[True]


@dataclass
class Owner:
    """Serves requests of a tunnel by an application on loopback."""

    engine: Engine
    port: int = 0
    lost_with: list[MeshError | None] = field(default_factory=list)
    went_away: int = 0

    def requested(self, tunnel: Tunnel, stream: HboneStream, _headers: object) -> None:
        sock = socket.socket()
        sock.setblocking(False)
        end = StreamEnd(self.engine, sock, tunnel, lambda _end: None)
        end.adopt(stream)

        def dialled(error: MeshError | None) -> None:
            assert error is None
            tunnel.machine.respond(stream, codec.encode_response(200))

        end.dial(("127.0.0.1", self.port), dialled)

    def draining(self, _tunnel: Tunnel) -> None:
        self.went_away += 1

    def lost(self, _tunnel: Tunnel, error: MeshError | None) -> None:
        self.lost_with.append(error)


@dataclass
class Relays:
    client: Tunnel
    server: Tunnel
    client_owner: Owner
    server_owner: Owner
    closed: list[StreamEnd] = field(default_factory=list)
    applications: list[trio.SocketStream] = field(default_factory=list)

    async def connect(self) -> trio.SocketStream:
        """An application's connection through the tunnel."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            application = await trio.open_tcp_stream("127.0.0.1", listener.getsockname()[1])
            accepted, _ = listener.accept()
        end = StreamEnd(self.client.engine, accepted, self.client, self.closed.append)
        end.open(codec.encode_connect(f"10.0.0.1:{self.server_owner.port}"))
        self.applications.append(application)
        return application


Application = Callable[[trio.SocketStream], Awaitable[None]]


@asynccontextmanager
async def relays_between(
    client: Ended, server: Ended, application: Application | None = None
) -> AsyncIterator[Relays]:
    async with trio.open_nursery() as nursery:
        owners = []
        tunnels = []
        for (sock, tls), role in ((client, Role.CLIENT), (server, Role.SERVER)):
            engine = Engine()
            nursery.start_soon(engine.run)
            owner = Owner(engine)
            tunnel = make_tunnel(engine, sock, tls, role, owner, "peer")
            assert isinstance(tunnel, KernelTunnel if isinstance(tls, KernelHasTls) else OpensslTunnel)
            tunnel.start()
            owners.append(owner)
            tunnels.append(tunnel)
        if application is not None:
            listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
            owners[1].port = listeners[0].socket.getsockname()[1]
            nursery.start_soon(trio.serve_listeners, application, listeners)
        relays = Relays(tunnels[0], tunnels[1], owners[0], owners[1])
        try:
            yield relays
        finally:
            for stream in relays.applications:
                stream.socket.close()
            for tunnel in tunnels:
                tunnel.close(None)
            nursery.cancel_scope.cancel()
    for tunnel in tunnels:
        tunnel.engine.close()


async def echo(stream: trio.SocketStream) -> None:
    try:
        async with stream:
            async for chunk in stream:
                await stream.send_all(chunk)
    except trio.BrokenResourceError:
        pass


async def until(condition: Callable[[], object], seconds: float = 60) -> None:
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 -- the relay has no events to wait for
            await trio.sleep(0.01)


# -- what it carries ---------------------------------------------------------------------------------------------------


@SIDES
async def test_bulk_arrives_whole_in_both_directions_at_once(
    kernel: KernelTls, of_client: bool, of_server: bool
) -> None:
    bulk = random.Random(1).randbytes(BULK)
    wanted = hashlib.sha256(bulk).digest()
    served: list[bytes] = []

    async def take(stream: trio.SocketStream) -> bytes:
        digest, size = hashlib.sha256(), 0
        async for chunk in stream:
            digest.update(chunk)
            size += len(chunk)
        assert size == BULK
        return digest.digest()

    async def give(stream: trio.SocketStream) -> None:
        view = memoryview(bulk)
        sizes = random.Random(2)
        while view:
            size = sizes.choice((1, 100, 16384, 16385, 300_000, 1 << 20))
            await stream.send_all(view[:size])
            view = view[size:]
        await stream.send_eof()

    async def both(stream: trio.SocketStream, seen: list[bytes]) -> None:
        async with stream, trio.open_nursery() as nursery:
            nursery.start_soon(give, stream)
            seen.append(await take(stream))

    seen: list[bytes] = []
    client, server = await shaken(kernel, of_client, of_server)
    async with relays_between(client, server, lambda stream: both(stream, served)) as relays:
        with trio.fail_after(600):
            await both(await relays.connect(), seen)
        await until(lambda: served)
        assert seen == served == [wanted]
        assert relays.client_owner.lost_with == relays.server_owner.lost_with == []


@SIDES
async def test_many_streams_of_small_messages(kernel: KernelTls, of_client: bool, of_server: bool) -> None:
    client, server = await shaken(kernel, of_client, of_server)
    async with relays_between(client, server, echo) as relays:

        async def talk(number: int) -> None:
            sizes = random.Random(number)
            async with await relays.connect() as stream:
                for _ in range(20):
                    words = os.urandom(sizes.randint(1, 200))
                    await stream.send_all(words)
                    heard = b""
                    while len(heard) < len(words):
                        heard += await stream.receive_some()
                    assert heard == words

        with trio.fail_after(300):
            async with trio.open_nursery() as nursery:
                for number in range(20):
                    nursery.start_soon(talk, number)


@SIDES
async def test_what_a_full_socket_does_not_take_waits_and_goes_out(
    kernel: KernelTls, of_client: bool, of_server: bool
) -> None:
    client, server = await shaken(kernel, of_client, of_server)
    client[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32768)
    server[0].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
    bulk = random.Random(3).randbytes(1 << 20)
    heard = bytearray()
    async with relays_between(client, server, echo) as relays:
        stream = await talking(relays)
        relays.server.engine.modify(server[0].fileno(), 0)  # it reads no more

        async def listen() -> None:
            while len(heard) < len(bulk):
                heard.extend(await stream.receive_some())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.send_all, bulk)
            nursery.start_soon(listen)
            await until(lambda: relays.client.blocked)
            relays.server.engine.modify(server[0].fileno(), select.EPOLLIN)
            await until(lambda: len(heard) == len(bulk), 300)
    assert heard == bulk


@pytest.mark.parametrize("suite", SUITES)
async def test_openssls_own_program_is_understood(kernel: KernelTls, suite: str, tmp_path: Path) -> None:
    """Whichever suite it offers. In the end it changes its keys, as a line `K` has it do."""
    for name, pem in (("chain", b"".join(CLIENT.certificate_chain)), ("key", key_pem(CLIENT)), ("roots", CLIENT.roots)):
        (tmp_path / name).write_bytes(pem)
    contexts = ContextCache(kernel.key_log)
    engine = Engine()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{listener.getsockname()[1]}", "-alpn", "h2"]
        command += ["-cert", "chain", "-key", "key", "-CAfile", "roots", "-tls1_3", "-ciphersuites", suite]
        client = started(command, tmp_path)
        listener.settimeout(60)
        accepted = trio.socket.from_stdlib_socket(listener.accept()[0])
    with client:
        assert client.stdin is not None
        assert client.stdout is not None
        tls = await handshake(
            accepted, contexts.server(SERVER), server_side=True, deadline=trio.current_time() + 60, kernel=kernel
        )
        assert isinstance(tls, KernelHasTls)
        sock = socket.socket(fileno=accepted.detach())
        sock.settimeout(60)
        client.stdin.write(b"hello\n")
        client.stdin.flush()
        assert sock.recv(100) == b"hello\n"
        sock.send(b"and an answer\n")
        client.stdin.write(b"K\n")
        client.stdin.flush()
        sock.setblocking(False)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.run)
            owner = Owner(engine)
            tunnel = make_tunnel(engine, sock, tls, Role.SERVER, owner, "peer")
            tunnel.start()
            await until(lambda: tunnel.closed)
            nursery.cancel_scope.cancel()
        said, _ = client.communicate(timeout=60)
    engine.close()
    assert suite.encode() in said
    assert b"and an answer\n" in said
    (error,) = owner.lost_with
    assert isinstance(error, TlsFailure)
    assert "changes its TLS keys" in str(error)


def started(command: list[str], folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def key_pem(credentials: Credentials) -> bytes:
    return credentials.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


# -- how it ends -------------------------------------------------------------------------------------------------------


async def talking(relays: Relays) -> trio.SocketStream:
    stream = await relays.connect()
    await stream.send_all(b"hello")
    with trio.fail_after(60):
        assert await stream.receive_some() == b"hello"
    return stream


async def reset(stream: trio.SocketStream) -> None:
    with trio.fail_after(60), pytest.raises(trio.BrokenResourceError):
        await stream.receive_some()


@SIDES
@pytest.mark.parametrize("client_ends", [True, False])
async def test_good_bye_is_understood(kernel: KernelTls, of_client: bool, of_server: bool, client_ends: bool) -> None:
    client, server = await shaken(kernel, of_client, of_server)
    async with relays_between(client, server, echo) as relays:
        stream = await talking(relays)
        one, other = (relays.client, relays.server) if client_ends else (relays.server, relays.client)
        owner = relays.server_owner if client_ends else relays.client_owner
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


def record_of(tls: EstablishedTls, content: bytes) -> bytearray:
    """A record as OpenSSL would send it next."""
    tls.ssl_object.write(content)
    return bytearray(tls.outgoing.read())


@dataclass
class Against:
    """A tunnel of the kernel's, and a peer that is OpenSSL and the test."""

    tunnel: Tunnel
    owner: Owner
    peer_socket: socket.socket
    peer: EstablishedTls

    async def failure(self) -> MeshError | None:
        await until(lambda: self.tunnel.closed)
        (error,) = self.owner.lost_with
        return error


@asynccontextmanager
async def against_openssl(kernel: KernelTls, role: Role) -> AsyncIterator[Against]:
    client, server = await shaken(kernel, role is Role.CLIENT, role is Role.SERVER)
    (sock, tls), (peer_socket, peer) = (client, server) if role is Role.CLIENT else (server, client)
    assert isinstance(peer, EstablishedTls)
    engine = Engine()
    with peer_socket:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.run)
            owner = Owner(engine)
            tunnel = make_tunnel(engine, sock, tls, role, owner, "peer")
            tunnel.start()
            yield Against(tunnel, owner, peer_socket, peer)
            tunnel.close(None)
            nursery.cancel_scope.cancel()
    engine.close()


ROLES = pytest.mark.parametrize("role", [Role.CLIENT, Role.SERVER], ids=["client", "server"])


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


async def test_nothing_is_readable_on_the_wire_and_nothing_is_kept(kernel: KernelTls) -> None:
    """What one end sends is no plain text to whoever reads the socket below TLS, and the log is empty."""
    (sock, _), (peer_socket, peer) = await shaken(kernel, True, False)
    assert isinstance(peer, EstablishedTls)
    with sock, peer_socket:
        sock.send(b"words that nobody else may read")
        peer_socket.setblocking(True)
        record = peer_socket.recv(65536)
        assert record[:3] == b"\x17\x03\x03"
        assert b"words" not in record
        peer.incoming.write(record)
        assert peer.ssl_object.read(100) == b"words that nobody else may read"
    assert kernel.key_log.take() == b""
