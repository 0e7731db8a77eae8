"""A workload: one pod, or one address outside the cluster."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from mesh import ports
from mesh.addresses import IpBytes
from mesh.identity import SpiffeId

NO_PORTS: Mapping[int, int] = MappingProxyType({})


class TunnelProtocol(enum.IntEnum):
    """How to reach a workload (``istio.workload.TunnelProtocol``)."""

    NONE = 0
    HBONE = 1
    LEGACY_ISTIO_MTLS = 2


class WorkloadType(enum.IntEnum):
    """What owns the pod (``istio.workload.WorkloadType``)."""

    DEPLOYMENT = 0
    CRONJOB = 1
    POD = 2
    JOB = 3


class HealthStatus(enum.IntEnum):
    """Whether load balancing may choose it (``istio.workload.WorkloadStatus``)."""

    HEALTHY = 0
    UNHEALTHY = 1


class NetworkMode(enum.IntEnum):
    """Host-network pods share the node's address and cannot be found by it."""

    STANDARD = 0
    HOST_NETWORK = 1


class AppProtocol(enum.IntEnum):
    """Of a service port (``istio.workload.AppProtocol``)."""

    UNKNOWN = 0
    HTTP11 = 1
    HTTP2 = 2
    GRPC = 3
    TCP = 4
    TLS = 5


@dataclass(frozen=True, slots=True)
class NamespacedHostname:
    """A service by name."""

    namespace: str
    hostname: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.hostname}"


@dataclass(frozen=True, slots=True)
class NetworkAddress:
    """An address on a named network (empty: the default one); ``length`` makes it a CIDR of the 16-byte form."""

    network: str
    ip: IpBytes
    length: int | None = None


@dataclass(frozen=True, slots=True)
class GatewayAddress:
    """Where a waypoint or network gateway is reached."""

    destination: NamespacedHostname | NetworkAddress
    hbone_mtls_port: int = ports.HBONE


@dataclass(frozen=True, slots=True)
class Locality:
    """Where a workload runs; empty parts are unknown."""

    region: str = ""
    zone: str = ""
    subzone: str = ""


@dataclass(frozen=True, slots=True)
class ServicePort:
    """A service's port; ``target_port`` 0 means a named port, resolved by each endpoint's own entry."""

    service_port: int
    target_port: int
    app_protocol: AppProtocol = AppProtocol.UNKNOWN


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One workload (``istio.workload.Workload``)."""

    uid: str
    """``<cluster>//Pod/<namespace>/<name>``: the xDS resource name."""
    name: str
    namespace: str
    addresses: tuple[IpBytes, ...] = ()
    network: str = ""
    tunnel_protocol: TunnelProtocol = TunnelProtocol.NONE
    trust_domain: str = "cluster.local"
    service_account: str = "default"
    waypoint: GatewayAddress | None = None
    node: str = ""
    canonical_name: str = ""
    canonical_revision: str = ""
    workload_type: WorkloadType = WorkloadType.POD
    workload_name: str = ""
    native_tunnel: bool = False
    authorization_policies: tuple[str, ...] = ()
    """Names ``namespace/name`` of the policies that select this workload."""
    status: HealthStatus = HealthStatus.HEALTHY
    cluster_id: str = ""
    network_gateway: GatewayAddress | None = None
    hostname: str = ""
    services: Mapping[str, tuple[ServicePort, ...]] = field(default_factory=dict)
    """Service key ``namespace/hostname`` to this endpoint's ports."""
    locality: Locality = Locality()
    network_mode: NetworkMode = NetworkMode.STANDARD
    capacity: int = 1
    identity: SpiffeId = field(init=False, compare=False, repr=False)
    """Derived: who this workload is. Kept, not computed, because every connection asks for it."""

    def __post_init__(self) -> None:
        identity = SpiffeId(self.trust_domain, self.namespace, self.service_account)
        object.__setattr__(self, "identity", identity)
