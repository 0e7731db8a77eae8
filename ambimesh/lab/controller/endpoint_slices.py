"""The endpoint slices of Services with a selector. Pure.

One slice per address family, and one more for each further way in which a named target port resolves: pods behind one
Service may give the name different numbers.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from ambimesh.lab.controller.service_addresses import families
from resources.base import ObjectMeta, ObjectReference
from resources.network import Endpoint, EndpointConditions, EndpointPort, ServicePort
from resources.objects import SERVICE_NAME_LABEL, EndpointSlice, Pod, Service

MANAGED_BY_LABEL = "endpointslice.kubernetes.io/managed-by"
MANAGER = "ambimesh-lab"


def endpoint_slices(services: Iterable[Service], pods: Iterable[Pod]) -> list[EndpointSlice]:
    """What should exist. A Service without a selector gets none: its slices are somebody else's."""
    pods = sorted(pods, key=lambda one: one.key)
    wanted: list[EndpointSlice] = []
    for service in sorted(services, key=lambda one: one.key):
        if not service.spec.selector or service.spec.type == "ExternalName":
            continue
        chosen = [pod for pod in pods if _selects(service, pod)]
        for family in families(service):
            wanted += _slices_of_family(service, family, chosen)
    return wanted


def is_ours(entry: EndpointSlice) -> bool:
    """Whether the slice was made from this module's answer, so that it may be changed and removed."""
    return entry.metadata.labels.get(MANAGED_BY_LABEL) == MANAGER


def target_port(port: ServicePort, pod: Pod) -> int | None:
    """The number a Service's port leads to on this pod; None when the pod has no port of that name."""
    if port.target_port is None or port.target_port == 0:
        return port.port
    if isinstance(port.target_port, int):
        return port.target_port
    return next(
        (
            declared.container_port
            for container in pod.spec.containers
            for declared in container.ports
            if declared.name == port.target_port and declared.protocol == port.protocol
        ),
        None,
    )


def _selects(service: Service, pod: Pod) -> bool:
    return (
        pod.metadata.namespace == service.metadata.namespace
        and not pod.status.ended
        and bool(pod.status.addresses)
        and all(pod.metadata.labels.get(key) == value for key, value in service.spec.selector.items())
    )


def _slices_of_family(service: Service, family: str, pods: list[Pod]) -> list[EndpointSlice]:
    by_ports: dict[tuple[EndpointPort, ...], list[Endpoint]] = {}
    for pod in pods:
        address = next((ip for ip in pod.status.addresses if f"IPv{ipaddress.ip_address(ip).version}" == family), None)
        if address is None:
            continue
        ports = tuple(
            EndpointPort(name=port.name, protocol=port.protocol, port=number, app_protocol=port.app_protocol)
            for port in service.spec.ports
            if (number := target_port(port, pod)) is not None
        )
        by_ports.setdefault(ports, []).append(_endpoint(service, pod, address))
    name, namespace = service.metadata.name, service.metadata.namespace
    labels = {SERVICE_NAME_LABEL: name, MANAGED_BY_LABEL: MANAGER}
    groups = list(by_ports.items()) or [((), [])]
    return [
        EndpointSlice(
            metadata=ObjectMeta(
                name=f"{name}-{family.lower()}" + (f"-{index}" if index else ""), namespace=namespace, labels=labels
            ),
            address_type="IPv4" if family == "IPv4" else "IPv6",
            endpoints=tuple(endpoints),
            ports=ports,
        )
        for index, (ports, endpoints) in enumerate(groups)
    ]


def _endpoint(service: Service, pod: Pod, address: str) -> Endpoint:
    terminating = pod.metadata.deletion_timestamp is not None
    ready = pod.status.ready
    return Endpoint(
        addresses=(address,),
        conditions=EndpointConditions(
            ready=(ready and not terminating) or service.spec.publish_not_ready_addresses,
            serving=ready,
            terminating=terminating,
        ),
        node_name=pod.spec.node_name,
        target_ref=ObjectReference(
            kind="Pod", name=pod.metadata.name, namespace=pod.metadata.namespace, uid=pod.metadata.uid
        ),
    )
