"""What happens to a request: its port's routes, and what they do, in order.

The order is ``mesh.model.http_route.HttpRoute``'s. The path is normalised first, so that whoever looks at it sees what
the endpoint will be sent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from mesh.addresses import format_ip
from mesh.clock import SystemClock
from mesh.model.upstream_policy import UpstreamPolicy
from waypoint.client import Client
from waypoint.exchange.decision import Answer, Decision, Forward, Mirror
from waypoint.exchange.facts import Facts
from waypoint.exchange.retry import RetryPlan
from waypoint.guarding import Guard
from waypoint.http.message import RequestHead, ResponseHead, first
from waypoint.limiting import Limiter, RouteLimits
from waypoint.routing.path import normalised
from waypoint.routing.port import PortRoutes
from waypoint.routing.route import CompiledBackend, CompiledRoute, RouteMatch
from waypoint.security.subject import Peer
from waypoint.upstream.backend import Backends, Chooser, Place, RetryLimit, ServiceBackend
from waypoint.upstream.pool_contract import Unavailable

_CHAIN: Final = b"x-forwarded-for"
_SCHEME: Final = b"x-forwarded-proto"


class ConnectionDecider:
    """Decides about the requests of one client connection (``waypoint.exchange.decision.Decider``)."""

    __slots__ = ("_peer", "_port")

    def __init__(self, port: PortDecider, client: Client) -> None:
        self._port = port
        self._peer = Peer(client)

    def follow(self, port: PortDecider) -> None:
        """Decide about requests from the next one on by what is in force now."""
        self._port = port

    def decide(self, head: RequestHead, client: Client, facts: Facts) -> Decision:
        """See ``waypoint.exchange.decision.Decider``."""
        return self._port.decide(head, client, self._peer, facts)


class PortDecider:
    """Decides about the requests to one port of a destination."""

    __slots__ = (
        *("_backends", "_destination", "_draw", "_found", "_guard", "_limiter", "_limits", "_policies", "_retries"),
        *("_routes", "_wall"),
    )

    def __init__(
        self,
        destination: str,
        guard: Guard,
        limiter: Limiter,
        routes: PortRoutes,
        backends: Backends,
        policies: Mapping[str, UpstreamPolicy],
        draw: Callable[[], float],
    ) -> None:
        """Prepare.

        Args:
            destination: its key.
            guard: of the destination.
            limiter: the process's.
            routes: of the port.
            backends: where requests go.
            policies: what is said about them, by service.
            draw: uniform in [0, 1).
        """
        self._destination = destination
        self._guard = guard
        self._limiter = limiter
        self._limits: dict[CompiledRoute, RouteLimits] = {}
        self._routes = routes
        self._backends = backends
        self._policies = policies
        self._wall = SystemClock().wall
        self._found: dict[tuple[CompiledBackend, bool], ServiceBackend] = {}
        self._draw = draw
        self._retries: dict[tuple[str, ServiceBackend], RetryPlan] = {}

    def decide(self, head: RequestHead, client: Client, peer: Peer, facts: Facts) -> Decision:
        """Decide about one request; ``peer`` is its client as policies see it."""
        path = normalised(head.path)
        if path is None:
            return Answer(400, [], b"the path cannot be read safely", flag="DPE", details="path_normalization_failed")
        head.path = path
        if self._guard.open:
            return self._route(head, client, facts)
        return self._guard.check(head, peer, facts, lambda: self._route(head, client, facts))

    def _route(self, head: RequestHead, client: Client, facts: Facts) -> Decision:
        match = self._routes.select(head, client)
        if match is None:
            return Answer(404, [], b"no route matches", flag="NR", details="route_not_found")
        route = match.route
        if route.refused:
            return Answer(500, [], b"the route cannot be used", route=route.name, details="route_not_usable")
        if route.cors is not None and (answer := route.cors.preflight(head)) is not None:
            return Answer(answer.status, answer.headers, route=route.name, details="cors_preflight")
        delay = 0.0
        if route.fault is not None:
            plan = route.fault.decide(self._draw)
            delay = plan.delay_seconds
            if plan.abort_status and not delay:
                return _aborted(route, plan.abort_status, plan.abort_grpc_status)
        if route.route.rate_limits:
            go_on = partial(self._serve, match, head, client, facts, delay)
            return self._limits_of(route).check(head, client, facts, go_on)
        return self._serve(match, head, client, facts, delay)

    def _serve(self, match: RouteMatch, head: RequestHead, client: Client, facts: Facts, delay: float) -> Decision:
        """Do what the route says with a request that no fault and no limit has ended."""
        route = match.route
        if match.redirect is not None:
            answer = match.redirect(head)
            return Answer(answer.status, answer.headers, route=route.name, details="redirect")
        direct = route.direct_answer()
        if direct is not None:
            return Answer(direct.status, direct.headers, route.direct_body, route=route.name, details="direct_response")
        if route.request_change is not None:
            route.request_change.apply_to_request(head)
        chosen = route.pick_backend(self._draw)
        if chosen is None or chosen.backend.invalid is not None:
            text = b"the route has no backend" if chosen is None else b"the route's backend cannot be used"
            return Answer(500, [], text, route=route.name, details="no_usable_backend")
        http2 = facts.version == "2"
        backend = self._backend(chosen, http2=http2)
        if isinstance(backend, Unavailable):
            return Answer(
                backend.status, [], backend.text.encode(), flag=backend.flag, route=route.name, details="no_backend"
            )
        origin = None if route.cors is None else first(head.headers, b"origin")
        held = None if route.session is None else route.session.endpoint(head.headers, self._wall())
        hashing = backend.cluster.hash
        chooser = Chooser(
            backend,
            None if hashing is None else hashing.of(head, client),
            None if held is None else held[0],
        )
        facts.chooser = chooser
        self._introduce(head, client)
        match.rewrite(head)
        if chosen.request_change is not None:
            chosen.request_change.apply_to_request(head)
        model = route.route
        return Forward(
            chooser,
            route=route.name,
            timeout=model.timeout_seconds,
            try_timeout=model.backend_timeout_seconds,
            retry=self._retry(route, backend),
            mirrors=self._mirrors(route, head, http2=http2),
            delay=delay,
            flag="DI" if delay else "",
            on_response=self._response_change(route, chosen, origin, chooser, held),
        )

    def _introduce(self, head: RequestHead, client: Client) -> None:
        """Tell the application who calls: it sees the waypoint's address on its connection."""
        address = format_ip(client.address.ip).encode()
        chain = b""
        kept: list[Any] = []  # as any objects, since compiled code would make new pairs of pairs
        headers: list[Any] = head.headers
        for field in headers:
            name = field[0]
            if name == _CHAIN:
                chain += field[1] + b", "
            elif name != _SCHEME:
                kept.append(field)
        kept.append((_CHAIN, chain + address))
        kept.append((_SCHEME, head.scheme))
        head.headers = kept

    def _limits_of(self, route: CompiledRoute) -> RouteLimits:
        limits = self._limits.get(route)
        if limits is None:
            limits = self._limits[route] = self._limiter.of(self._destination, route.route)
        return limits

    def _backend(self, chosen: CompiledBackend, *, http2: bool) -> ServiceBackend | Unavailable:
        key = (chosen, http2)
        known = self._found.get(key)
        if known is not None:
            return known
        model = chosen.backend
        place = Place(model.service, model.port, model.subset)
        found = self._backends.backend(place, self._policies, http2=http2)
        if isinstance(found, ServiceBackend):
            self._found[key] = found
        return found

    def _retry(self, route: CompiledRoute, backend: ServiceBackend) -> RetryPlan | None:
        model = route.route.retry
        if model is None:
            return None
        key = (route.name, backend)
        plan = self._retries.get(key)
        if plan is None:
            plan = self._retries[key] = RetryPlan(model, RetryLimit(backend))
        return plan

    def _mirrors(self, route: CompiledRoute, head: RequestHead, *, http2: bool) -> tuple[Mirror, ...]:
        copies = []
        for each in route.pick_mirrors(self._draw):
            backend = None if each.backend.invalid is not None else self._backend(each, http2=http2)
            if isinstance(backend, ServiceBackend):
                copies.append(Mirror(Chooser(backend), _copied(head, each)))
        return tuple(copies)

    def _response_change(
        self,
        route: CompiledRoute,
        chosen: CompiledBackend,
        origin: bytes | None,
        chooser: Chooser,
        held: tuple[str, int] | None,
    ) -> Callable[[ResponseHead], None] | None:
        session = route.session
        if route.response_change is None and chosen.response_change is None and origin is None and session is None:
            return None

        def change(head: ResponseHead) -> None:
            if chosen.response_change is not None:
                chosen.response_change.apply(head.headers)
            if route.response_change is not None:
                route.response_change.apply(head.headers)
            if route.cors is not None:
                route.cors.answer(origin, head.headers)
            if session is not None and chooser.chosen is not None:
                session.remember(head.headers, chooser.chosen.key, self._wall(), held)

        return change


def _aborted(route: CompiledRoute, status: int, grpc_status: int) -> Answer:
    headers = [] if grpc_status < 0 else [(b"grpc-status", b"%d" % grpc_status)]
    return Answer(status, headers, b"fault filter abort", flag="FI", route=route.name, details="fault_abort")


def _copied(head: RequestHead, mirror: CompiledBackend) -> RequestHead:
    copied = RequestHead(
        method=head.method,
        path=head.path,
        authority=head.authority,
        scheme=head.scheme,
        headers=list(head.headers),
    )
    if mirror.request_change is not None:
        mirror.request_change.apply_to_request(copied)
    return copied
