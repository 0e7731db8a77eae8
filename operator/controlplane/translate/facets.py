"""What an object can be asked for by, beside its own name.

A facet is a tuple of texts: first what it is about, then the particulars. Facets follow from an object's content alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from controlplane.translate.settings import MeshSettings
from resources.objects import (
    SERVICE_NAME_LABEL,
    AuthorizationPolicy,
    BackendTLSPolicy,
    DestinationRule,
    EndpointSlice,
    GRPCRoute,
    HTTPRoute,
    KubernetesObject,
    ObjectKey,
    ReferenceGrant,
    RequestAuthentication,
    ServiceEntry,
    TCPRoute,
    Telemetry,
    TLSRoute,
    VirtualService,
)
from resources.security import TargetReference

Facet = tuple[str, ...]
WILDCARD = "*"
"""Stands for every host that begins with ``*``."""


def object_facet(key: ObjectKey) -> Facet:
    """The object itself."""
    return ("object", *key)


def parent_facet(kind: str, namespace: str, name: str) -> Facet:
    """Routes that are attached to this object."""
    return ("parent", kind, namespace, name)


def target_facet(kind: str, namespace: str, name: str) -> Facet:
    """Policies that are attached to this object."""
    return ("target", kind, namespace, name)


def host_facet(host: str) -> Facet:
    """VirtualServices, DestinationRules and ServiceEntries of a host; ``WILDCARD`` for those of many."""
    return ("host", host)


def namespace_facet(namespace: str) -> Facet:
    """Objects in a namespace, as far as they are asked for so."""
    return ("namespace", namespace)


def slices_facet(namespace: str, service: str) -> Facet:
    """EndpointSlices of a Service."""
    return ("slices", namespace, service)


def facets_of(value: KubernetesObject, settings: MeshSettings) -> Iterator[Facet]:
    """All facets of an object but its name; they are kept apart by the object's kind."""
    key = value.key
    match value:
        case HTTPRoute() | GRPCRoute() | TCPRoute() | TLSRoute():
            for parent in value.spec.parent_refs:
                yield parent_facet(parent.kind, parent.namespace or key.namespace, parent.name)
        case AuthorizationPolicy() | RequestAuthentication():
            yield from _targets(value.spec.targets, key)
        case Telemetry():
            yield from _targets(value.spec.targets, key)
            yield namespace_facet(key.namespace)
        case BackendTLSPolicy():
            for target in value.spec.target_refs:
                yield target_facet(target.kind, key.namespace, target.name)
        case VirtualService():
            yield from _hosts(value.spec.hosts, key.namespace, settings)
        case DestinationRule():
            yield from _hosts((value.spec.host,), key.namespace, settings)
        case ServiceEntry():
            yield from _hosts(value.spec.hosts, key.namespace, settings)
            yield namespace_facet(key.namespace)
        case ReferenceGrant():
            yield namespace_facet(key.namespace)
        case EndpointSlice():
            yield slices_facet(key.namespace, value.metadata.labels.get(SERVICE_NAME_LABEL, ""))
        case _:
            pass


def full_host(host: str, namespace: str, settings: MeshSettings) -> str:
    """A host as Istio reads it: a name without a dot is a Service of the own namespace."""
    lower = host.lower()
    if "." in lower or lower == "*":
        return lower
    return f"{lower}.{namespace}.svc.{settings.cluster_domain}"


def _targets(targets: Iterable[TargetReference], key: ObjectKey) -> Iterator[Facet]:
    for target in targets:
        # A GatewayClass is in no namespace; the policy's own stands there, which must be the root namespace.
        yield target_facet(target.kind, key.namespace, target.name)


def _hosts(hosts: Iterable[str], namespace: str, settings: MeshSettings) -> Iterator[Facet]:
    for host in hosts:
        full = full_host(host, namespace, settings)
        yield host_facet(WILDCARD if full.startswith("*") else full)
