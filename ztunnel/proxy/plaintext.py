"""Plaintext that reaches a pod: from clients outside the mesh, as far as policies admit them."""

from __future__ import annotations

from mesh.addresses import PeerAddress, SocketAddress, from_sockaddr
from mesh.errors import MeshError
from mesh.rbac import ConnectionFacts
from mesh.relay.engine import Engine
from mesh.relay.plain_pair import PlainPair
from mesh.relay.socket_end import RawSocket, reset_socket
from mesh.state.store import MeshState
from mesh.telemetry.access_log import NoMtls
from mesh.telemetry.metrics import ServiceLabels
from ztunnel.pod import Pod
from ztunnel.proxy.admission import check_destination, judge
from ztunnel.proxy.connections import Connection, ConnectionTable, failing, unexpected
from ztunnel.proxy.delivery import Deliverer, sockaddr
from ztunnel.proxy.descriptions import Descriptions
from ztunnel.proxy.dials import Dials


class PlaintextProxy:
    """Serves the plaintext listeners of all pods."""

    def __init__(
        self,
        engine: Engine,
        state: MeshState,
        descriptions: Descriptions,
        table: ConnectionTable,
        deliverer: Deliverer,
        dials: Dials,
    ) -> None:
        self._engine = engine
        self._state = state
        self._descriptions = descriptions
        self._table = table
        self._deliverer = deliverer
        self._dials = dials

    def accepted(self, pod: Pod, sock: RawSocket, peer: PeerAddress) -> None:
        """A connection without a tunnel; the kernel handed it here with the address it was sent to."""
        try:
            local = from_sockaddr(sock.getsockname())
        except OSError:
            sock.close()
            return
        connection = self._table.begin(pod, "inbound", peer, local)
        connection.swapped = True
        record = connection.record
        record.no_mtls = NoMtls.CLIENT_SENT_PLAINTEXT
        record.source_workload = self._state.workload_at("" if pod.workload is None else pod.workload.network, peer.ip)
        try:
            check_destination(pod, local, "plaintext")
            if self._descriptions.is_ready(pod):
                self._deliver(pod, sock, connection, local, peer)
            else:
                pod.tasks.start(self._deliver_later, pod, sock, connection, local, peer)
        except MeshError as error:
            self._fail(sock, connection, error)
        except Exception as error:
            self._fail(sock, connection, unexpected(error))

    async def _deliver_later(
        self, pod: Pod, sock: RawSocket, connection: Connection, local: SocketAddress, peer: PeerAddress
    ) -> None:
        with failing(lambda error: self._fail(sock, connection, error)):
            await self._descriptions.ready(pod)
            self._deliver(pod, sock, connection, local, peer)

    def _deliver(
        self, pod: Pod, sock: RawSocket, connection: Connection, local: SocketAddress, peer: PeerAddress
    ) -> None:
        self._describe(connection)
        judge(connection, ConnectionFacts(peer.ip, None, local.ip, local.port))
        dialled = self._deliverer.socket_for(pod, local, peer)
        pair = PlainPair(self._engine, sock, dialled, lambda pair: self._table.finished(connection, pair.error))
        connection.end = pair
        pair.dial(sockaddr(local), self._dials.watch)

    def _describe(self, connection: Connection) -> None:
        connection.record.destination_workload = connection.pod.workload
        self._table.described(connection, ServiceLabels())

    def _fail(self, sock: RawSocket, connection: Connection, error: MeshError) -> None:
        if connection.end is not None:
            connection.end.cut(error)
            return
        reset_socket(sock)
        self._describe(connection)
        self._table.finished(connection, error)
