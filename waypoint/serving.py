"""Serving the destinations that are bound to this waypoint: from a client's connection to its record."""

from __future__ import annotations

import random
from functools import partial
from weakref import WeakSet

import structlog
from prometheus_client import CollectorRegistry

from mesh.addresses import PeerAddress
from mesh.errors import DestinationMismatch, MeshError
from mesh.model.waypoint import Destination, DestinationPort
from mesh.model.workload import AppProtocol
from mesh.relay.engine import Engine
from mesh.relay.pool import TunnelPool
from mesh.state.store import MeshState
from mesh.telemetry.output import LineOutput
from waypoint.client import Client
from waypoint.config import GatewayGroup
from waypoint.deciding import ConnectionDecider, PortDecider
from waypoint.exchange.attempts import Context
from waypoint.exchange.client_connection import ClientConnection
from waypoint.guarding import Guard
from waypoint.host import WaypointHost
from waypoint.http.limits import HttpLimits
from waypoint.inbound import Begin, ConnectionServer
from waypoint.limiting import Limiter, SharedCounting
from waypoint.posting import CollectorClient
from waypoint.requests import DestinationRequests, Requests
from waypoint.routing.port import PortRoutes
from waypoint.security.external_authorizers import ExternalAuthorizers
from waypoint.security.key_store_driver import KeyStore
from waypoint.streaming import StreamServer
from waypoint.telemetry.otlp_driver import SpanQueues
from waypoint.upstream.endpoint import LabelsOf
from waypoint.upstream.health_driver import HealthChecks
from waypoint.upstream.services import Services
from waypoint.wire.stream_wire import StreamWire
from waypoint.wire.timers import Timers

_BYTES = frozenset({AppProtocol.TCP})
"""Never looked at: the other side may be the first to speak."""
_SNIFFED = frozenset({AppProtocol.UNKNOWN, AppProtocol.TLS})

_MOST_PORTS = 256
"""Of a destination of which any port is served: what clients may make us keep."""
_Followed = tuple[Context, ConnectionDecider]
"""What of a connection follows its destination."""

_log = structlog.get_logger("serving")


class Serving:
    """What all destinations share."""

    def __init__(
        self,
        engine: Engine,
        timers: Timers,
        host: WaypointHost,
        tunnels: TunnelPool,
        state: MeshState,
        gateway: GatewayGroup,
        registry: CollectorRegistry,
        output: LineOutput,
        labels_of: LabelsOf,
        shared: SharedCounting | None = None,
    ) -> None:
        self.limits = HttpLimits()
        self.timers = timers
        self.draw = random.Random().random
        self.state = state
        self.tasks = host.tasks
        self.keys = KeyStore()
        self.limiter = Limiter(timers.clock, shared)
        self.health = HealthChecks(timers, registry)
        self.services = Services(
            engine, timers, host, tunnels, state, gateway, self.draw, self.limits, labels_of, self.health
        )
        self.authorizers = ExternalAuthorizers(timers, self.services, gateway.identity, registry)
        self.stream_servers: WeakSet[StreamServer] = WeakSet()
        """Those whose connections may live; a destination's former ones too."""
        resource = {
            "service.name": gateway.name,
            "service.namespace": gateway.namespace,
            "service.instance.id": gateway.pod_name,
            "k8s.cluster.name": gateway.cluster_id,
            "k8s.namespace.name": gateway.namespace,
            "k8s.pod.name": gateway.pod_name,
            "k8s.node.name": gateway.node,
        }
        post = CollectorClient(self.services, timers).post
        self.spans = SpanQueues(resource, post, registry, self.tasks.start)
        self.observer = Requests(registry, output, self.spans)
        self._connections: dict[ClientConnection, None] = {}
        self._draining = False

    # -- destinations --------------------------------------------------------------------------------------------------

    def prepare(self, value: Destination, former: ConnectionServer | None) -> ConnectionServer:
        """Make of a destination what serves it (``waypoint.destinations``)."""
        served = ServedDestination(self, value)
        for problem in served.problems:
            _log.warning("route not usable", destination=value.key, problem=problem)
        if isinstance(former, ServedDestination):
            former.hand_over(served)
        return served

    def dropped(self, former: ConnectionServer) -> None:
        """A destination is no more this waypoint's."""
        if isinstance(former, ServedDestination):
            former.retire()

    def began(self, connection: ClientConnection) -> None:
        """A client's connection is served."""
        self._connections[connection] = None
        if self._draining:
            connection.drain()

    def ended(self, connection: ClientConnection) -> None:
        """It is over."""
        self._connections.pop(connection, None)

    def refused(self, peer: PeerAddress, wanted: str, error: MeshError) -> None:
        """A connection was not served at all."""
        self.observer.refused(peer, wanted, error)

    # -- the process ---------------------------------------------------------------------------------------------------

    @property
    def connections(self) -> int:
        """Clients' connections that live."""
        return len(self._connections) + sum(len(server.alive) for server in self.stream_servers)

    @property
    def idle(self) -> bool:
        """Whether nothing is under way."""
        return not self.connections

    def tick(self, now: float) -> None:
        """Once per second."""
        self.services.tick(now)
        self.limiter.tick(now)
        for server in self.stream_servers:
            server.tick()

    def drain(self) -> None:
        """Let every connection end with its next answer; those that still come, too."""
        self._draining = True
        for connection in list(self._connections):
            connection.drain()

    def cut_off(self, error: MeshError) -> None:
        """The time to drain is up: end what is under way, each in the way that its client understands best."""
        for connection in list(self._connections):
            connection.cut_off()
        for server in list(self.stream_servers):
            server.cut_off(error)

    def describe(self) -> object:
        """For the admin port."""
        return {"connections": self.connections, "endpoints": self.services.describe()}


class ServedDestination:
    """One destination (``waypoint.inbound.ConnectionServer``)."""

    def __init__(self, serving: Serving, value: Destination) -> None:
        self.model = value
        self.problems: list[str] = []
        self._serving = serving
        self._ports: dict[int, _ServedPort] = {}
        self._checks = serving.health.interest(value.upstreams)
        self._guard = guard = Guard(value, serving.keys, serving.authorizers, serving.tasks)
        self._observer = observer = serving.observer.of(value)
        self.problems += (*guard.problems, *observer.problems)
        for port in value.ports:
            self._add(port)

    def _add(self, port: DestinationPort) -> _ServedPort:
        value = self.model
        routes = PortRoutes(value.key, port, bytes.fromhex(value.session_key))
        self.problems += routes.problems
        made = self._ports[port.number] = _ServedPort(self._serving, value, port, self._guard, routes, self._observer)
        return made

    def _port(self, number: int) -> _ServedPort | None:
        port = self._ports.get(number)
        if port is None and self.model.any_port and len(self._ports) < _MOST_PORTS:
            port = self._add(DestinationPort(number=number))
        return port

    def admit(self, client: Client) -> Begin:
        """See ``waypoint.inbound.ConnectionServer``."""
        port = self._port(client.destination.port)
        if port is None:
            raise DestinationMismatch(f"{self.model.key} has no port {client.destination.port}")
        return port.admit(client)

    def hand_over(self, successor: ServedDestination) -> None:
        """What is connected goes on with the successor: its next request is decided by what is in force then."""
        for number, port in self._ports.items():
            following = successor._port(number)
            if following is None:
                port.retire()
            else:
                port.hand_over(following)

    def retire(self) -> None:
        """Let what is connected end, by what was in force last."""
        for port in self._ports.values():
            port.retire()


class _ServedPort:
    """One port of a destination."""

    def __init__(
        self,
        serving: Serving,
        value: Destination,
        port: DestinationPort,
        guard: Guard,
        routes: PortRoutes,
        observer: DestinationRequests,
    ) -> None:
        policies = {policy.service: policy for policy in value.upstreams}
        services, draw = serving.services, serving.draw
        self._decider = PortDecider(value.key, guard, serving.limiter, routes, services, policies, draw)
        streams = serving.observer.streams_of(value, observer)
        self._streams = StreamServer(
            value, guard, routes, services, policies, draw, streams, serving.timers.clock
        )
        serving.stream_servers.add(self._streams)
        self._serving = serving
        self._observer = observer
        self._protocol = port.protocol
        self._live: dict[ClientConnection, _Followed] = {}
        """Shared with those that come after this one."""

    def hand_over(self, successor: _ServedPort) -> None:
        successor._live = self._live
        for context, decider in self._live.values():
            context.observer = successor._observer
            decider.follow(successor._decider)
        self._streams.hand_over(successor._streams)

    def retire(self) -> None:
        for connection in list(self._live):
            connection.drain()

    def admit(self, client: Client) -> Begin:
        if self._protocol in _BYTES:
            self._streams.check(client)
            return partial(self._serve_bytes, client)
        return partial(self._serve_requests, client)

    def _serve_bytes(self, client: Client, wire: StreamWire) -> None:
        wire.pause()
        self._streams.serve(client, wire, b"", None)

    def _serve_requests(self, client: Client, wire: StreamWire) -> None:
        serving = self._serving
        decider = ConnectionDecider(self._decider, client)
        context = Context(serving.timers, decider, self._observer, serving.draw)
        byte_server = self._streams if self._protocol in _SNIFFED else None
        connection = ClientConnection(context, wire, client, serving.limits, self._ended, byte_server=byte_server)
        self._live[connection] = (context, decider)
        serving.began(connection)

    def _ended(self, connection: ClientConnection) -> None:
        self._live.pop(connection, None)
        self._serving.ended(connection)
