"""What applications dial: find the destination, find a tunnel to it, let the relay do the rest.

The usual connection takes no turn through trio: its destination is known, a tunnel is ready, and everything happens in
the engine's handler. Whatever must wait (for the control plane, a certificate, a handshake) goes to a task.
"""

from __future__ import annotations

import random
import socket
from typing import Final

import trio

from mesh import ports
from mesh.addresses import OriginalDestination, PeerAddress, SocketAddress, is_ipv4, is_loopback, to_sockaddr
from mesh.errors import ConnectFailed, MeshError, SelfCall, UnknownWorkload, WaypointUnavailable
from mesh.hbone.codec import encode_connect, new_traceparent
from mesh.identity import SpiffeId
from mesh.relay.engine import Engine
from mesh.relay.failures import failing, unexpected
from mesh.relay.plain_pair import PlainPair
from mesh.relay.pool import PoolKey, TunnelPool
from mesh.relay.socket_end import RawSocket, reset_socket
from mesh.relay.stream_end import StreamEnd
from mesh.relay.tunnel import Tunnel
from mesh.state.routes import Passthrough, ToWorkload
from mesh.state.store import Changes, MeshState
from mesh.state.upstream import choose_upstream
from mesh.telemetry.access_log import NoMtls
from mesh.telemetry.metrics import ServiceLabels
from ztunnel.fastpath.contract import FastPathMemory
from ztunnel.pod import Pod
from ztunnel.proxy.baggage import BaggageCache
from ztunnel.proxy.connections import Connection, ConnectionTable
from ztunnel.proxy.contract import OriginalDestinations
from ztunnel.proxy.descriptions import Descriptions
from ztunnel.proxy.dials import Dials

WAYPOINT_SECONDS = 5.0
"""How long a connection waits for a waypoint that is not up: one that has just been made, or is restarting."""

_KEPT_PLANS: Final = 4096


class _Plan:
    """What the connections of a pod along one route have in common. It holds on to both, whose numbers are its key."""

    __slots__ = ("authority", "key", "labels", "pod", "service", "upstream")

    def __init__(self, pod: Pod, upstream: ToWorkload, key: PoolKey | None, labels: ServiceLabels) -> None:
        self.pod = pod
        self.upstream = upstream
        self.key = key
        """Of the tunnels; None where the pod has no address of the destination's family."""
        self.labels = labels
        self.authority = str(upstream.target)
        self.service = upstream.service_hostname


class OutboundProxy:
    """Serves the outbound listeners of all pods."""

    def __init__(
        self,
        engine: Engine,
        state: MeshState,
        descriptions: Descriptions,
        originals: OriginalDestinations,
        table: ConnectionTable,
        dials: Dials,
        baggage: BaggageCache,
        fast_path: FastPathMemory | None,
    ) -> None:
        self._engine = engine
        self._state = state
        self._descriptions = descriptions
        self._originals = originals
        self._table = table
        self._dials = dials
        self._baggage = baggage
        self._fast_path = fast_path
        self._random = random.Random().random
        self._plans: dict[tuple[int, int], _Plan] = {}
        """By pod and route."""
        self._direct: dict[tuple[int, OriginalDestination], _Plan] = {}
        """By pod and what was dialled, where that is a workload's own address."""
        state.subscribe(self._forget_plans)

    def accepted(self, pod: Pod, pool: TunnelPool, sock: RawSocket, peer: PeerAddress) -> None:
        """An application of ``pod`` has dialled something; its socket is ours now."""
        connection = self._table.begin(pod, "outbound", peer, peer)
        try:
            original = self._originals.take(sock.fileno())
            chosen = self._originals.chosen
            if original is not None:
                connection.record.destination = original
            if original is None or (is_loopback(original.ip) and original.port in ports.IN_POD):
                # Nobody was redirected here: the application dialled the listener itself.
                raise SelfCall("the application dialled a port of the mesh itself")
            if self._descriptions.is_ready(pod):
                self._route(pod, pool, sock, connection, chosen)
            else:
                pod.tasks.start(self._route_later, pod, pool, sock, connection, chosen)
        except MeshError as error:
            self._fail(sock, connection, error)
        except Exception as error:
            self._fail(sock, connection, unexpected(error))

    async def _route_later(
        self, pod: Pod, pool: TunnelPool, sock: RawSocket, connection: Connection, chosen: SocketAddress | None
    ) -> None:
        with failing(lambda error: self._fail(sock, connection, error)):
            await self._descriptions.ready(pod)
            self._route(pod, pool, sock, connection, chosen)

    async def _route_when_waypoint_is_up(
        self, pod: Pod, pool: TunnelPool, sock: RawSocket, connection: Connection, chosen: SocketAddress | None
    ) -> None:
        with failing(lambda error: self._fail(sock, connection, error)):
            with trio.move_on_after(WAYPOINT_SECONDS):
                while True:
                    await self._state.wait_change()
                    try:
                        self._route(pod, pool, sock, connection, chosen, may_wait=False)
                    except WaypointUnavailable:
                        continue
                    return
            self._route(pod, pool, sock, connection, chosen, may_wait=False)

    def _route(
        self,
        pod: Pod,
        pool: TunnelPool,
        sock: RawSocket,
        connection: Connection,
        chosen: SocketAddress | None,
        *,
        may_wait: bool = True,
    ) -> None:
        record = connection.record
        source = pod.workload
        if source is None:
            raise UnknownWorkload(f"the control plane has not described pod {pod.name}")
        record.source_workload = source
        original = OriginalDestination(record.destination)
        plan = self._direct.get((id(pod), original))
        if plan is None:
            try:
                upstream = choose_upstream(self._state, source, original, self._random, chosen)
            except WaypointUnavailable:
                if not may_wait:
                    raise
                pod.tasks.start(self._route_when_waypoint_is_up, pod, pool, sock, connection, chosen)
                return
            if isinstance(upstream, Passthrough):
                record.no_mtls = NoMtls.DESTINATION_UNKNOWN
                self._table.described(connection, ServiceLabels())
                self._dial_plain(pod, sock, connection, upstream.address)
                return
            plan = self._plan(pod, original, upstream)
        upstream = plan.upstream
        record.destination_workload = upstream.workload
        record.destination_service = plan.service
        if self._fast_path is not None and upstream.service_key is not None:
            self._fast_path.dialled_service(pod, original, upstream)
        if upstream.tunnel is None:
            record.no_mtls = NoMtls.DESTINATION_NOT_ENROLLED
            record.destination = upstream.target
            self._table.described(connection, plan.labels)
            self._dial_plain(pod, sock, connection, upstream.target)
            return
        record.destination = upstream.tunnel
        record.hbone_target = plan.authority
        if plan.key is None:
            raise ConnectFailed(f"pod {pod.name} has no address of the family of {upstream.tunnel}")
        tunnel = pool.ready(plan.key)
        if tunnel is None:
            pod.tasks.start(self._open_later, pool, plan, sock, connection)
        else:
            self._open_stream(tunnel, plan, sock, connection)

    def _plan(self, pod: Pod, original: OriginalDestination, upstream: ToWorkload) -> _Plan:
        """What the connections along a route have in common; kept until anything in the mesh changes."""
        plan = self._plans.get((id(pod), id(upstream)))
        if plan is not None:
            return plan
        view = None if upstream.service_key is None else self._state.services.views.get(upstream.service_key)
        key: PoolKey | None = None
        if upstream.tunnel is not None:
            source_ip = pod.address(ipv4=is_ipv4(upstream.tunnel.ip))
            if source_ip is not None:
                key = PoolKey(pod.identity, source_ip, upstream.expected_identities, upstream.tunnel)
        plan = _Plan(pod, upstream, key, ServiceLabels.of(None if view is None else view.service))
        if len(self._plans) >= _KEPT_PLANS:
            self._forget_plans()
        self._plans[id(pod), id(upstream)] = plan
        if upstream.service_key is None:
            self._direct[id(pod), original] = plan  # nothing is drawn: the same each time
        return plan

    def _forget_plans(self, _changes: Changes | None = None) -> None:
        self._plans.clear()
        self._direct.clear()

    async def _open_later(
        self, pool: TunnelPool, plan: _Plan, sock: RawSocket, connection: Connection
    ) -> None:
        assert plan.key is not None
        try:
            tunnel = await pool.checkout(plan.key)
            self._open_stream(tunnel, plan, sock, connection)
        except MeshError as error:
            self._table.described(connection, plan.labels)
            self._fail(sock, connection, error)
        except trio.Cancelled:
            self._fail(sock, connection, ConnectFailed("the pod is no longer served"))
            raise
        except Exception as error:
            self._fail(sock, connection, unexpected(error))

    def _open_stream(
        self, tunnel: Tunnel, plan: _Plan, sock: RawSocket, connection: Connection
    ) -> None:
        pod, record = connection.pod, connection.record
        record.source_identity = pod.identity
        if isinstance(tunnel.peer_identity, SpiffeId):
            record.destination_identity = tunnel.peer_identity
        record.no_mtls = None
        self._table.described(connection, plan.labels)
        service = plan.service
        block = encode_connect(
            plan.authority,
            forwarded=f'for="{record.source}";host={service}' if service else f'for="{record.source}"',
            baggage=self._baggage.text(pod),
            traceparent=new_traceparent(),
        )
        end = StreamEnd(self._engine, sock, tunnel, lambda end: self._table.finished(connection, end.error))
        connection.end = end
        end.open(block)

    def _dial_plain(self, pod: Pod, sock: RawSocket, connection: Connection, address: SocketAddress) -> None:
        family = socket.AF_INET if is_ipv4(address.ip) else socket.AF_INET6
        dialled = pod.namespace.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        dialled.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        dialled.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        pair = PlainPair(self._engine, sock, dialled, lambda pair: self._table.finished(connection, pair.error))
        connection.end = pair
        pair.dial(to_sockaddr(address), self._dials.watch)

    def _fail(self, sock: RawSocket, connection: Connection, error: MeshError) -> None:
        if connection.end is not None:
            connection.end.cut(error)
            return
        reset_socket(sock)
        self._table.finished(connection, error)
