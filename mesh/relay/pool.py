"""The tunnels that one host has opened, shared by connections between the same two workloads.

A tunnel may be shared by connections whose whole key is equal: source identity (its certificate), the identities the
destination may prove, the address dialled, and the source address. Within a key, streams go to the tunnel with the
most of them that is neither full nor congested: the more share one, the more share a record and a system call, and
those opened for a rush become empty again. When all are full or congested another one is opened, up to a limit, so that
one bulk transfer does not stall the rest; at the limit streams go to the congested one with the fewest.

Handing out is synchronous when a tunnel is ready, which is the usual case; otherwise one task dials and everybody who
asked meanwhile waits for it, and shares its failure.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from typing import NamedTuple

import structlog
import trio

from mesh.addresses import IpBytes, SocketAddress, format_ip, is_ipv4, to_sockaddr
from mesh.certificates.tls_contexts import TlsContexts
from mesh.errors import ConnectFailed, HboneUnreachable, MeshError
from mesh.hbone.contract import HboneStream, Role
from mesh.identity import SpiffeId
from mesh.relay.engine import Engine
from mesh.relay.host import TunnelHost
from mesh.relay.tunnel import Tunnel
from mesh.relay.tunnels import make_tunnel
from mesh.tls.handshake_driver import handshake
from mesh.tls.peer import verify_client_side

CONNECT_SECONDS = 10.0
HANDSHAKE_SECONDS = 10.0
MAX_STREAMS = 100
"""Streams put on one tunnel, if the peer takes as many."""
MAX_TUNNELS = 4
"""Tunnels per key that are opened because others are congested; full ones do not count."""
CONGESTED_SECONDS = 0.25
"""A tunnel whose socket was full within this time is avoided."""
UNUSED_SECONDS = 300.0
"""A tunnel without streams is closed after this time."""

_log = structlog.get_logger("pool")


class PoolKey(NamedTuple):
    """Connections with an equal key may share a tunnel."""

    source: SpiffeId
    source_ip: IpBytes
    expected: frozenset[SpiffeId | str]
    address: SocketAddress


@dataclass(slots=True)
class _Entry:
    tunnels: list[Tunnel] = field(default_factory=list)
    dialling: trio.Event | None = None
    failure: MeshError | None = None


class TunnelPool:
    """One pool per host: nothing is shared between pods, whatever their identities."""

    def __init__(self, engine: Engine, host: TunnelHost, contexts: TlsContexts) -> None:
        self._engine = engine
        self._host = host
        self._contexts = contexts
        self._entries: dict[PoolKey, _Entry] = {}
        self._keys: dict[Tunnel, PoolKey] = {}

    def ready(self, key: PoolKey) -> Tunnel | None:
        """A tunnel that takes another stream now, or None."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        fullest: Tunnel | None = None
        congested: Tunnel | None = None
        congested_since = self._engine.now - CONGESTED_SECONDS
        for tunnel in entry.tunnels:
            if tunnel.streams >= MAX_STREAMS or tunnel.machine.free_streams <= 0:
                continue
            if tunnel.blocked_at > congested_since and tunnel.streams:
                if congested is None or tunnel.streams < congested.streams:
                    congested = tunnel
            elif fullest is None or tunnel.streams > fullest.streams:
                fullest = tunnel
        if fullest is None and len(entry.tunnels) >= MAX_TUNNELS:
            return congested
        return fullest

    async def checkout(self, key: PoolKey) -> Tunnel:
        """A tunnel that takes another stream, dialled if there is none.

        Raises:
            ConnectFailed, HboneUnreachable, TlsFailure, IdentityUnavailable: it cannot be had.
        """
        while True:
            tunnel = self.ready(key)
            if tunnel is not None:
                return tunnel
            entry = self._entries.setdefault(key, _Entry())
            if entry.dialling is None:
                return await self._dial(key, entry)
            await entry.dialling.wait()
            if entry.failure is not None:
                raise entry.failure

    async def _dial(self, key: PoolKey, entry: _Entry) -> Tunnel:
        event = entry.dialling = trio.Event()
        entry.failure = None
        try:
            tunnel = await self._open(key)
            entry.tunnels.append(tunnel)
            self._keys[tunnel] = key
            tunnel.start()
            if tunnel.closed or tunnel.machine.free_streams <= 0:
                # Whoever asked would dial again at once, and so without end.
                tunnel.close(None)
                raise ConnectFailed(f"{key.address} ended the tunnel, or took no connection on it, as soon as it stood")
            return tunnel
        except MeshError as error:
            entry.failure = error
            raise
        except trio.Cancelled:
            entry.failure = ConnectFailed("the pod is no longer served")
            raise
        finally:
            entry.dialling = None
            self._drop_if_empty(key, entry)
            event.set()

    async def _open(self, key: PoolKey) -> Tunnel:
        context = await self._contexts.client(key.source)
        sock = await self._connect(key)
        try:
            deadline = trio.current_time() + HANDSHAKE_SECONDS
            kernel = self._contexts.kernel
            tls = await handshake(sock, context, server_side=False, deadline=deadline, kernel=kernel)
            identity = verify_client_side(tls.peer_identity_der, key.expected)
        except BaseException:
            sock.close()
            raise
        raw = socket.socket(fileno=sock.detach())
        raw.setblocking(False)
        return make_tunnel(self._engine, raw, tls, Role.CLIENT, self, identity)

    async def _connect(self, key: PoolKey) -> trio.socket.SocketType:
        ipv4 = is_ipv4(key.address.ip)
        family = socket.AF_INET if ipv4 else socket.AF_INET6
        plain = self._host.namespace.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        sock = trio.socket.from_stdlib_socket(plain)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await sock.bind((format_ip(key.source_ip), 0))
            with trio.move_on_after(CONNECT_SECONDS) as scope:
                await sock.connect(to_sockaddr(key.address))
        except OSError as error:
            sock.close()
            raise ConnectFailed(f"cannot connect to {key.address}: {error.strerror or error}") from error
        except BaseException:
            sock.close()
            raise
        if scope.cancelled_caught:
            sock.close()
            raise HboneUnreachable(
                f"no answer from {key.address} within {CONNECT_SECONDS:.0f} s: maybe a NetworkPolicy is blocking the "
                f"HBONE port {key.address.port}, or the pod is gone"
            )
        return sock

    # -- upkeep --------------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Once per second: keep tunnels alive, close the unused and, once they are empty, the retired."""
        for tunnel, key in list(self._keys.items()):
            tunnel.tick(now)
            if tunnel.closed or tunnel.streams or not tunnel.idle:
                continue
            entry = self._entries.get(key)
            retired = entry is None or tunnel not in entry.tunnels
            if retired or now - tunnel.last_used > UNUSED_SECONDS:
                tunnel.drain()
                tunnel.close(None)

    def forget_identity(self) -> None:
        """The pod's certificate was renewed: new streams go to tunnels made with the new one."""
        for tunnel in list(self._keys):
            self._retire(tunnel)

    def __len__(self) -> int:
        return len(self._keys)

    def close(self, error: MeshError | None) -> None:
        """Close all tunnels and what runs on them."""
        for tunnel in list(self._keys):
            tunnel.close(error)

    def _retire(self, tunnel: Tunnel) -> None:
        """Give no more streams to this tunnel."""
        key = self._keys.get(tunnel)
        entry = self._entries.get(key) if key is not None else None
        if entry is not None and key is not None and tunnel in entry.tunnels:
            entry.tunnels.remove(tunnel)
            self._drop_if_empty(key, entry)

    def _drop_if_empty(self, key: PoolKey, entry: _Entry) -> None:
        if not entry.tunnels and entry.dialling is None and self._entries.get(key) is entry:
            del self._entries[key]

    # -- mesh.relay.tunnel.TunnelOwner ------------------------------------------------------------------------------

    def requested(self, tunnel: Tunnel, stream: HboneStream, headers: list[tuple[str, str]]) -> None:
        """A server has no requests to make; the machine refuses them before this."""

    def draining(self, tunnel: Tunnel) -> None:
        """The peer sent GOAWAY."""
        self._retire(tunnel)

    def lost(self, tunnel: Tunnel, error: MeshError | None) -> None:
        """The tunnel is closed."""
        self._retire(tunnel)
        self._keys.pop(tunnel, None)
        if error is not None:
            _log.info("tunnel lost", host=self._host.name, error=str(error))
