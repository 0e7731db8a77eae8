"""A service: a name, virtual addresses, and how to choose among its endpoints."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from mesh.model.workload import GatewayAddress, NetworkAddress, ServicePort


class RoutingScope(enum.IntEnum):
    """A level of locality (``istio.workload.LoadBalancing.Scope``)."""

    UNSPECIFIED = 0
    REGION = 1
    ZONE = 2
    SUBZONE = 3
    NODE = 4
    CLUSTER = 5
    NETWORK = 6


class BalancingMode(enum.IntEnum):
    """What the routing preference means (``istio.workload.LoadBalancing.Mode``)."""

    UNSPECIFIED = 0
    STRICT = 1
    FAILOVER = 2
    PASSTHROUGH = 3


class HealthPolicy(enum.IntEnum):
    """Whether unready endpoints may be chosen."""

    ONLY_HEALTHY = 0
    ALLOW_ALL = 1


class IpFamilies(enum.IntEnum):
    """Address families of a service."""

    AUTOMATIC = 0
    IPV4_ONLY = 1
    IPV6_ONLY = 2
    DUAL = 3


class Visibility(enum.IntEnum):
    """Who may resolve a service."""

    PUBLIC = 0
    NAMESPACE = 1


@dataclass(frozen=True, slots=True)
class LoadBalancing:
    """How endpoints are ranked before one is picked by weight."""

    routing_preference: tuple[RoutingScope, ...] = ()
    mode: BalancingMode = BalancingMode.UNSPECIFIED
    health_policy: HealthPolicy = HealthPolicy.ONLY_HEALTHY


@dataclass(frozen=True, slots=True)
class WeightedWaypoint:
    """One of several waypoints, chosen per connection by weight."""

    destination: GatewayAddress
    weight: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One service (``istio.workload.Service``)."""

    name: str
    namespace: str
    hostname: str
    addresses: tuple[NetworkAddress, ...] = ()
    ports: tuple[ServicePort, ...] = ()
    subject_alt_names: tuple[str, ...] = ()
    waypoint: GatewayAddress | None = None
    load_balancing: LoadBalancing = LoadBalancing()
    ip_families: IpFamilies = IpFamilies.AUTOMATIC
    canonical: bool = True
    ingress_use_waypoint: bool = False
    weighted_waypoints: tuple[WeightedWaypoint, ...] = ()
    visibility: Visibility = Visibility.PUBLIC

    @property
    def key(self) -> str:
        """``namespace/hostname``: the xDS resource name."""
        return f"{self.namespace}/{self.hostname}"
