"""The parts of HTTPRoute, GRPCRoute, TCPRoute and TLSRoute (``gateway.networking.k8s.io``)."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, field

from resources.base import Condition, Fields, Port, Raw
from resources.gateway import BackendReference, ParentReference, Weight

Duration = Annotated[str, Meta(pattern=r"^([0-9]{1,5}(h|m|s|ms)){1,4}$")]
"""GEP-2257: ``1h30m``, ``500ms``."""


class HeaderValue(Fields, frozen=True):
    """A header."""

    name: str
    value: str


class HeaderModifier(Fields, frozen=True):
    """Changes of headers."""

    set: tuple[HeaderValue, ...] = ()
    add: tuple[HeaderValue, ...] = ()
    remove: tuple[str, ...] = ()


class PathModifier(Fields, frozen=True):
    """A new path."""

    type: Literal["ReplaceFullPath", "ReplacePrefixMatch"]
    replace_full_path: str | None = None
    replace_prefix_match: str | None = None


class RequestRedirect(Fields, frozen=True):
    """Answer with a redirection."""

    scheme: Literal["http", "https"] | None = None
    hostname: str | None = None
    path: PathModifier | None = None
    port: Port | None = None
    status_code: Literal[301, 302, 303, 307, 308] = 302


class UrlRewrite(Fields, frozen=True):
    """Change host or path on the way to the backend."""

    hostname: str | None = None
    path: PathModifier | None = None


class PortionOf(Fields, frozen=True):
    """A share of requests."""

    numerator: Annotated[int, Meta(ge=0)]
    denominator: Annotated[int, Meta(ge=1)] = 100


class RequestMirror(Fields, frozen=True):
    """Send copies there."""

    backend_ref: BackendReference
    percent: Annotated[int, Meta(ge=0, le=100)] | None = None
    fraction: PortionOf | None = None


class CorsFilter(Fields, frozen=True):
    """Cross-origin requests."""

    allow_origins: tuple[str, ...] = ()
    allow_credentials: bool = False
    allow_methods: tuple[str, ...] = ()
    allow_headers: tuple[str, ...] = ()
    expose_headers: tuple[str, ...] = ()
    max_age: Annotated[int, Meta(ge=1)] = 5


class RouteFilter(Fields, frozen=True):
    """One filter of an HTTPRoute or GRPCRoute."""

    type: Literal[
        "RequestHeaderModifier",
        "ResponseHeaderModifier",
        "RequestMirror",
        "RequestRedirect",
        "URLRewrite",
        "ExtensionRef",
        "CORS",
        "ExternalAuth",
    ]
    request_header_modifier: HeaderModifier | None = None
    response_header_modifier: HeaderModifier | None = None
    request_mirror: RequestMirror | None = None
    request_redirect: RequestRedirect | None = None
    url_rewrite: UrlRewrite | None = None
    cors: CorsFilter | None = None
    extension_ref: Raw = None
    external_auth: Raw = None


class RouteBackend(BackendReference, frozen=True):
    """A backend with its share of requests and its own filters."""

    weight: Weight = 1
    filters: tuple[RouteFilter, ...] = ()


class StreamBackend(BackendReference, frozen=True):
    """A backend of connections."""

    weight: Weight = 1


class HttpPathMatch(Fields, frozen=True):
    """What the path must be."""

    type: Literal["Exact", "PathPrefix", "RegularExpression"] = "PathPrefix"
    value: str = "/"


class ValueMatch(Fields, frozen=True):
    """What a header or query parameter must be."""

    name: str
    value: str
    type: Literal["Exact", "RegularExpression"] = "Exact"


class HttpRouteMatch(Fields, frozen=True):
    """All that is given must match."""

    path: HttpPathMatch | None = None
    headers: tuple[ValueMatch, ...] = ()
    query_params: tuple[ValueMatch, ...] = ()
    method: str | None = None


class RouteTimeouts(Fields, frozen=True):
    """How long a request, and one attempt of it, may take; zero is for ever."""

    request: Duration | None = None
    backend_request: Duration | None = None


class RouteRetry(Fields, frozen=True):
    """When a request is tried again."""

    codes: tuple[Annotated[int, Meta(ge=400, le=599)], ...] = ()
    attempts: Annotated[int, Meta(ge=0)] | None = None
    backoff: Duration | None = None


class CookieConfig(Fields, frozen=True):
    """How long the session's cookie lives."""

    lifetime_type: Literal["Permanent", "Session"] = "Session"


class SessionPersistence(Fields, frozen=True):
    """Requests of one session go to one endpoint."""

    session_name: str | None = None
    absolute_timeout: Duration | None = None
    idle_timeout: Duration | None = None
    type: Literal["Cookie", "Header"] = "Cookie"
    cookie_config: CookieConfig | None = None


class HttpRouteRule(Fields, frozen=True):
    """Matches, filters and backends."""

    name: str | None = None
    matches: tuple[HttpRouteMatch, ...] = ()
    filters: tuple[RouteFilter, ...] = ()
    backend_refs: tuple[RouteBackend, ...] = ()
    timeouts: RouteTimeouts | None = None
    retry: RouteRetry | None = None
    session_persistence: SessionPersistence | None = None


class HttpRouteSpec(Fields, frozen=True):
    """Routes of HTTP requests."""

    parent_refs: tuple[ParentReference, ...] = ()
    use_default_gateways: Raw = None
    hostnames: tuple[str, ...] = ()
    rules: tuple[HttpRouteRule, ...] = (HttpRouteRule(),)
    """Absent: one rule that matches everything and has no backend."""


class GrpcMethodMatch(Fields, frozen=True):
    """What the gRPC service and method must be."""

    type: Literal["Exact", "RegularExpression"] = "Exact"
    service: str | None = None
    method: str | None = None


class GrpcRouteMatch(Fields, frozen=True):
    """All that is given must match."""

    method: GrpcMethodMatch | None = None
    headers: tuple[ValueMatch, ...] = ()


class GrpcRouteRule(Fields, frozen=True):
    """Matches, filters and backends."""

    name: str | None = None
    matches: tuple[GrpcRouteMatch, ...] = ()
    filters: tuple[RouteFilter, ...] = ()
    backend_refs: tuple[RouteBackend, ...] = ()
    session_persistence: SessionPersistence | None = None


class GrpcRouteSpec(Fields, frozen=True):
    """Routes of gRPC calls."""

    parent_refs: tuple[ParentReference, ...] = ()
    use_default_gateways: Raw = None
    hostnames: tuple[str, ...] = ()
    rules: tuple[GrpcRouteRule, ...] = (GrpcRouteRule(),)


class StreamRouteRule(Fields, frozen=True):
    """Backends of connections."""

    name: str | None = None
    backend_refs: tuple[StreamBackend, ...] = ()


class TcpRouteSpec(Fields, frozen=True):
    """Routes of TCP connections."""

    parent_refs: tuple[ParentReference, ...] = ()
    use_default_gateways: Raw = None
    rules: tuple[StreamRouteRule, ...] = ()


class TlsRouteSpec(Fields, frozen=True):
    """Routes of TLS connections by their server name."""

    parent_refs: tuple[ParentReference, ...] = ()
    use_default_gateways: Raw = None
    hostnames: tuple[str, ...] = ()
    rules: tuple[StreamRouteRule, ...] = ()


class RouteParentStatus(Fields, frozen=True):
    """What one controller made of a route's attachment to one parent."""

    parent_ref: ParentReference
    controller_name: str
    conditions: tuple[Condition, ...] = ()


class RouteStatus(Fields, frozen=True):
    """What became of a route."""

    parents: tuple[RouteParentStatus, ...] = field(default=())
