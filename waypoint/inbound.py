"""Tunnels that clients' ztunnels open to this waypoint, and the connections in them.

A CONNECT names what the client dialled: the virtual address of a service that is bound to this waypoint, the address
of a workload that is, or a host name. What is not bound to it is refused: nobody is carried to a place that did not ask
for this waypoint. The rest is answered 200 at once, since what the client wants is known only from what it says then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import structlog

from mesh.addresses import PeerAddress, SocketAddress
from mesh.errors import DestinationMismatch, Draining, MeshError
from mesh.hbone.codec import ConnectRequest, ErrorCode, decode_connect, encode_response
from mesh.hbone.contract import HboneStream
from mesh.identity import SpiffeId
from mesh.model.workload import Workload
from mesh.relay.failures import unexpected
from mesh.relay.terminator import ServedTunnel
from mesh.relay.tunnel import Tunnel
from mesh.state.store import MeshState
from waypoint.client import Client
from waypoint.destinations import Destinations
from waypoint.host import WaypointHost
from waypoint.wire.stream_wire import StreamWire

_log = structlog.get_logger("inbound")

Begin = Callable[[StreamWire], None]
"""Attaches to a connection who is told of what comes on it."""


class ConnectionServer(Protocol):
    """What serves the connections to one destination."""

    def admit(self, client: Client) -> Begin:
        """A client wants to connect. What is returned is called when it has been told that it is connected.

        Raises:
            MeshError: it is not served; the CONNECT is answered with the error's status.
        """
        ...


class Inbound:
    """Serves what comes in tunnels (``mesh.relay.terminator.TunnelServer``)."""

    def __init__(
        self,
        state: MeshState,
        destinations: Destinations[ConnectionServer],
        network: str,
        refused: Callable[[PeerAddress, str, MeshError], None],
    ) -> None:
        """Begin to serve.

        Args:
            state: of the mesh.
            destinations: what is bound to this waypoint.
            network: of this waypoint.
            refused: told of every connection that is not served: the peer, what it wanted, and why not.
        """
        self._state = state
        self._destinations = destinations
        self._network = network
        self._refused = refused
        self.draining = False

    def requested(
        self,
        served: ServedTunnel[WaypointHost],
        tunnel: Tunnel,
        stream: HboneStream,
        headers: list[tuple[str, str]],
    ) -> None:
        """A client wants to be connected."""
        wanted = ""
        try:
            if self.draining:
                raise Draining("this replica of the waypoint is shutting down")
            request = decode_connect(headers)
            wanted = request.authority
            server, destination = self._serving(request)
            client = self._client(served, request, destination)
            begin = server.admit(client)
        except MeshError as error:
            self._refuse(served.peer, wanted, tunnel, stream, error)
        except Exception as error:
            self._refuse(served.peer, wanted, tunnel, stream, unexpected(error))
        else:
            self._begin(begin, tunnel, stream)

    def _begin(self, begin: Begin, tunnel: Tunnel, stream: HboneStream) -> None:
        wire = StreamWire(tunnel)
        # Adopted first: whoever serves may find at once that it cannot, and reset the connection.
        wire.adopt(stream)
        tunnel.answer(wire, stream, encode_response(200))
        try:
            begin(wire)
        except Exception as error:  # costs this connection, not its tunnel
            _log.error("a connection could not be served", exc_info=error)
            wire.crashed(unexpected(error))

    def not_established(
        self, host: WaypointHost, peer: PeerAddress, local: SocketAddress, error: MeshError
    ) -> None:
        """A connection to port 15008 has not become a tunnel."""
        self._refused(peer, str(local), error)

    def _serving(self, request: ConnectRequest) -> tuple[ConnectionServer, SocketAddress | None]:
        target = request.target
        if target is None:
            server = self._destinations.at_host(request.hostname)
        else:
            view = self._state.service_at(self._network, target.ip)
            server = None if view is None else self._destinations.get(view.key)
            if server is None and (workload := self._state.workload_at(self._network, target.ip)) is not None:
                server = self._destinations.get(workload.uid)
        if server is None:
            raise DestinationMismatch(
                f"{request.authority} is not bound to this waypoint, or it has not been told so yet"
            )
        return server, target

    def _client(
        self, served: ServedTunnel[WaypointHost], request: ConnectRequest, destination: SocketAddress | None
    ) -> Client:
        address = served.peer
        if request.forwarded_for is not None and request.forwarded_for.ip == served.peer.ip:
            # The port is the peer's word; the address is the one the tunnel comes from.
            address = PeerAddress(request.forwarded_for)
        workload = self._workload(served.peer, served.identity)
        return Client(
            identity=served.identity,
            address=address,
            destination=destination or SocketAddress(served.local.ip, request.port),
            workload=workload,
            labels=self._destinations.labels_of(workload.uid) if workload is not None else {},
        )

    def _workload(self, peer: PeerAddress, identity: SpiffeId) -> Workload | None:
        """Whose address the peer has, if that workload has the identity that was proven."""
        workload = self._state.workload_at(self._network, peer.ip)
        return workload if workload is not None and workload.identity == identity else None

    def _refuse(
        self, peer: PeerAddress, wanted: str, tunnel: Tunnel, stream: HboneStream, error: MeshError
    ) -> None:
        tunnel.machine.respond(stream, encode_response(error.http_status), end=True)
        tunnel.machine.reset_stream(stream, ErrorCode.NO_ERROR)
        _log.info("connection refused", peer=str(peer), wanted=wanted[:320], error=str(error))
        self._refused(peer, wanted, error)
