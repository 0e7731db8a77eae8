"""Pods, and endpoints that are no pods, to the mesh's workloads."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import NamedTuple

from controlplane.translate.binding import UNBOUND, Binding
from controlplane.translate.services import app_protocol, service_key, target_number, tcp_ports
from controlplane.translate.settings import MeshSettings
from mesh.addresses import read_ip
from mesh.model.workload import (
    HealthStatus,
    Locality,
    NetworkMode,
    ServicePort,
    TunnelProtocol,
    Workload,
    WorkloadType,
)
from resources.network import Endpoint
from resources.objects import SERVICE_NAME_LABEL, EndpointSlice, Pod, Service
from resources.sharing import shared, shared_mapping

REDIRECTION_ANNOTATION = "ambient.istio.io/redirection"
_TUNNEL_LABEL = "networking.istio.io/tunnel"
_REGION_LABEL = "topology.kubernetes.io/region"
_ZONE_LABEL = "topology.kubernetes.io/zone"
_SUBZONE_LABEL = "topology.istio.io/subzone"
_CANONICAL_NAME_LABELS = ("service.istio.io/canonical-name", "app.kubernetes.io/name", "app")
_CANONICAL_REVISION_LABELS = ("service.istio.io/canonical-revision", "app.kubernetes.io/version", "version")

# A CronJob names its Jobs after itself and the scheduled minute, counted from 1970.
_CRON_JOB = re.compile(r"(?P<name>.+)-\d{8,10}")


class Backing(NamedTuple):
    """That an endpoint slice names an endpoint of a Service."""

    service: Service
    slice: EndpointSlice
    endpoint: Endpoint


def pod_uid(namespace: str, name: str, settings: MeshSettings) -> str:
    """The resource name of a pod's workload."""
    return f"{settings.cluster_id}//Pod/{namespace}/{name}"


def endpoint_uid(value: EndpointSlice, address: str, settings: MeshSettings) -> str:
    """The resource name of the workload behind an endpoint that is no pod."""
    metadata = value.metadata
    return f"{settings.cluster_id}/discovery.k8s.io/EndpointSlice/{metadata.namespace}/{metadata.name}/{address}"


def translate_pod(
    pod: Pod,
    backings: Iterable[Backing],
    policies: tuple[str, ...],
    settings: MeshSettings,
    binding: Binding = UNBOUND,
    node_labels: Mapping[str, str] = MappingProxyType({}),
) -> Workload | None:
    """One pod's workload.

    Args:
        pod: the pod.
        backings: the Services it is an endpoint of.
        policies: names of the policies that select it.
        settings: the mesh's names.
        binding: the waypoint it asks for, as a workload.
        node_labels: of the node it runs on, which say where that is.

    Returns:
        None when the pod cannot be reached: it has ended, or has no node or address yet.
    """
    addresses = pod.status.addresses
    if pod.status.ended or not pod.spec.node_name or not addresses:
        return None
    metadata, labels = pod.metadata, pod.metadata.labels
    backings = tuple(backings)
    workload_name, workload_type = workload_owner(pod)
    captured = metadata.annotations.get(REDIRECTION_ANNOTATION) == "enabled"
    native = labels.get(_TUNNEL_LABEL) == "http"
    healthy = pod.status.ready and metadata.deletion_timestamp is None
    return Workload(
        uid=pod_uid(metadata.namespace, metadata.name, settings),
        name=metadata.name,
        namespace=metadata.namespace,
        addresses=tuple(read_ip(text) for text in addresses),
        network=settings.network,
        tunnel_protocol=TunnelProtocol.HBONE if captured or native else TunnelProtocol.NONE,
        native_tunnel=native,
        trust_domain=settings.trust_domain,
        service_account=pod.spec.account,
        node=pod.spec.node_name,
        canonical_name=_first(labels, _CANONICAL_NAME_LABELS, workload_name),
        canonical_revision=_first(labels, _CANONICAL_REVISION_LABELS, "latest"),
        workload_type=workload_type,
        workload_name=workload_name,
        authorization_policies=policies,
        status=HealthStatus.HEALTHY if healthy else HealthStatus.UNHEALTHY,
        cluster_id=settings.cluster_id,
        services=endpoint_services(backings, settings),
        locality=_locality(labels, node_labels, backings),
        network_mode=NetworkMode.HOST_NETWORK if pod.spec.host_network else NetworkMode.STANDARD,
        waypoint=binding.address,
    )


def translate_bare_endpoints(
    value: EndpointSlice, service: Service | None, settings: MeshSettings
) -> tuple[Workload, ...]:
    """Workloads for the endpoints of a slice that are no pods: addresses outside of the cluster."""
    if value.address_type == "FQDN" or service is None:
        return ()
    found: dict[str, Workload] = {}
    for endpoint in value.endpoints:
        if is_pod(endpoint):
            continue
        healthy = endpoint.conditions.ready is not False
        for address in endpoint.addresses:
            uid = endpoint_uid(value, address, settings)
            found[uid] = Workload(
                uid=uid,
                name=value.metadata.name,
                namespace=value.metadata.namespace,
                addresses=(read_ip(address),),
                network=settings.network,
                trust_domain=settings.trust_domain,
                node=endpoint.node_name,
                canonical_name=value.metadata.labels.get(SERVICE_NAME_LABEL, value.metadata.name),
                canonical_revision="latest",
                workload_name=value.metadata.name,
                status=HealthStatus.HEALTHY if healthy else HealthStatus.UNHEALTHY,
                cluster_id=settings.cluster_id,
                services=endpoint_services([Backing(service, value, endpoint)], settings),
                locality=Locality(zone=endpoint.zone),
            )
    return tuple(found.values())


def is_pod(endpoint: Endpoint) -> bool:
    """Whether an endpoint is a pod's address."""
    return endpoint.target_ref is not None and endpoint.target_ref.kind == "Pod"


def endpoint_services(
    backings: Iterable[Backing], settings: MeshSettings
) -> Mapping[str, tuple[ServicePort, ...]]:
    """By Service, the ports as this endpoint offers them: named target ports are numbers here."""
    result: dict[str, tuple[ServicePort, ...]] = {}
    for service, value, _ in backings:
        numbers = {port.name: port.port for port in value.ports if port.protocol == "TCP" and port.port is not None}
        ports = []
        for port in tcp_ports(service.spec):
            number = numbers.get(port.name) or target_number(port)
            if number:
                ports.append(ServicePort(port.port, number, app_protocol(port)))
        key = service_key(service.metadata.name, service.metadata.namespace, settings)
        # A dual-stack Service has a slice for each family, with the same ports.
        result[key] = result.get(key) or tuple(ports)
    return shared_mapping(result)


def workload_owner(pod: Pod) -> tuple[str, WorkloadType]:
    """The name people know the pod's program by, and what runs it."""
    owner = next((one for one in pod.metadata.owner_references if one.controller), None)
    if owner is None:
        return pod.metadata.name, WorkloadType.POD
    if owner.kind == "ReplicaSet":
        template_hash = pod.metadata.labels.get("pod-template-hash", "")
        if template_hash and owner.name.endswith(f"-{template_hash}"):
            return sys.intern(owner.name.removesuffix(f"-{template_hash}")), WorkloadType.DEPLOYMENT
        return owner.name, WorkloadType.POD
    if owner.kind == "Job":
        scheduled = _CRON_JOB.fullmatch(owner.name)
        return (scheduled["name"], WorkloadType.CRONJOB) if scheduled else (owner.name, WorkloadType.JOB)
    return owner.name, WorkloadType.POD


def _first(labels: Mapping[str, str], names: Iterable[str], default: str) -> str:
    return next((labels[name] for name in names if labels.get(name)), default)


def _locality(labels: Mapping[str, str], node: Mapping[str, str], backings: Iterable[Backing]) -> Locality:
    """Where the pod runs: by its own topology labels (a newer API server copies the node's), else by its node's, else
    by what its endpoints say."""

    def named(label: str) -> str:
        return labels.get(label) or node.get(label, "")

    zone = named(_ZONE_LABEL) or next((one.endpoint.zone for one in backings if one.endpoint.zone), "")
    return shared(Locality(named(_REGION_LABEL), zone, named(_SUBZONE_LABEL)))


def with_services(workload: Workload, more: Mapping[str, tuple[ServicePort, ...]]) -> Workload:
    """The workload, serving more than the Services whose endpoint it is."""
    return replace(workload, services=dict(sorted({**more, **workload.services}.items())))
