"""The parts of Istio's VirtualService (``networking.istio.io``)."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, field

from resources.base import Fields, Port, Raw

Duration = Annotated[str, Meta(pattern=r"^([0-9]{1,9}(\.[0-9]{1,9})?(h|m|s|ms|us|ns)){1,6}$")]
"""As Go and protobuf write it: ``1.5s``, ``1m30s``."""


class StringMatch(Fields, frozen=True):
    """One of the fields is given."""

    exact: str | None = None
    prefix: str | None = None
    regex: str | None = None


class PortSelector(Fields, frozen=True):
    """A port by number."""

    number: Port | None = None


class Destination(Fields, frozen=True):
    """A service, or a subset of it."""

    host: str
    subset: str = ""
    port: PortSelector | None = None


class HeaderOperations(Fields, frozen=True):
    """Changes of headers."""

    set: dict[str, str] = field(default_factory=dict)
    add: dict[str, str] = field(default_factory=dict)
    remove: tuple[str, ...] = ()


class Headers(Fields, frozen=True):
    """Changes of the request's and the response's headers."""

    request: HeaderOperations | None = None
    response: HeaderOperations | None = None


class HttpMatchRequest(Fields, frozen=True):
    """All that is given must match."""

    name: str = ""
    uri: StringMatch | None = None
    scheme: StringMatch | None = None
    method: StringMatch | None = None
    authority: StringMatch | None = None
    headers: dict[str, StringMatch] = field(default_factory=dict)
    port: int | None = None
    source_labels: dict[str, str] = field(default_factory=dict)
    gateways: tuple[str, ...] = ()
    query_params: dict[str, StringMatch] = field(default_factory=dict)
    ignore_uri_case: bool = False
    without_headers: dict[str, StringMatch] = field(default_factory=dict)
    source_namespace: str = ""
    stat_prefix: str = ""


class HttpRouteDestination(Fields, frozen=True):
    """A destination with its share of requests."""

    destination: Destination
    weight: Annotated[int, Meta(ge=0)] = 0
    headers: Headers | None = None


class RegexRewrite(Fields, frozen=True):
    """Replace what an expression matches."""

    match: str = ""
    rewrite: str = ""


class HttpRewrite(Fields, frozen=True):
    """Change host or path on the way to the destination."""

    uri: str = ""
    authority: str = ""
    uri_regex_rewrite: RegexRewrite | None = None


class HttpRedirect(Fields, frozen=True):
    """Answer with a redirection."""

    uri: str = ""
    authority: str = ""
    port: int | None = None
    derive_port: str | None = None
    scheme: str = ""
    redirect_code: int = 301


class HttpBody(Fields, frozen=True):
    """A body, as text or base64."""

    string: str | None = None
    bytes: str | None = None


class HttpDirectResponse(Fields, frozen=True):
    """Answer with this."""

    status: Annotated[int, Meta(ge=200, le=599)]
    body: HttpBody | None = None


class Delegate(Fields, frozen=True):
    """A VirtualService whose routes stand in here."""

    name: str = ""
    namespace: str = ""


class Percent(Fields, frozen=True):
    """A percentage."""

    value: Annotated[float, Meta(ge=0, le=100)] = 0.0


class HttpMirrorPolicy(Fields, frozen=True):
    """Send copies there."""

    destination: Destination
    percentage: Percent | None = None


class HttpRetry(Fields, frozen=True):
    """When a request is tried again."""

    attempts: Annotated[int, Meta(ge=0)] = 0
    per_try_timeout: Duration | None = None
    retry_on: str = ""
    retry_remote_localities: bool | None = None
    retry_ignore_previous_hosts: bool | None = None
    backoff: Duration | None = None


class FaultDelay(Fields, frozen=True):
    """Wait before the request goes on."""

    fixed_delay: Duration | None = None
    exponential_delay: str | None = None
    percent: Annotated[int, Meta(ge=0, le=100)] | None = None
    percentage: Percent | None = None


class FaultAbort(Fields, frozen=True):
    """Answer with an error."""

    http_status: Annotated[int, Meta(ge=200, le=599)] | None = None
    grpc_status: str | None = None
    http2_error: str | None = field(default=None, name="http2Error")
    percentage: Percent | None = None
    percent: Annotated[int, Meta(ge=0, le=100)] | None = None


class HttpFaultInjection(Fields, frozen=True):
    """Failures made on purpose."""

    delay: FaultDelay | None = None
    abort: FaultAbort | None = None


class CorsPolicy(Fields, frozen=True):
    """Cross-origin requests."""

    allow_origin: tuple[str, ...] = ()
    allow_origins: tuple[StringMatch, ...] = ()
    allow_methods: tuple[str, ...] = ()
    allow_headers: tuple[str, ...] = ()
    expose_headers: tuple[str, ...] = ()
    max_age: Duration | None = None
    allow_credentials: bool | None = None
    unmatched_preflights: str = ""


class VirtualHttpRoute(Fields, frozen=True):
    """Matches and what then happens."""

    name: str = ""
    match: tuple[HttpMatchRequest, ...] = ()
    route: tuple[HttpRouteDestination, ...] = ()
    redirect: HttpRedirect | None = None
    direct_response: HttpDirectResponse | None = None
    delegate: Delegate | None = None
    rewrite: HttpRewrite | None = None
    timeout: Duration | None = None
    retries: HttpRetry | None = None
    fault: HttpFaultInjection | None = None
    mirror: Destination | None = None
    mirrors: tuple[HttpMirrorPolicy, ...] = ()
    mirror_percent: int | None = None
    mirror_percentage: Percent | None = None
    cors_policy: CorsPolicy | None = None
    headers: Headers | None = None


class StreamMatch(Fields, frozen=True):
    """All that is given must match; ``sni_hosts`` is TLS's."""

    sni_hosts: tuple[str, ...] = ()
    destination_subnets: tuple[str, ...] = ()
    port: int | None = None
    source_labels: dict[str, str] = field(default_factory=dict)
    gateways: tuple[str, ...] = ()
    source_namespace: str = ""
    source_subnet: str = ""


class RouteDestination(Fields, frozen=True):
    """A destination with its share of connections."""

    destination: Destination
    weight: Annotated[int, Meta(ge=0)] = 0


class VirtualStreamRoute(Fields, frozen=True):
    """Matches and destinations of connections."""

    match: tuple[StreamMatch, ...] = ()
    route: tuple[RouteDestination, ...] = ()


class VirtualServiceSpec(Fields, frozen=True):
    """Routes for hosts."""

    hosts: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    http: tuple[VirtualHttpRoute, ...] = ()
    tls: tuple[VirtualStreamRoute, ...] = ()
    tcp: tuple[VirtualStreamRoute, ...] = ()
    export_to: tuple[str, ...] = ()


class NetworkingStatus(Fields, frozen=True):
    """What became of an object of Istio's."""

    conditions: Raw = None
    validation_messages: Raw = None
    observed_generation: int | str | None = None
    addresses: Any = None
