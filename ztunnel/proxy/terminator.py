"""Tunnels that peers open to this node's pods: handshake, identity, and then the relay.

Until a peer has proven an identity of the trust domain it is given little: a bounded number of handshakes at a time per
pod, each with a deadline, and no word of HTTP/2 is read from it.
"""

from __future__ import annotations

import socket

import structlog
import trio

from mesh.addresses import PeerAddress, SocketAddress, from_sockaddr
from mesh.errors import MeshError, TlsFailure
from mesh.hbone.contract import HboneStream, Role
from mesh.tls.handshake_driver import handshake
from mesh.tls.peer import verify_server_side
from ztunnel.pod import Pod
from ztunnel.proxy.connections import ConnectionTable
from ztunnel.proxy.inbound import InboundProxy, ServedTunnel
from ztunnel.proxy.tls_contexts import TlsContexts
from ztunnel.relay.engine import Engine
from ztunnel.relay.socket_end import reset_socket
from ztunnel.relay.tunnel import Tunnel

HANDSHAKE_SECONDS = 10.0
MAX_HANDSHAKES = 256
"""At a time, per pod."""

_log = structlog.get_logger("inbound")


class Terminator:
    """Accepts the tunnels of one pod."""

    def __init__(
        self, engine: Engine, pod: Pod, contexts: TlsContexts, inbound: InboundProxy, table: ConnectionTable
    ) -> None:
        self._engine = engine
        self._pod = pod
        self._contexts = contexts
        self._inbound = inbound
        self._table = table
        self._handshakes = 0
        self._served: dict[Tunnel, ServedTunnel] = {}
        self._draining = False

    def accepted(self, sock: socket.socket, peer: PeerAddress) -> None:
        """A connection to port 15008."""
        if self._handshakes >= MAX_HANDSHAKES or self._draining:
            reset_socket(sock)
            _log.warning("tunnel refused", pod=self._pod.name, peer=str(peer), handshakes=self._handshakes)
            return
        self._handshakes += 1
        self._pod.tasks.start(self._terminate, sock, peer)

    async def _terminate(self, plain: socket.socket, peer: PeerAddress) -> None:
        sock = trio.socket.from_stdlib_socket(plain)
        local = SocketAddress(peer.ip, 0)
        try:
            local = from_sockaddr(sock.getsockname())
            context = await self._contexts.server(self._pod.identity)
            deadline = trio.current_time() + HANDSHAKE_SECONDS
            tls = await handshake(sock, context, server_side=True, deadline=deadline)
            identity = verify_server_side(tls.peer_identity_der, self._pod.identity.trust_domain)
        except (MeshError, OSError) as error:
            sock.close()
            self._failed(peer, local, error)
            return
        except BaseException:
            sock.close()
            raise
        finally:
            self._handshakes -= 1
        raw = socket.socket(fileno=sock.detach())
        raw.setblocking(False)
        tunnel = Tunnel(self._engine, raw, tls, Role.SERVER, self, identity)
        self._served[tunnel] = ServedTunnel(self._pod, peer, local, identity)
        tunnel.start()

    def _failed(self, peer: PeerAddress, local: SocketAddress, error: MeshError | OSError) -> None:
        connection = self._table.begin(self._pod, "inbound", peer, local)
        connection.record.destination_workload = self._pod.workload
        if isinstance(error, OSError):
            error = TlsFailure(f"the connection failed: {error.strerror or error}")
        self._table.finished(connection, error)

    # -- upkeep --------------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Once per second."""
        for tunnel in list(self._served):
            tunnel.tick(now)
            if self._draining and not tunnel.closed and not tunnel.streams:
                tunnel.close(None)

    def drain(self) -> None:
        """Tell peers to take their new connections elsewhere."""
        self._draining = True
        for tunnel in list(self._served):
            tunnel.drain()

    def __len__(self) -> int:
        return len(self._served)

    def close(self, error: MeshError | None) -> None:
        """Close all tunnels and what runs on them."""
        for tunnel in list(self._served):
            tunnel.close(error)

    # -- ztunnel.relay.tunnel.TunnelOwner ------------------------------------------------------------------------------

    def requested(self, tunnel: Tunnel, stream: HboneStream, headers: list[tuple[str, str]]) -> None:
        """A CONNECT request."""
        self._inbound.requested(self._served[tunnel], tunnel, stream, headers)

    def draining(self, tunnel: Tunnel) -> None:
        """The client will open no more streams; it closes the tunnel when it is done."""

    def lost(self, tunnel: Tunnel, error: MeshError | None) -> None:
        """The tunnel is closed."""
        self._served.pop(tunnel, None)
        if error is not None:
            _log.info("tunnel lost", pod=self._pod.name, peer_identity=str(tunnel.peer_identity), error=str(error))
