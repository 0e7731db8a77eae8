"""What translation must know beside the objects."""

from __future__ import annotations

from dataclasses import dataclass

from mesh.model.request_policy import ExternalAuthorizer
from mesh.model.waypoint import SpanCollector


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshSettings:
    """The mesh's names."""

    trust_domain: str = "cluster.local"
    cluster_id: str = "Kubernetes"
    cluster_domain: str = "cluster.local"
    """What Service hostnames end in; it need not be the trust domain."""
    network: str = ""
    root_namespace: str = "istio-system"
    """Policies without selector in this namespace are for the whole mesh."""
    waypoint_classes: tuple[str, ...] = ("ambimesh-waypoint", "istio-waypoint")
    """GatewayClasses whose Gateways are waypoints; one that exists as an object tells it by its controller."""
    authorizers: tuple[ExternalAuthorizer, ...] = ()
    """The providers that policies with the action CUSTOM may name."""
    collectors: tuple[tuple[str, SpanCollector], ...] = ()
    """The providers that Telemetry objects may name for tracing."""
    default_collector: str = ""
    """The provider of requests for which no Telemetry names one; empty: no spans of these."""
    sampling_percent: float = 0.0
    """Of requests for which no Telemetry says how many."""
