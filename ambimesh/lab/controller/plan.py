"""What the controllers would write for the objects that are there. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ambimesh.lab.controller.deployments import plan_pods
from ambimesh.lab.controller.endpoint_slices import endpoint_slices, is_ours
from ambimesh.lab.controller.garbage import orphans
from ambimesh.lab.controller.scheduling import placements
from ambimesh.lab.controller.service_addresses import allocate
from resources.base import ObjectMeta
from resources.object_set import ObjectSet
from resources.objects import Deployment, EndpointSlice, Namespace, ObjectKey, Pod, Service, ServiceAccount

NAMESPACE_NAME_LABEL = "kubernetes.io/metadata.name"
DEFAULT_ACCOUNT = "default"


@dataclass(frozen=True, slots=True)
class Plan:
    """Writes that bring the store to where the controllers want it."""

    placements: dict[ObjectKey, str]
    """Nodes for pods that have none."""
    services: list[Service]
    """Services with the addresses they lacked."""
    slices: list[EndpointSlice]
    """Endpoint slices that are new or differ."""
    obsolete: list[EndpointSlice]
    """Endpoint slices of ours that should not be there."""
    accounts: list[ServiceAccount]
    """Default accounts of namespaces that lack theirs."""
    labels: list[Namespace]
    """Namespaces that lack the label with their own name."""
    pods: list[Pod]
    """Pods that Deployments lack."""
    deleted: list[ObjectKey]
    """Pods that Deployments have too many, and objects whose owners are gone."""

    def __bool__(self) -> bool:
        return any(
            (
                *(self.placements, self.services, self.slices, self.obsolete),
                *(self.accounts, self.labels, self.pods, self.deleted),
            )
        )


def plan(objects: ObjectSet, nodes: Sequence[str]) -> Plan:
    """Everything there is to do, given the objects and the names of the nodes."""
    pods = list(objects.of_kind(Pod))
    services = list(objects.of_kind(Service))
    wanted = {entry.key: entry for entry in endpoint_slices(services, pods)}
    present = {entry.key: entry for entry in objects.of_kind(EndpointSlice)}
    namespaces = list(objects.of_kind(Namespace))
    made, gone = plan_pods(objects.of_kind(Deployment), pods)
    accounts = {(account.metadata.namespace, account.metadata.name) for account in objects.of_kind(ServiceAccount)}
    return Plan(
        placements=placements(pods, nodes),
        services=allocate(services),
        slices=[entry for key, entry in wanted.items() if key not in present or _differs(entry, present[key])],
        obsolete=[entry for key, entry in present.items() if is_ours(entry) and key not in wanted],
        accounts=[
            ServiceAccount(metadata=ObjectMeta(name=DEFAULT_ACCOUNT, namespace=namespace.metadata.name))
            for namespace in namespaces
            if (namespace.metadata.name, DEFAULT_ACCOUNT) not in accounts
        ],
        labels=[
            namespace
            for namespace in namespaces
            if namespace.metadata.labels.get(NAMESPACE_NAME_LABEL) != namespace.metadata.name
        ],
        pods=made,
        deleted=sorted({*gone, *orphans(objects)}),
    )


def _differs(wanted: EndpointSlice, present: EndpointSlice) -> bool:
    return (wanted.endpoints, wanted.ports, wanted.address_type, wanted.metadata.labels) != (
        present.endpoints,
        present.ports,
        present.address_type,
        present.metadata.labels,
    )
