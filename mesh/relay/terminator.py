"""Tunnels that peers open to a host: handshake, identity, and then the relay.

Until a peer has proven an identity of the trust domain it is given little: a bounded number of handshakes at a time,
per host and per address, each with a deadline, and no word of HTTP/2 is read from it.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import structlog
import trio

from mesh.addresses import IpBytes, PeerAddress, SocketAddress, from_sockaddr
from mesh.certificates.tls_contexts import TlsContexts
from mesh.errors import ConnectFailed, MeshError, TlsFailure
from mesh.hbone.contract import HboneStream, Role
from mesh.identity import SpiffeId
from mesh.relay.engine import Engine
from mesh.relay.failures import unexpected
from mesh.relay.host import TunnelHost
from mesh.relay.socket_end import RawSocket, reset_socket
from mesh.relay.tunnel import Tunnel
from mesh.relay.tunnels import make_tunnel
from mesh.tls.handshake_driver import handshake
from mesh.tls.peer import verify_server_side

HANDSHAKE_SECONDS = 10.0
MAX_HANDSHAKES = 256
"""At a time, per host."""
MAX_HANDSHAKES_PER_PEER = 32
"""At a time, per host, from one address: whoever leaves handshakes unfinished does not take the place of others."""
UNUSED_SECONDS = 900.0
"""A tunnel without streams is closed after this time: a client that means well does so earlier."""
SETTLE_SECONDS = 2.0
"""How long requests that cross our GOAWAY are still taken."""

_log = structlog.get_logger("inbound")


Host = TypeVar("Host", bound=TunnelHost)


@dataclass(frozen=True, slots=True)
class ServedTunnel(Generic[Host]):
    """A tunnel that a peer has opened to a host."""

    host: Host
    peer: PeerAddress
    local: SocketAddress
    """The address the peer dialled: the host's, port 15008."""
    identity: SpiffeId


class TunnelServer(Protocol[Host]):
    """Who serves what comes in tunnels."""

    def requested(
        self, served: ServedTunnel[Host], tunnel: Tunnel, stream: HboneStream, headers: list[tuple[str, str]]
    ) -> None:
        """A CONNECT request has arrived."""

    def not_established(self, host: Host, peer: PeerAddress, local: SocketAddress, error: MeshError) -> None:
        """A connection has not become a tunnel."""


class Terminator(Generic[Host]):
    """Accepts the tunnels of one host."""

    def __init__(
        self,
        engine: Engine,
        host: Host,
        contexts: TlsContexts,
        server: TunnelServer[Host],
        workers: int = 1,
    ) -> None:
        """``workers``: so many terminators of this pod take turns, and share its bounds."""
        self._engine = engine
        self._host = host
        self._contexts = contexts
        self._server = server
        self._workers = workers
        self._handshakes = 0
        self._of_peer: dict[IpBytes, int] = {}
        """Handshakes in progress by the peer's address."""
        self._served: dict[Tunnel, ServedTunnel[Host]] = {}
        self._draining_since: float | None = None

    def accepted(self, sock: RawSocket, peer: PeerAddress) -> None:
        """A connection to port 15008."""
        try:
            local = from_sockaddr(sock.getsockname())
        except OSError:
            sock.close()
            return
        of_peer = self._of_peer.get(peer.ip, 0)
        if self._handshakes >= self._share(MAX_HANDSHAKES) or of_peer >= self._share(MAX_HANDSHAKES_PER_PEER):
            reset_socket(sock)
            self._failed(peer, local, TlsFailure(
                f"too many unfinished TLS handshakes: {of_peer} of this peer, {self._handshakes} in all"
            ))
            return
        self._handshakes += 1
        self._of_peer[peer.ip] = of_peer + 1
        self._host.tasks.start(self._terminate, sock, peer, local)

    def _share(self, limit: int) -> int:
        """This worker's part of a bound; not less than a quarter, as turns are not dealt out per peer."""
        return -(-limit // min(self._workers, 4))

    def _handshake_over(self, ip: IpBytes) -> None:
        self._handshakes -= 1
        left = self._of_peer[ip] - 1
        if left:
            self._of_peer[ip] = left
        else:
            del self._of_peer[ip]

    async def _terminate(self, plain: RawSocket, peer: PeerAddress, local: SocketAddress) -> None:
        sock = trio.socket.from_stdlib_socket(socket.socket(fileno=plain.detach()))
        try:
            context = await self._contexts.server(self._host.identity)
            deadline = trio.current_time() + HANDSHAKE_SECONDS
            kernel = self._contexts.kernel
            tls = await handshake(sock, context, server_side=True, deadline=deadline, kernel=kernel)
            identity = verify_server_side(tls.peer_identity_der, self._host.identity.trust_domain)
        except (MeshError, OSError) as error:
            sock.close()
            self._failed(peer, local, error)
            return
        except BaseException as error:
            sock.close()
            if isinstance(error, Exception):
                self._failed(peer, local, unexpected(error))
                return
            self._failed(peer, local, ConnectFailed("this end is no longer served"))
            raise
        finally:
            self._handshake_over(peer.ip)
        raw = socket.socket(fileno=sock.detach())
        raw.setblocking(False)
        tunnel = make_tunnel(self._engine, raw, tls, Role.SERVER, self, identity)
        self._served[tunnel] = ServedTunnel(self._host, peer, local, identity)
        tunnel.start()
        if self._draining_since is not None:
            tunnel.ask_to_leave()

    def _failed(self, peer: PeerAddress, local: SocketAddress, error: MeshError | OSError) -> None:
        if isinstance(error, OSError):
            error = TlsFailure(f"the connection failed: {error.strerror or error}")
        self._server.not_established(self._host, peer, local, error)

    # -- upkeep --------------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Once per second."""
        settled = self.settled(now)
        for tunnel in list(self._served):
            tunnel.tick(now)
            if tunnel.closed:
                continue
            if settled:
                tunnel.drain()
            unused = not tunnel.streams and tunnel.idle
            if unused and (settled or now - tunnel.last_used > UNUSED_SECONDS):
                tunnel.close(None)

    def drain(self) -> None:
        """Tell peers to take their new connections elsewhere."""
        if self._draining_since is None:
            self._draining_since = self._engine.now
            for tunnel in list(self._served):
                tunnel.ask_to_leave()

    def settled(self, now: float) -> bool:
        """Whether peers have had the time to read that we are going away."""
        return (
            self._draining_since is not None
            and not self._handshakes
            and now - self._draining_since > SETTLE_SECONDS
        )

    def __len__(self) -> int:
        return len(self._served)

    def close(self, error: MeshError | None) -> None:
        """Close all tunnels and what runs on them."""
        for tunnel in list(self._served):
            tunnel.close(error)

    # -- mesh.relay.tunnel.TunnelOwner ------------------------------------------------------------------------------

    def requested(self, tunnel: Tunnel, stream: HboneStream, headers: list[tuple[str, str]]) -> None:
        """A CONNECT request."""
        self._server.requested(self._served[tunnel], tunnel, stream, headers)

    def draining(self, tunnel: Tunnel) -> None:
        """The client will open no more streams; it closes the tunnel when it is done."""

    def lost(self, tunnel: Tunnel, error: MeshError | None) -> None:
        """The tunnel is closed."""
        self._served.pop(tunnel, None)
        if error is not None:
            _log.info("tunnel lost", host=self._host.name, peer_identity=str(tunnel.peer_identity), error=str(error))
