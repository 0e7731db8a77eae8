"""How a waypoint treats the endpoints of a service: Istio's DestinationRule, Gateway API's BackendTLSPolicy, and the
like."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field


class Algorithm(enum.StrEnum):
    """How an endpoint is chosen among those of the best locality."""

    LEAST_REQUEST = "least_request"
    """The one with fewer requests under way of two drawn at random."""
    ROUND_ROBIN = "round_robin"
    RANDOM = "random"
    RING_HASH = "ring_hash"
    MAGLEV = "maglev"
    PASSTHROUGH = "passthrough"
    """The address that the client dialled."""


class HashKind(enum.StrEnum):
    """What is hashed for RING_HASH and MAGLEV."""

    HEADER = "header"
    COOKIE = "cookie"
    SOURCE_ADDRESS = "source_address"
    QUERY = "query"


@dataclass(frozen=True, slots=True, kw_only=True)
class HashKey:
    """One thing that is hashed."""

    kind: HashKind
    name: str = ""
    """Of the header, cookie or query parameter."""
    cookie_path: str = "/"
    cookie_seconds: float | None = None
    """Not None: a request without the cookie is given one of this life."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalityShare:
    """Where the requests of one locality go (``region/zone/subzone``, ``*`` for any)."""

    source: str
    shares: tuple[tuple[str, int], ...]
    """Locality and percent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Balancing:
    """How endpoints are chosen."""

    algorithm: Algorithm = Algorithm.LEAST_REQUEST
    hash_keys: tuple[HashKey, ...] = ()
    ring_size: int = 1024
    table_size: int = 65537
    """Of Maglev's table; a prime."""
    slow_start_seconds: float = 0.0
    """A new endpoint's share grows to its full one over this time."""
    locality_shares: tuple[LocalityShare, ...] = ()
    failover: tuple[tuple[str, str], ...] = ()
    """From region, to region."""
    locality_enabled: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionPool:
    """Limits of what is sent to one service by one waypoint replica; past them requests are answered 503 (UO)."""

    max_connections: int = 1024
    max_pending_requests: int = 1024
    max_requests: int = 1024
    """Under way at a time."""
    max_retries: int = 3
    """Under way at a time."""
    max_requests_per_connection: int = 0
    """0: any number."""
    idle_seconds: float = 3600.0
    connect_seconds: float = 10.0
    upgrade_to_http2: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class OutlierDetection:
    """When an endpoint is left out for a while (Envoy's outlier detection)."""

    consecutive_5xx: int = 5
    """0: not looked at."""
    consecutive_gateway_errors: int = 0
    """502, 503 and 504; 0: not looked at."""
    split_local_errors: bool = False
    consecutive_local_failures: int = 5
    interval_seconds: float = 10.0
    base_ejection_seconds: float = 30.0
    """Times the number of ejections so far."""
    max_ejection_percent: int = 10
    """At least one endpoint may always be ejected."""
    min_health_percent: int = 0
    """Below this share of healthy endpoints all of them are used."""
    success_rate: bool = False
    """Eject those whose share of successes lies far below the others'."""
    success_rate_minimum_hosts: int = 5
    success_rate_request_volume: int = 100
    success_rate_stdev_factor: float = 1.9


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthCheck:
    """Requests that a waypoint makes itself to find out whether an endpoint serves."""

    path: str | None = None
    """None: whether a connection can be made is enough."""
    port: int | None = None
    interval_seconds: float = 10.0
    timeout_seconds: float = 2.0
    unhealthy_threshold: int = 3
    healthy_threshold: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientCertificate:
    """What a waypoint shows of itself to an application."""

    chain: str
    """PEM, the leaf first."""
    private_key: str = field(repr=False)
    """The leaf's, PEM. In no log and no dump."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamTls:
    """TLS that the waypoint speaks with the application, inside the tunnel."""

    server_name: str
    subject_alt_names: tuple[str, ...] = ()
    ca_certificates: str | None = None
    """PEM; None: the system's roots; empty: nobody is trusted, because what was to be trusted could not be found."""
    shown: ClientCertificate | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficPolicy:
    """All that is said about a service's port, or one of its subsets."""

    balancing: Balancing = Balancing()
    pool: ConnectionPool = ConnectionPool()
    outlier: OutlierDetection | None = None
    health_check: HealthCheck | None = None
    tls: UpstreamTls | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Subset:
    """Endpoints with certain labels."""

    name: str
    labels: tuple[tuple[str, str], ...]
    policy: TrafficPolicy | None = None
    """None: the service's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamPolicy:
    """What applies to one service as a backend."""

    service: str
    """``namespace/hostname``."""
    policy: TrafficPolicy = TrafficPolicy()
    ports: tuple[tuple[int, TrafficPolicy], ...] = ()
    """Of single service ports, in place of ``policy``."""
    subsets: tuple[Subset, ...] = ()
