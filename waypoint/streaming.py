"""Connections that are not HTTP: routed as a whole, then bytes both ways; counted and logged as connections."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import structlog

from mesh.errors import Draining, MeshError, PolicyDenied
from mesh.model.upstream_policy import UpstreamPolicy
from mesh.model.waypoint import Destination
from waypoint.client import Client
from waypoint.exchange.byte_pipe import BytePipe
from waypoint.guarding import Guard
from waypoint.routing.port import PortRoutes
from waypoint.security.subject import Peer
from waypoint.telemetry.flags import (
    DOWNSTREAM_CONNECTION_TERMINATION,
    LOCAL_RESET,
    UPSTREAM_CONNECTION_FAILURE,
    UPSTREAM_CONNECTION_TERMINATION,
    flag_bits,
)
from waypoint.telemetry.streams import StreamNotes, StreamObserver
from waypoint.upstream.backend import Backends, Place, ServiceBackend
from waypoint.upstream.endpoint import Endpoint
from waypoint.upstream.pool_contract import Unavailable
from waypoint.wire.contract import NOBODY, Wire
from waypoint.wire.dialling import Dial

_log = structlog.get_logger("streams")


class StreamServer:
    """Serves the byte connections to one port of a destination."""

    def __init__(
        self,
        destination: Destination,
        guard: Guard,
        routes: PortRoutes,
        backends: Backends,
        policies: Mapping[str, UpstreamPolicy],
        draw: Callable[[], float],
        observer: StreamObserver,
        clock: Callable[[], float],
    ) -> None:
        """Prepare.

        Args:
            destination: whose connections these are.
            guard: of the destination.
            routes: of the port.
            backends: where connections go.
            policies: what is said about them, by service.
            draw: uniform in [0, 1).
            observer: told of every connection.
            clock: monotonic seconds.
        """
        self._destination = destination
        self._guard = guard
        self._routes = routes
        self._backends = backends
        self._policies = policies
        self._draw = draw
        self._observer = observer
        self.clock = clock
        self._successor: StreamServer | None = None
        self.alive: set[Stream] = set()

    def hand_over(self, successor: StreamServer) -> None:
        """The destination has changed: who is denied now is cut off, the others go on as they are."""
        self._successor = successor
        alive, self.alive = self.alive, set()
        for stream in alive:
            stream.server = successor
            successor.alive.add(stream)
        for stream in alive:
            reason = successor._guard.refuses_stream(Peer(stream.client))
            if reason is not None:
                peer = str(stream.client.address)
                _log.info("connection cut", destination=self._destination.key, peer=peer, reason=reason)
                stream.cut(PolicyDenied(reason))

    def check(self, client: Client) -> None:
        """Refuse a client before it is connected, where nothing of what it says is looked at.

        Raises:
            PolicyDenied: by the destination's policies.
        """
        reason = self._guard.refuses_stream(Peer(client))
        if reason is not None:
            error = PolicyDenied(reason)
            now = self.clock()
            StreamNotes(self._observer, client, None, now).over(now, 0, 0, reason=reason, error=error)
            raise error

    def serve(self, client: Client, wire: Wire, start: bytes, server_name: str | None) -> None:
        """Take over a wire, which is paused."""
        if self._successor is not None:
            self._successor.serve(client, wire, start, server_name)
            return
        notes = StreamNotes(self._observer, client, server_name, self.clock())
        reason = self._guard.refuses_stream(Peer(client))
        flag, error = "", None if reason is None else PolicyDenied(reason)
        if reason is None:
            found = self._pick(server_name)
            if not isinstance(found, Unavailable):
                backend, endpoint = found
                notes.chosen(backend.name, endpoint)
                Stream(self, client, wire, start, backend, endpoint, notes).begin()
                return
            flag, reason = found.flag, found.text
        _log.info("connection refused", destination=self._destination.key, peer=str(client.address), reason=reason)
        notes.over(self.clock(), len(start), 0, flag=flag_bits(flag), reason=reason, error=error)
        wire.reset()

    def cut_off(self, error: MeshError) -> None:
        """End all connections now."""
        for stream in list(self.alive):
            stream.cut(error)

    def tick(self) -> None:
        """Once per second: count what has passed."""
        for stream in self.alive:
            stream.count()

    def _pick(self, server_name: str | None) -> tuple[ServiceBackend, Endpoint] | Unavailable:
        chosen = self._routes.select_stream(server_name, self._draw)
        place = Place(self._destination.key, self._routes.number)
        if chosen is not None:
            route, model = chosen
            if model is None or model.invalid is not None:
                return Unavailable("NC", f"route {route.name} has no backend that can be used")
            place = Place(model.service, model.port, model.subset)
        elif self._routes.has_stream_routes:
            return Unavailable("NR", "no route matches")
        backend = self._backends.backend(place, self._policies, http2=False)
        if isinstance(backend, Unavailable):
            return backend
        endpoint = backend.pick(None, None, [])
        return endpoint if isinstance(endpoint, Unavailable) else (backend, endpoint)


class Stream:
    """One connection of bytes."""

    def __init__(
        self,
        server: StreamServer,
        client: Client,
        wire: Wire,
        start: bytes,
        backend: ServiceBackend,
        endpoint: Endpoint,
        notes: StreamNotes,
    ) -> None:
        self.server = server
        self.client = client
        self._wire = wire
        self._start = start
        self._backend = backend
        self._endpoint = endpoint
        self._notes = notes
        self._counted = (0, 0)
        self._pipe: BytePipe | None = None
        self._dial: Dial | None = None

    def begin(self) -> None:
        """Connect to the endpoint."""
        # First among those that live: that there is no connection may be told at once.
        self.server.alive.add(self)
        self._dial = self._backend.connector_to(self._endpoint).connect(self._connected)

    def _connected(self, wire: Wire | None, error: MeshError | None) -> None:
        if wire is None:
            _log.info("no connection", endpoint=str(self._endpoint.to.target), error=str(error))
            self._wire.attach(NOBODY)
            self._wire.reset()
            self._over(error)
            return
        self._pipe = BytePipe(self._wire, wire, self._start, self._over)

    def count(self) -> None:
        """Tell of the bytes that have passed since it was done last."""
        pipe = self._pipe
        if pipe is not None:
            received, sent = self._counted
            self._counted = (pipe.received, pipe.sent)
            self._notes.moved(pipe.received - received, pipe.sent - sent)

    def cut(self, error: MeshError) -> None:
        """End it now."""
        if self._pipe is not None:
            self._pipe.cut(error)
        else:
            if self._dial is not None:
                self._dial.cancel()
            self._wire.reset()
            self._over(error)

    def _over(self, error: MeshError | None) -> None:
        if self not in self.server.alive:
            return
        self.server.alive.discard(self)
        self._backend.release(self._endpoint)
        pipe, flag, reason = self._pipe, 0, ""
        if isinstance(error, PolicyDenied):
            reason = str(error)
        elif isinstance(error, Draining):
            flag = LOCAL_RESET
        elif pipe is None:
            flag = UPSTREAM_CONNECTION_FAILURE
        elif pipe.lost_by_client:
            flag = DOWNSTREAM_CONNECTION_TERMINATION
        elif error is not None:
            flag = UPSTREAM_CONNECTION_TERMINATION
        self.count()
        self._notes.over(self.server.clock(), *self._counted, flag=flag, reason=reason, error=error)
