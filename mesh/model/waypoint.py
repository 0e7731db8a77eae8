"""What a waypoint is told: itself, and each destination that it serves.

Sent over delta xDS as resources of our own type, one per destination, found under the waypoint's name: a change of one
route costs one resource. Endpoints come as ``istio.workload.Address`` like everybody's.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from mesh.model.http_route import Backend, HttpRoute
from mesh.model.request_policy import ExternalAuthorizer, RequestAuthentication, RequestPolicy
from mesh.model.upstream_policy import UpstreamPolicy
from mesh.model.workload import AppProtocol


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamRoute:
    """A route of TCP connections, or of TLS connections by their server name. The first that matches serves."""

    name: str
    server_names: tuple[str, ...] = ()
    """Of TLS; ``*.`` at the front stands for any labels; empty: any, and plain TCP."""
    backends: tuple[Backend, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DestinationPort:
    """One port of a destination."""

    number: int
    """As clients dial it."""
    protocol: AppProtocol = AppProtocol.UNKNOWN
    """UNKNOWN: told from the first bytes."""
    routes: tuple[HttpRoute, ...] = ()
    """For clients of any namespace; empty: straight to the destination."""
    consumer_routes: tuple[tuple[str, tuple[HttpRoute, ...]], ...] = ()
    """In place of ``routes`` for clients of a namespace that has routes of its own (Gateway API GEP-1426)."""
    stream_routes: tuple[StreamRoute, ...] = ()


class LogFormat(enum.StrEnum):
    """How access records are written."""

    OFF = "off"
    TEXT = "text"
    JSON = "json"
    TEMPLATE = "template"


class TagSource(enum.StrEnum):
    """Where a tag of spans comes from."""

    LITERAL = "literal"
    ENVIRONMENT = "environment"
    """A variable of the waypoint's environment."""
    HEADER = "header"
    """A header of the request, as it went to the application."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanTag:
    """One tag that is added to spans."""

    name: str
    source: TagSource = TagSource.LITERAL
    value: str
    """The text itself, or the name of the variable or header."""
    default: str = ""
    """Where there is no such variable or header; empty: no tag then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanCollector:
    """Who takes spans: a service of the mesh that speaks OTLP over HTTP with protocol buffers."""

    service: str
    """``namespace/hostname``."""
    port: int
    path: str = "/v1/traces"


class Metric(enum.StrEnum):
    """The metrics that can be switched off, by the names that Istio's Telemetry has for them."""

    REQUEST_COUNT = "REQUEST_COUNT"
    REQUEST_DURATION = "REQUEST_DURATION"
    REQUEST_SIZE = "REQUEST_SIZE"
    RESPONSE_SIZE = "RESPONSE_SIZE"
    TCP_OPENED_CONNECTIONS = "TCP_OPENED_CONNECTIONS"
    TCP_CLOSED_CONNECTIONS = "TCP_CLOSED_CONNECTIONS"
    TCP_SENT_BYTES = "TCP_SENT_BYTES"
    TCP_RECEIVED_BYTES = "TCP_RECEIVED_BYTES"
    GRPC_REQUEST_MESSAGES = "GRPC_REQUEST_MESSAGES"
    GRPC_RESPONSE_MESSAGES = "GRPC_RESPONSE_MESSAGES"


@dataclass(frozen=True, slots=True, kw_only=True)
class Telemetry:
    """What is recorded about requests."""

    log_format: LogFormat = LogFormat.TEXT
    log_template: str = ""
    log_failures_only: bool = False
    log_codes: tuple[tuple[int, int], ...] | None = None
    """Ranges of first and last code of the answers that are logged; None: all."""
    collector: SpanCollector | None = None
    """Where spans go; None: none are made, and the trace headers of clients pass as they are."""
    sampling_percent: float = 0.0
    """Of requests that start a trace here; the client's decision is kept."""
    report_spans: bool = True
    """Otherwise none are sent, while contexts are begun and passed on all the same."""
    tags: tuple[SpanTag, ...] = ()
    """Added to spans."""
    metrics_off: tuple[Metric, ...] = ()
    """Not counted; sorted."""
    labels_off: tuple[str, ...] = ()
    """Labels of metrics that are left empty; sorted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """A service or workload bound to a waypoint."""

    key: str
    """``namespace/hostname`` of a service, or a workload's uid."""
    waypoint: str
    """``namespace/name`` of the Gateway that serves it."""
    hosts: tuple[str, ...] = ()
    """Names that clients call it by; used to tell the destination where an address does not."""
    ports: tuple[DestinationPort, ...] = ()
    any_port: bool = False
    """Of a workload: ports beside these are served too; what they speak is found out."""
    policies: tuple[RequestPolicy, ...] = ()
    authentication: tuple[RequestAuthentication, ...] = ()
    authorizers: tuple[ExternalAuthorizer, ...] = ()
    """Those that ``policies`` name."""
    upstreams: tuple[UpstreamPolicy, ...] = ()
    """Of every service that the routes name, if something is said about it."""
    telemetry: Telemetry = Telemetry()
    session_key: str = 32 * "0"
    """Secret that the waypoint's replicas share, in hexadecimal digits: session tokens are signed with it."""

    @property
    def name(self) -> str:
        """``waypoint|key``: the xDS resource name. Something with a canary waypoint is a resource of both."""
        return f"{self.waypoint}|{self.key}"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadLabels:
    """Labels of a workload, by which waypoints tell subsets and clients apart."""

    uid: str
    """The workload's."""
    labels: tuple[tuple[str, str], ...]
    """Sorted by name."""
