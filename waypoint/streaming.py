"""Connections that are not HTTP: routed as a whole, and then bytes both ways."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import structlog

from mesh.errors import MeshError, PolicyDenied
from mesh.model.upstream_policy import UpstreamPolicy
from mesh.model.waypoint import Destination
from waypoint.client import Client
from waypoint.exchange.byte_pipe import BytePipe
from waypoint.guarding import Guard
from waypoint.routing.port import PortRoutes
from waypoint.security.subject import Peer
from waypoint.upstream.backend import ServiceBackend
from waypoint.upstream.endpoint import Endpoint
from waypoint.upstream.pool_contract import Unavailable
from waypoint.wire.contract import NOBODY, Wire

_log = structlog.get_logger("streams")


class Backends(Protocol):
    """Finds the place that a route names."""

    def backend(
        self,
        service: str,
        port: int,
        subset: str | None,
        policies: Mapping[str, UpstreamPolicy],
        *,
        http2: bool,
    ) -> ServiceBackend | Unavailable:
        """See ``waypoint.upstream.services``."""
        ...


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
    ) -> None:
        self._destination = destination
        self._guard = guard
        self._routes = routes
        self._backends = backends
        self._policies = policies
        self._draw = draw
        self.alive: set[Stream] = set()

    def check(self, client: Client) -> None:
        """Refuse a client before it is connected, where nothing of what it says is looked at.

        Raises:
            PolicyDenied: by the destination's policies.
        """
        reason = self._guard.refuses_stream(Peer(client))
        if reason is not None:
            raise PolicyDenied(reason)

    def serve(self, client: Client, wire: Wire, start: bytes, server_name: str | None) -> None:
        """Take over a wire, which is paused."""
        reason = self._guard.refuses_stream(Peer(client))
        if reason is None:
            found = self._pick(server_name)
            if not isinstance(found, str):
                self.alive.add(Stream(self, client, wire, start, *found))
                return
            reason = found
        _log.info("connection refused", destination=self._destination.key, peer=str(client.address), reason=reason)
        wire.reset()

    def _pick(self, server_name: str | None) -> tuple[ServiceBackend, Endpoint] | str:
        chosen = self._routes.select_stream(server_name, self._draw)
        service, port, subset = self._destination.key, self._routes.number, None
        if chosen is not None:
            route, model = chosen
            if model is None or model.invalid is not None:
                return f"route {route.name} has no backend that can be used"
            service, port, subset = model.service, model.port, model.subset
        elif self._routes.has_stream_routes:
            return "no route matches"
        backend = self._backends.backend(service, port, subset, self._policies, http2=False)
        if isinstance(backend, Unavailable):
            return backend.text
        endpoint = backend.pick(None, None, [])
        return endpoint.text if isinstance(endpoint, Unavailable) else (backend, endpoint)


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
    ) -> None:
        self._server = server
        self._client = client
        self._wire = wire
        self._start = start
        self._backend = backend
        self._endpoint = endpoint
        self._pipe: BytePipe | None = None
        self._dial = backend.connector_to(endpoint).connect(self._connected)

    def _connected(self, wire: Wire | None, error: MeshError | None) -> None:
        if wire is None:
            _log.info("no connection", endpoint=str(self._endpoint.to.target), error=str(error))
            self._wire.attach(NOBODY)
            self._wire.reset()
            self._over(error)
            return
        self._pipe = BytePipe(self._wire, wire, self._start, self._over)

    def cut(self, error: MeshError) -> None:
        """End it now."""
        if self._pipe is not None:
            self._pipe.cut(error)
        else:
            self._dial.cancel()
            self._wire.reset()
            self._over(error)

    def _over(self, error: MeshError | None) -> None:
        if self in self._server.alive:
            self._server.alive.discard(self)
            self._backend.release(self._endpoint)
