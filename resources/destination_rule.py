"""The parts of Istio's DestinationRule (``networking.istio.io``)."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, field

from resources.base import Fields, Raw
from resources.security import WorkloadSelector
from resources.virtual_service import Duration, Percent, PortSelector

Count = Annotated[int, Meta(ge=0)]


class HttpCookie(Fields, frozen=True):
    """A cookie that is hashed; with ``ttl`` it is made where it lacks."""

    name: str = ""
    path: str = ""
    ttl: Duration | None = None
    attributes: Raw = None


class RingHash(Fields, frozen=True):
    """The hash ring."""

    minimum_ring_size: Count = 0


class Maglev(Fields, frozen=True):
    """Maglev's table."""

    table_size: Count = 0


class ConsistentHash(Fields, frozen=True):
    """What is hashed, and how."""

    http_header_name: str | None = None
    http_cookie: HttpCookie | None = None
    use_source_ip: bool | None = None
    http_query_parameter_name: str | None = None
    ring_hash: RingHash | None = None
    maglev: Maglev | None = None
    minimum_ring_size: Count = 0


class Distribute(Fields, frozen=True):
    """Where the requests of one locality go."""

    from_: str = field(default="", name="from")
    to: dict[str, Count] = field(default_factory=dict)


class Failover(Fields, frozen=True):
    """From region, to region."""

    from_: str = field(default="", name="from")
    to: str = ""


class LocalitySetting(Fields, frozen=True):
    """How localities are ranked."""

    distribute: tuple[Distribute, ...] = ()
    failover: tuple[Failover, ...] = ()
    failover_priority: tuple[str, ...] = ()
    enabled: bool | None = None


class Warmup(Fields, frozen=True):
    """How a new endpoint's share grows."""

    duration: Duration | None = None
    minimum_percent: float | None = None
    aggression: float | None = None


class LoadBalancer(Fields, frozen=True):
    """How endpoints are chosen."""

    simple: Literal["UNSPECIFIED", "LEAST_CONN", "RANDOM", "PASSTHROUGH", "ROUND_ROBIN", "LEAST_REQUEST"] | None = None
    consistent_hash: ConsistentHash | None = None
    locality_lb_setting: LocalitySetting | None = None
    warmup_duration_secs: Duration | None = None
    warmup: Warmup | None = None


class TcpSettings(Fields, frozen=True):
    """Limits of connections."""

    max_connections: Count = 0
    connect_timeout: Duration | None = None
    tcp_keepalive: Raw = None
    max_connection_duration: Duration | None = None
    idle_timeout: Duration | None = None


class HttpSettings(Fields, frozen=True):
    """Limits of requests."""

    http1_max_pending_requests: Count = field(default=0, name="http1MaxPendingRequests")
    http2_max_requests: Count = field(default=0, name="http2MaxRequests")
    max_requests_per_connection: Count = 0
    max_retries: Count = 0
    idle_timeout: Duration | None = None
    h2_upgrade_policy: Literal["DEFAULT", "DO_NOT_UPGRADE", "UPGRADE"] = field(
        default="DEFAULT", name="h2UpgradePolicy"
    )
    use_client_protocol: bool = False
    max_concurrent_streams: Count = 0


class ConnectionPoolSettings(Fields, frozen=True):
    """Limits."""

    tcp: TcpSettings | None = None
    http: HttpSettings | None = None


class OutlierDetection(Fields, frozen=True):
    """When an endpoint is left out for a while."""

    consecutive_errors: Count = 0
    split_external_local_origin_errors: bool = False
    consecutive_local_origin_failures: Count | None = None
    consecutive_gateway_errors: Count | None = None
    consecutive_5xx_errors: Count | None = field(default=None, name="consecutive5xxErrors")
    interval: Duration | None = None
    base_ejection_time: Duration | None = None
    max_ejection_percent: Annotated[int, Meta(ge=0, le=100)] = 0
    min_health_percent: Annotated[int, Meta(ge=-1, le=100)] = 0


class ClientTls(Fields, frozen=True):
    """TLS towards the destination."""

    mode: Literal["DISABLE", "SIMPLE", "MUTUAL", "ISTIO_MUTUAL"] = "DISABLE"
    client_certificate: str = ""
    private_key: str = ""
    ca_certificates: str = ""
    ca_crl: str = ""
    credential_name: str = ""
    subject_alt_names: tuple[str, ...] = ()
    sni: str = ""
    insecure_skip_verify: bool | None = None


class PortTrafficPolicy(Fields, frozen=True):
    """All that is said about one port."""

    port: PortSelector | None = None
    load_balancer: LoadBalancer | None = None
    connection_pool: ConnectionPoolSettings | None = None
    outlier_detection: OutlierDetection | None = None
    tls: ClientTls | None = None


class RetryBudget(Fields, frozen=True):
    """How many retries may be under way."""

    percent: Percent | float | None = None
    min_retry_concurrency: Count = 3


class TrafficPolicy(Fields, frozen=True):
    """All that is said about a destination or a subset."""

    load_balancer: LoadBalancer | None = None
    connection_pool: ConnectionPoolSettings | None = None
    outlier_detection: OutlierDetection | None = None
    tls: ClientTls | None = None
    port_level_settings: tuple[PortTrafficPolicy, ...] = ()
    tunnel: Raw = None
    proxy_protocol: Raw = None
    retry_budget: RetryBudget | None = None


class DestinationSubset(Fields, frozen=True):
    """Endpoints with certain labels."""

    name: str
    labels: dict[str, str] = field(default_factory=dict)
    traffic_policy: TrafficPolicy | None = None


class DestinationRuleSpec(Fields, frozen=True):
    """How a service is treated as a destination."""

    host: str
    traffic_policy: TrafficPolicy | None = None
    subsets: tuple[DestinationSubset, ...] = ()
    export_to: tuple[str, ...] = ()
    workload_selector: WorkloadSelector | None = None
