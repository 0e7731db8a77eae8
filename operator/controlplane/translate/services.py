"""Service objects to the mesh's services."""

from __future__ import annotations

from controlplane.translate.binding import UNBOUND, Binding
from controlplane.translate.finding import Condition, Finding
from controlplane.translate.settings import MeshSettings
from mesh.addresses import read_ip
from mesh.model.service import BalancingMode, HealthPolicy, IpFamilies, LoadBalancing, RoutingScope, Service
from mesh.model.workload import AppProtocol, NetworkAddress, ServicePort
from resources import network as fields
from resources import objects

_SAME_ZONE = (RoutingScope.NETWORK, RoutingScope.REGION, RoutingScope.ZONE)
_SAME_NODE = (*_SAME_ZONE, RoutingScope.SUBZONE, RoutingScope.NODE)
_DISTRIBUTIONS = {"PreferClose": _SAME_ZONE, "PreferSameZone": _SAME_ZONE, "PreferSameNode": _SAME_NODE}

_PROTOCOLS = {
    "http": AppProtocol.HTTP11,
    "kubernetes.io/ws": AppProtocol.HTTP11,
    "http2": AppProtocol.HTTP2,
    "h2c": AppProtocol.HTTP2,
    "kubernetes.io/h2c": AppProtocol.HTTP2,
    "grpc": AppProtocol.GRPC,
    "tcp": AppProtocol.TCP,
    "https": AppProtocol.TLS,
    "tls": AppProtocol.TLS,
    "kubernetes.io/wss": AppProtocol.TLS,
}
_FAMILIES = {
    (): IpFamilies.AUTOMATIC,
    ("IPv4",): IpFamilies.IPV4_ONLY,
    ("IPv6",): IpFamilies.IPV6_ONLY,
    ("IPv4", "IPv6"): IpFamilies.DUAL,
}


def service_hostname(name: str, namespace: str, settings: MeshSettings) -> str:
    """The Service's DNS name."""
    return f"{name}.{namespace}.svc.{settings.cluster_domain}"


def service_key(name: str, namespace: str, settings: MeshSettings) -> str:
    """The Service's resource name, ``namespace/hostname``."""
    return f"{namespace}/{service_hostname(name, namespace, settings)}"


def translate_service(
    source: objects.Service, settings: MeshSettings, binding: Binding = UNBOUND
) -> tuple[Service | None, tuple[Finding, ...]]:
    """One Service; None for those that the mesh does not carry.

    Args:
        source: the object.
        settings: the mesh's names.
        binding: the waypoint it asks for.
    """
    spec, metadata = source.spec, source.metadata
    findings: list[Finding] = []

    def unsupported(message: str) -> None:
        findings.append(Finding(source.key, Condition.UNSUPPORTED_VALUE, message))

    if spec.type == "ExternalName":
        message = "Services of type ExternalName are names in DNS only; connections go to what the name resolves to"
        return None, (Finding(source.key, Condition.NOT_APPLIED, message),)
    if spec.session_affinity not in (None, "None"):
        unsupported(f"sessionAffinity {spec.session_affinity} has no effect: every connection is balanced on its own")
    if spec.traffic_distribution and spec.traffic_distribution not in _DISTRIBUTIONS:
        unsupported(f"trafficDistribution {spec.traffic_distribution!r} is not known; all endpoints count alike")
    service = Service(
        name=metadata.name,
        namespace=metadata.namespace,
        hostname=service_hostname(metadata.name, metadata.namespace, settings),
        addresses=tuple(NetworkAddress(settings.network, read_ip(text)) for text in spec.virtual_addresses),
        ports=tuple(_port(port) for port in tcp_ports(spec)),
        load_balancing=_load_balancing(spec),
        ip_families=_FAMILIES.get(tuple(sorted(spec.ip_families)), IpFamilies.AUTOMATIC),
        waypoint=binding.address,
        weighted_waypoints=binding.weighted,
    )
    return service, tuple(findings)


def tcp_ports(spec: fields.ServiceSpec) -> tuple[fields.ServicePort, ...]:
    """The ports the mesh carries."""
    return tuple(port for port in spec.ports if port.protocol == "TCP")


def app_protocol(port: fields.ServicePort) -> AppProtocol:
    """What is spoken on a port: what it says, else what its name begins with."""
    if port.app_protocol:
        return _PROTOCOLS.get(port.app_protocol.lower(), AppProtocol.UNKNOWN)
    return _PROTOCOLS.get(port.name.partition("-")[0].lower(), AppProtocol.UNKNOWN)


def _port(port: fields.ServicePort) -> ServicePort:
    return ServicePort(port.port, target_number(port), app_protocol(port))


def target_number(port: fields.ServicePort) -> int:
    """The target port as far as the Service itself knows it; 0 for a named one."""
    if port.target_port is None or port.target_port == 0:
        return port.port
    return port.target_port if isinstance(port.target_port, int) else 0


def _load_balancing(spec: fields.ServiceSpec) -> LoadBalancing:
    health = HealthPolicy.ALLOW_ALL if spec.publish_not_ready_addresses else HealthPolicy.ONLY_HEALTHY
    if spec.internal_traffic_policy == "Local":
        return LoadBalancing((RoutingScope.NODE,), BalancingMode.STRICT, health)
    preference = _DISTRIBUTIONS.get(spec.traffic_distribution)
    if preference is not None:
        return LoadBalancing(preference, BalancingMode.FAILOVER, health)
    return LoadBalancing(health_policy=health)
