"""Two relays joined by a real tunnel over loopback TCP and TLS, with real applications at both ends.

Every test runs with both kinds of tunnel. Those whose TLS is the kernel's get sockets that are plain: to a tunnel they
look the same, as the kernel's do (``tests/vm`` has these, where the kernel has TLS).
"""

from __future__ import annotations

import errno
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio

from mesh.errors import MeshError
from mesh.hbone import codec
from mesh.hbone.contract import HboneSettings, HboneStream, Role
from mesh.relay.engine import Engine
from mesh.relay.kernel_tunnel import KernelTunnel
from mesh.relay.openssl_tunnel import OpensslTunnel
from mesh.relay.stream_end import StreamEnd
from mesh.relay.tunnel import Tunnel
from mesh.testing.ca import TestAuthority
from mesh.tls.context import client_context, server_context
from mesh.tls.handshake_driver import EstablishedTls, handshake
from mesh.tls.kernel_codec import ALERT, GET_RECORD_TYPE, SET_RECORD_TYPE, SOL_TLS

ServerApplication = Callable[[trio.SocketStream], Awaitable[None]]


def nonblocking(sock: trio.socket.SocketType) -> socket.socket:
    """Take a socket out of trio."""
    raw = socket.socket(fileno=sock.detach())
    raw.setblocking(False)
    return raw


class KernelSocket(socket.socket):
    """What a tunnel sees of a socket with TLS in the kernel, without TLS."""

    alerts: list[bytes]
    """Sent here."""
    records: list[tuple[int, bytes]]
    """That the peer is taken to have sent next, of other kinds than application data."""

    def __init__(self, fileno: int) -> None:
        super().__init__(fileno=fileno)
        self.alerts, self.records = [], []
        self.setblocking(False)

    def sendmsg(self, buffers: Any, ancillary: Any = (), *_: Any) -> int:
        assert ancillary == [(SOL_TLS, SET_RECORD_TYPE, bytes([ALERT]))]
        self.alerts += buffers
        return sum(map(len, buffers))

    def recv_into(self, *arguments: Any) -> int:
        if self.records:
            raise OSError(errno.EIO, "Input/output error")
        return super().recv_into(*arguments)

    def recvmsg(self, *_: Any) -> Any:
        if not self.records:
            raise BlockingIOError
        kind, content = self.records.pop(0)
        return content, [(SOL_TLS, GET_RECORD_TYPE, bytes([kind]))], 0, None


def kernels(sock: socket.socket) -> KernelSocket:
    """As if its keys had been given away."""
    return KernelSocket(sock.detach())


@dataclass
class Owner:
    """Remembers what a tunnel reports; the server's also dials."""

    engine: Engine
    port: int = 0
    status: int = 200
    lost_with: list[MeshError | None] = field(default_factory=list)
    went_away: int = 0
    ends: list[StreamEnd] = field(default_factory=list)
    requests: list[list[tuple[str, str]]] = field(default_factory=list)

    def requested(self, tunnel: Tunnel, stream: HboneStream, headers: list[tuple[str, str]]) -> None:
        self.requests.append(headers)
        if self.status != 200:
            tunnel.machine.respond(stream, codec.encode_response(self.status), end=True)
            return
        sock = socket.socket()
        sock.setblocking(False)
        end = StreamEnd(self.engine, sock, tunnel, lambda _end: None)
        self.ends.append(end)
        end.adopt(stream)

        def dialled(error: MeshError | None) -> None:
            if error is None:
                tunnel.machine.respond(stream, codec.encode_response(200))
            else:
                tunnel.machine.respond(stream, codec.encode_response(503), end=True)
                end.cut(error, codec.ErrorCode.NO_ERROR)

        end.dial(("127.0.0.1", self.port), dialled)

    def draining(self, tunnel: Tunnel) -> None:
        self.went_away += 1

    def lost(self, tunnel: Tunnel, error: MeshError | None) -> None:
        self.lost_with.append(error)


@dataclass
class Relays:
    """Everything between two applications."""

    client_engine: Engine
    server_engine: Engine
    client_owner: Owner
    server_owner: Owner
    client: Tunnel
    server: Tunnel
    closed: list[StreamEnd] = field(default_factory=list)
    applications: list[trio.SocketStream] = field(default_factory=list)

    async def connect(self) -> trio.SocketStream:
        """A new application connection through the tunnel; returns the client application's end."""
        async with _accepted_pair() as (application, accepted):
            end = StreamEnd(self.client_engine, accepted, self.client, self.closed.append)
            end.open(codec.encode_connect(f"10.0.0.1:{self.server_owner.port}"))
            self.applications.append(application)
            return application


@asynccontextmanager
async def _accepted_pair() -> AsyncIterator[tuple[trio.SocketStream, socket.socket]]:
    """A connected pair of TCP sockets: an application's, and the one the relay accepted."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(True)
        application = await trio.open_tcp_stream("127.0.0.1", listener.getsockname()[1])
        # Blocking, as the acceptor hands it on: the relay must not wait on it all the same.
        accepted, _ = listener.accept()
        yield application, accepted


async def _handshakes(authority: TestAuthority) -> tuple[socket.socket, EstablishedTls, socket.socket, EstablishedTls]:
    client_credentials = authority.issue(authority.identity("demo", "client"))
    server_credentials = authority.issue(authority.identity("demo", "server"))
    results: dict[str, EstablishedTls] = {}
    async with _accepted_pair() as (application, accepted):
        client_socket = application.socket
        server_socket = trio.socket.from_stdlib_socket(accepted)

        async def shake(name: str, sock: trio.socket.SocketType, *, server_side: bool) -> None:
            context = server_context(server_credentials) if server_side else client_context(client_credentials)
            deadline = trio.current_time() + 10
            results[name] = await handshake(sock, context, server_side=server_side, deadline=deadline)

        async def shake_server() -> None:
            await shake("server", server_socket, server_side=True)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(shake_server)
            await shake("client", client_socket, server_side=False)
        return nonblocking(client_socket), results["client"], nonblocking(server_socket), results["server"]


@pytest.fixture(params=["openssl", "kernel"])
def open_relays(request: pytest.FixtureRequest) -> Callable[..., AbstractAsyncContextManager[Relays]]:
    """``async with open_relays(server_application, settings=...) as relays``."""
    in_kernel = request.param == "kernel"

    @asynccontextmanager
    async def opened(
        application: ServerApplication | None = None, settings: HboneSettings | None = None
    ) -> AsyncIterator[Relays]:
        client_engine, server_engine = Engine(), Engine()
        client_socket, client_tls, server_socket, server_tls = await _handshakes(TestAuthority())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client_engine.run)
            nursery.start_soon(server_engine.run)
            client_owner, server_owner = Owner(client_engine), Owner(server_engine)
            if application is not None:
                listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
                server_owner.port = listeners[0].socket.getsockname()[1]
                nursery.start_soon(trio.serve_listeners, application, listeners)
            client: Tunnel
            server: Tunnel
            if in_kernel:
                client = KernelTunnel(
                    client_engine, kernels(client_socket), Role.CLIENT, client_owner, "server", settings
                )
                server = KernelTunnel(
                    server_engine, kernels(server_socket), Role.SERVER, server_owner, "client", settings
                )
            else:
                client = OpensslTunnel(
                    client_engine, client_socket, client_tls, Role.CLIENT, client_owner, "server", settings
                )
                server = OpensslTunnel(
                    server_engine, server_socket, server_tls, Role.SERVER, server_owner, "client", settings
                )
            client.start()
            server.start()
            relays = Relays(client_engine, server_engine, client_owner, server_owner, client, server)
            try:
                yield relays
            finally:
                for stream in relays.applications:
                    stream.socket.close()
                client.close(None)
                server.close(None)
                nursery.cancel_scope.cancel()
        client_engine.close()
        server_engine.close()

    return opened
