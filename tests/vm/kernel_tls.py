"""Tunnels whose TLS is the kernel's at one end or both, for the tests beside this."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio

from mesh.certificates.contexts import ContextCache
from mesh.errors import MeshError
from mesh.hbone import codec
from mesh.hbone.contract import HboneStream, Role
from mesh.relay.engine import Engine
from mesh.relay.kernel_tunnel import KernelTunnel
from mesh.relay.openssl_tunnel import OpensslTunnel
from mesh.relay.stream_end import StreamEnd
from mesh.relay.tunnel import Tunnel
from mesh.relay.tunnels import make_tunnel
from mesh.testing.ca import TestAuthority
from mesh.tls.credentials import Credentials
from mesh.tls.handshake_driver import EstablishedTls, KernelHasTls, handshake
from mesh.tls.kernel_driver import KernelTls
from tests.mesh.relay.applications import until

SIDES = pytest.mark.parametrize(
    ("of_client", "of_server"), [(True, False), (False, True), (True, True)], ids=["client", "server", "both"]
)
"""Whose TLS is the kernel's."""
authority = TestAuthority()
CLIENT = authority.issue(authority.identity("demo", "client"))
SERVER = authority.issue(authority.identity("demo", "server"))
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
