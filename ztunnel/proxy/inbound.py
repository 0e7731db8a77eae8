"""Requests inside tunnels: a peer asks for a connection to one of the pod's ports.

Each is judged by the pod's policies and, if admitted, delivered by a socket that dials the application from inside the
pod. It is answered 200 only once the application has accepted; a refusal carries the status of its error.
"""

from __future__ import annotations

import trio

from mesh.addresses import PeerAddress, SocketAddress, to_sockaddr
from mesh.errors import ConnectFailed, DestinationMismatch, MeshError
from mesh.hbone.codec import ConnectRequest, ErrorCode, decode_connect, encode_response
from mesh.hbone.contract import HboneStream
from mesh.model.workload import Workload
from mesh.rbac import ConnectionFacts
from mesh.relay.engine import Engine
from mesh.relay.failures import unexpected
from mesh.relay.stream_end import StreamEnd
from mesh.relay.terminator import ServedTunnel
from mesh.relay.tunnel import Tunnel
from mesh.state.store import MeshState
from mesh.telemetry.metrics import NO_SERVICE
from ztunnel.fastpath.contract import FastPathMemory
from ztunnel.pod import Pod
from ztunnel.proxy.admission import check_destination, judge
from ztunnel.proxy.baggage import BaggageCache
from ztunnel.proxy.connections import Connection, ConnectionTable
from ztunnel.proxy.delivery import Deliverer
from ztunnel.proxy.descriptions import Descriptions
from ztunnel.proxy.dials import Dials


class _Request:
    """One request, as far as it has come."""

    __slots__ = ("connection", "served", "stream", "target", "tunnel")

    def __init__(
        self,
        served: ServedTunnel[Pod],
        tunnel: Tunnel,
        stream: HboneStream,
        connection: Connection,
        target: SocketAddress,
    ) -> None:
        self.served = served
        self.tunnel = tunnel
        self.stream = stream
        self.connection = connection
        self.target = target


class InboundProxy:
    """Serves the HBONE listeners of all pods."""

    def __init__(
        self,
        engine: Engine,
        state: MeshState,
        descriptions: Descriptions,
        table: ConnectionTable,
        deliverer: Deliverer,
        dials: Dials,
        baggage: BaggageCache,
        fast_path: FastPathMemory | None,
    ) -> None:
        self._engine = engine
        self._state = state
        self._descriptions = descriptions
        self._table = table
        self._deliverer = deliverer
        self._dials = dials
        self._baggage = baggage
        self._fast_path = fast_path

    def requested(
        self, served: ServedTunnel[Pod], tunnel: Tunnel, stream: HboneStream, headers: list[tuple[str, str]]
    ) -> None:
        """A CONNECT request has arrived."""
        pod = served.host
        connection = self._table.begin(pod, "inbound", served.peer, served.local)
        record = connection.record
        record.source_identity = served.identity
        record.destination_identity = pod.identity
        record.no_mtls = None
        record.source_workload = self._source_workload(pod, served)
        try:
            message = decode_connect(headers)
            if message.forwarded_for is not None and message.forwarded_for.ip == served.peer.ip:
                # The port is the peer's word; the address is the one the tunnel comes from.
                record.source = message.forwarded_for
            record.hbone_target = message.authority
            request = _Request(served, tunnel, stream, connection, _target(pod, message))
            if self._descriptions.is_ready(pod):
                self._judge(request)
                self._deliver(request, self._make_end(request))
            else:
                # The end is made first: it keeps what the peer sends ahead, within the stream's window.
                pod.tasks.start(self._deliver_later, request, self._make_end(request))
        except MeshError as error:
            self._turn_down(tunnel, stream, connection, error)
        except Exception as error:
            self._turn_down(tunnel, stream, connection, unexpected(error))

    def not_established(self, pod: Pod, peer: PeerAddress, local: SocketAddress, error: MeshError) -> None:
        """A connection to port 15008 has not become a tunnel."""
        connection = self._table.begin(pod, "inbound", peer, local)
        connection.record.destination_workload = pod.workload
        self._table.finished(connection, error)

    def _turn_down(self, tunnel: Tunnel, stream: HboneStream, connection: Connection, error: MeshError) -> None:
        tunnel.machine.respond(stream, encode_response(error.http_status), end=True)
        tunnel.machine.reset_stream(stream, ErrorCode.NO_ERROR)
        self._describe(connection)
        if connection.end is not None:
            connection.end.cut(error)
        else:
            self._table.finished(connection, error)

    def _judge(self, request: _Request) -> None:
        self._describe(request.connection)
        served, target = request.served, request.target
        judge(request.connection, ConnectionFacts(served.peer.ip, served.identity, target.ip, target.port))

    def _make_end(self, request: _Request) -> StreamEnd:
        connection = request.connection
        sock = self._deliverer.socket_for(request.served.host, request.target, connection.record.source)
        end = StreamEnd(self._engine, sock, request.tunnel, lambda end: self._table.finished(connection, end.error))
        connection.end = end
        end.adopt(request.stream)
        return end

    async def _deliver_later(self, request: _Request, end: StreamEnd) -> None:
        try:
            await self._descriptions.ready(request.served.host)
            if not end.closed:
                self._judge(request)
                self._deliver(request, end)
        except MeshError as error:
            self._describe(request.connection)
            _refuse(request, end, error)
        except trio.Cancelled:
            _refuse(request, end, ConnectFailed("the pod is no longer served"))
            raise
        except Exception as error:
            _refuse(request, end, unexpected(error))

    def _deliver(self, request: _Request, end: StreamEnd) -> None:
        def dialled(error: MeshError | None) -> None:
            if error is None:
                block = encode_response(200, baggage=self._baggage.text(request.served.host))
                request.tunnel.answer(end, request.stream, block)
                if self._fast_path is not None and request.connection.facts is not None:
                    self._fast_path.admitted(request.served.host, request.connection.facts)
            else:
                _refuse(request, end, error)

        end.dial(to_sockaddr(request.target), dialled, self._dials.watch)

    def _describe(self, connection: Connection) -> None:
        connection.record.destination_workload = connection.pod.workload
        self._table.described(connection, NO_SERVICE)

    def _source_workload(self, pod: Pod, served: ServedTunnel[Pod]) -> Workload | None:
        """Whose address the peer has, if that workload has the identity that was proven."""
        network = "" if pod.workload is None else pod.workload.network
        workload = self._state.workload_at(network, served.peer.ip)
        return workload if workload is not None and workload.identity == served.identity else None


def _target(pod: Pod, message: ConnectRequest) -> SocketAddress:
    if message.target is None:
        raise DestinationMismatch(f"CONNECT to host {message.hostname}, but pod {pod.name} is no gateway")
    check_destination(pod, message.target, "CONNECT")
    return message.target


def _refuse(request: _Request, end: StreamEnd, error: MeshError) -> None:
    if not end.closed:
        request.tunnel.machine.respond(request.stream, encode_response(error.http_status), end=True)
        end.cut(error, ErrorCode.NO_ERROR)
