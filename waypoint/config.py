"""A waypoint's configuration file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from mesh import ports
from mesh.config import Port, Seconds, Settings
from mesh.control_plane import ControlPlaneGroup
from mesh.identity import SpiffeId
from mesh.tls.kernel_driver import KernelTlsWish
from mesh.xds.discovery_codec import NodeInfo


class GatewayGroup(Settings, frozen=True, kw_only=True):
    """Which waypoint this is a replica of, and where it runs."""

    name: str
    """The Gateway's."""
    namespace: str
    """The Gateway's, and this pod's."""
    service_account: str
    pod_name: str
    pod_ip: str
    node: str = ""
    cluster_id: str = "Kubernetes"
    network: str = ""
    trust_domain: str = "cluster.local"

    @property
    def key(self) -> str:
        """``namespace/name``: what its destinations are found under."""
        return f"{self.namespace}/{self.name}"

    @property
    def identity(self) -> SpiffeId:
        """What this waypoint proves to be."""
        return SpiffeId(self.trust_domain, self.namespace, self.service_account)

    def info(self) -> NodeInfo:
        """What the control plane is told of this proxy."""
        return NodeInfo(
            pod=self.pod_name,
            namespace=self.namespace,
            ip=self.pod_ip,
            node=self.node,
            cluster_id=self.cluster_id,
            kind="waypoint",
        )


class ListenGroup(Settings, frozen=True, kw_only=True):
    """Ports in the waypoint's own namespace."""

    hbone_port: Port = ports.HBONE
    admin_port: Port = 15000
    """On loopback only: it shows everything and can stop the process."""
    metrics_port: Port = 15020
    readiness_port: Port = 15021


class LogGroup(Settings, frozen=True, kw_only=True):
    """The process log. What of requests is logged is said by Telemetry resources."""

    level: str = "info"
    format: Literal["text", "json"] = "text"


class RateLimitStoreGroup(Settings, frozen=True, kw_only=True):
    """A server that speaks the Redis protocol, in which all replicas count shared rate limits together."""

    host: str
    port: Annotated[int, Meta(ge=1, le=65535)] = 6379
    user: str = ""
    """For its access lists; empty: the default user."""
    password_file: Path | None = None
    """Read anew for each connection."""
    tls: bool = False
    root_certificate: Path | None = None
    """PEM, for ``tls``; left out: the system's roots."""
    prefix: str = "ambimesh:limit:"
    """Of all keys; the Gateway's name follows, so that waypoints can have a store in common."""
    timeout_seconds: Seconds = 0.05
    """How long a request waits for it."""
    when_away: Literal["count-here", "admit", "refuse"] = "count-here"
    """What becomes of requests while it does not answer: each replica counts for itself; they go on; they are answered
    500."""


class WaypointSettings(Settings, frozen=True, kw_only=True):
    """The whole file."""

    gateway: GatewayGroup
    control_plane: ControlPlaneGroup
    listen: ListenGroup = ListenGroup()
    log: LogGroup = LogGroup()
    kernel_tls: KernelTlsWish = "never"
    """As that of ztunnel: ``auto`` leaves the encryption of tunnels to the kernel, where it can. A waypoint cannot load
    the kernel's module itself."""
    rate_limit_store: RateLimitStoreGroup | None = None
    """Left out: each replica counts shared limits for itself."""
    drain_seconds: Seconds = 25.0
    """After SIGTERM, and two seconds in which peers hear of it: how long requests may go on. Kubernetes' grace period
    less five seconds."""
    certificate_lifetime_seconds: int = 24 * 3600
    """What is asked for; renewed at half of what is given."""
