"""A port of a destination: its routes, compiled, and the choice among them.

A route that cannot be compiled keeps its place and what it matches: its requests are answered 500, and the reason is
told. Left out, it would let requests fall through to routes that were not meant for them. If not even what it matches
can be read (no expression), it matches nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from mesh.errors import ConfigurationError
from mesh.model.http_route import Backend, HttpRoute, RequestMatch
from mesh.model.waypoint import DestinationPort, StreamRoute
from waypoint.client import Client
from waypoint.http.message import RequestHead
from waypoint.routing.chance import Random, Weighted
from waypoint.routing.path import without_query
from waypoint.routing.route import CompiledRoute, RouteMatch
from waypoint.routing.table import RouteTable

_EVERYTHING: Final[tuple[RequestMatch, ...]] = (RequestMatch(),)


class PortRoutes:
    """The routes of one port. Immutable."""

    __slots__ = ("_consumers", "_producers", "_streams", "number", "problems")

    def __init__(self, destination: str, port: DestinationPort, session_key: bytes) -> None:
        """Compile; never fails as a whole.

        Args:
            destination: the destination's key.
            port: the model's.
            session_key: of ``waypoint.routing.session.SessionTokens``.
        """
        self.number = port.number
        self.problems: tuple[str, ...] = ()
        """Why routes cannot be used, for the log."""
        problems: list[str] = []
        routes = port.routes
        if not routes:
            straight = HttpRoute(name="default", backends=(Backend(service=destination, port=port.number),))
            match = RouteMatch(CompiledRoute(straight, session_key, straight=True), None)
            self._producers: RouteTable[RouteMatch] = RouteTable([(RequestMatch(), match)])
        else:
            self._producers = _table(routes, session_key, problems)
        self._consumers = {
            namespace: _table(routes, session_key, problems) for namespace, routes in port.consumer_routes
        }
        self._streams = [_Stream(route) for route in port.stream_routes]
        self.problems = tuple(problems)

    def select(self, head: RequestHead, client: Client) -> RouteMatch | None:
        """The route that serves a request; None: answer 404 (``NR``).

        Args:
            head: its path normalised (``waypoint.routing.path``).
            client: whose it is; a namespace with routes of its own sees those only.
        """
        table = self._producers
        if self._consumers:
            table = self._consumers.get(client.namespace, table)
        return table.find(head, without_query(head.path), client)

    @property
    def has_stream_routes(self) -> bool:
        """Whether connections are routed at all; without, they go straight to the destination."""
        return bool(self._streams)

    def select_stream(self, server_name: str | None, random: Random) -> tuple[StreamRoute, Backend | None] | None:
        """The route of a TCP or TLS connection and the backend drawn; None if no route matches.

        Args:
            server_name: of TLS, in lower case; None for plain TCP.
            random: uniform in [0, 1).
        """
        for stream in self._streams:
            if stream.matches(server_name):
                return stream.route, stream.backends.pick(random)
        return None


class _Stream:
    """One route of connections."""

    __slots__ = ("_names", "_suffixes", "backends", "route")

    def __init__(self, route: StreamRoute) -> None:
        names = [name.lower() for name in route.server_names]
        self.route = route
        self._names = frozenset(name for name in names if not name.startswith("*."))
        self._suffixes = tuple(name[1:] for name in names if name.startswith("*."))
        self.backends = Weighted(route.backends, [max(backend.weight, 0) for backend in route.backends])

    def matches(self, server_name: str | None) -> bool:
        if not self._names and not self._suffixes:
            return True
        return server_name is not None and (server_name in self._names or server_name.endswith(self._suffixes))


def _table(routes: Iterable[HttpRoute], session_key: bytes, problems: list[str]) -> RouteTable[RouteMatch]:
    alternatives: list[tuple[RequestMatch, RouteMatch]] = []
    for route in routes:
        compiled = _compiled(route, session_key, problems)
        for match in route.matches or _EVERYTHING:
            try:
                # By itself first, so that one bad alternative costs itself only.
                RouteTable([(match, None)])
            except ConfigurationError as error:
                problems.append(f"route {route.name}: a match can never be met: {error}")
                continue
            alternatives.append((match, _match(compiled, match, session_key, problems)))
    return RouteTable(alternatives)


def _compiled(route: HttpRoute, session_key: bytes, problems: list[str]) -> CompiledRoute:
    try:
        return CompiledRoute(route, session_key)
    except ConfigurationError as error:
        return _refused(route, session_key, problems, str(error))


def _match(route: CompiledRoute, match: RequestMatch, session_key: bytes, problems: list[str]) -> RouteMatch:
    try:
        return RouteMatch(route, match.path)
    except ConfigurationError as error:
        return RouteMatch(_refused(route.route, session_key, problems, str(error)), None)


def _refused(route: HttpRoute, session_key: bytes, problems: list[str], reason: str) -> CompiledRoute:
    problems.append(f"route {route.name}: its requests are answered 500: {reason}")
    bare = CompiledRoute(HttpRoute(name=route.name), session_key)
    bare.route = replace(bare.route, matches=route.matches)
    bare.refused = reason
    return bare
