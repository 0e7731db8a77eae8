"""One route with everything it does, compiled."""

from __future__ import annotations

from mesh.errors import ConfigurationError
from mesh.model.http_route import Backend, HttpRoute, PathMatch
from waypoint.http.message import Headers, RequestHead, ResponseHead
from waypoint.routing.chance import CompiledFault, Random, Weighted, share_of
from waypoint.routing.cors import CompiledCors
from waypoint.routing.header_change import CompiledChange, compile_change, header_bytes, header_name
from waypoint.routing.redirect import RedirectAnswer, compile_redirect
from waypoint.routing.retry import RetryPlan
from waypoint.routing.rewrite import PathChange, compile_path
from waypoint.routing.session import SessionTokens
from waypoint.routing.text import encoded


class CompiledBackend:
    """Where a share of a route's requests goes."""

    __slots__ = ("backend", "request_change", "response_change")

    def __init__(self, backend: Backend) -> None:
        """Raises:
        ConfigurationError: a header change that cannot be made.
        """
        self.backend = backend
        """``backend.invalid``, where it is set, says why the request must be answered 500."""
        self.request_change = compile_change(backend.request_headers)
        self.response_change = compile_change(backend.response_headers)


class CompiledRoute:
    """A route without what depends on the alternative that matched."""

    __slots__ = (
        "_backends",
        "_mirrors",
        "cors",
        "direct",
        "direct_body",
        "fault",
        "name",
        "refused",
        "request_change",
        "response_change",
        "retry",
        "route",
        "session",
        "straight",
    )

    def __init__(self, route: HttpRoute, session_key: bytes, *, straight: bool = False) -> None:
        """Compile.

        Args:
            route: the model's.
            session_key: of ``SessionTokens``.
            straight: there are no routes; requests go to the destination itself.

        Raises:
            ConfigurationError: a part that cannot be done.
        """
        self.route = route
        self.name = route.name
        self.straight = straight
        self.refused = ""
        """Not empty: the route cannot be used, for this reason; what it matches is answered 500."""
        self.request_change: CompiledChange | None = compile_change(route.request_headers)
        self.response_change: CompiledChange | None = compile_change(route.response_headers)
        self.cors = None if route.cors is None else CompiledCors(route.cors)
        self.fault = None if route.fault is None else CompiledFault(route.fault)
        self.retry = None if route.retry is None else RetryPlan(route.retry)
        self.session = None if route.session is None else SessionTokens(route.session, route.name, session_key)
        self.direct: Headers | None = None
        """Headers of a direct response, without ``content-length``."""
        self.direct_body = b""
        if route.direct_response is not None:
            status = route.direct_response.status
            if not 200 <= status <= 599:
                raise ConfigurationError(f"status {status} cannot be a direct response's")
            self.direct = [(header_name(key), header_bytes(value)) for key, value in route.direct_response.headers]
            self.direct_body = encoded(route.direct_response.body)
        backends = [CompiledBackend(backend) for backend in route.backends]
        self._backends = Weighted(backends, [backend.weight for backend in route.backends])
        self._mirrors = tuple((CompiledBackend(mirror.backend), share_of(mirror.share)) for mirror in route.mirrors)

    def pick_backend(self, random: Random) -> CompiledBackend | None:
        """Where this request goes; None: the route has nobody, answer 500."""
        return self._backends.pick(random)

    def pick_mirrors(self, random: Random) -> list[CompiledBackend]:
        """Where copies of this request go."""
        return [mirror for mirror, share in self._mirrors if share >= 1 or random() < share]

    def direct_answer(self) -> ResponseHead | None:
        """The head of the direct response, if the route has one; its body is ``direct_body``."""
        if self.direct is None or self.route.direct_response is None:
            return None
        length = b"%d" % len(self.direct_body)
        return ResponseHead(
            status=self.route.direct_response.status, headers=[*self.direct, (b"content-length", length)]
        )


class RouteMatch:
    """A route, through one of its alternatives: what ``PortRoutes.select`` finds. Made when routes are compiled."""

    __slots__ = ("_path_change", "authority", "redirect", "route")

    def __init__(self, route: CompiledRoute, matched: PathMatch | None) -> None:
        """Raises:
        ConfigurationError: a rewrite or redirect that cannot be done.
        """
        self.route = route
        rewrite = route.route.rewrite
        self.authority = b""
        """The new one; empty: unchanged."""
        self._path_change: PathChange | None = None
        if rewrite is not None:
            self.authority = b"" if rewrite.authority is None else header_bytes(rewrite.authority)
            if rewrite.path is not None:
                self._path_change = compile_path(rewrite.path, matched)
        redirect = route.route.redirect
        self.redirect: RedirectAnswer | None = None if redirect is None else compile_redirect(redirect, matched)

    def rewrite(self, head: RequestHead) -> None:
        """Change authority and path as the route says."""
        if self.authority:
            head.authority = self.authority
        if self._path_change is not None:
            head.path = self._path_change(head.path)
