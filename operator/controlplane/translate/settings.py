"""What translation must know beside the objects."""

from __future__ import annotations

from dataclasses import dataclass

from mesh.model.request_policy import ExternalAuthorizer


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
