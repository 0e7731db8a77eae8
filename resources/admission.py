"""What the API server's validation would refuse, as far as the mesh's safety depends on it.

In a cluster an object with a malformed network or an empty ``from`` list never comes into being. A folder has no such
gate, and such a field read generously could open what its author meant to close: so it is a Problem, and the object's
last good version stays.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from resources.documents import Path
from resources.health_check import health_check_violations
from resources.objects import (
    CLUSTER_SCOPED,
    AuthorizationPolicy,
    BackendTLSPolicy,
    DestinationRule,
    EndpointSlice,
    Gateway,
    GRPCRoute,
    HTTPRoute,
    KubernetesObject,
    PeerAuthentication,
    Pod,
    ReferenceGrant,
    RequestAuthentication,
    Service,
    ServiceEntry,
    TCPRoute,
    Telemetry,
    TLSRoute,
    VirtualService,
    WorkloadEntry,
)
from resources.rate_limits import rate_limit_violations
from resources.route_admission import (
    backend_tls_violations,
    gateway_violations,
    reference_grant_violations,
    route_violations,
)
from resources.security import AuthorizationRule, Operation, Source, WorkloadSelector
from resources.traffic_admission import (
    destination_rule_violations,
    request_authentication_violations,
    service_entry_violations,
    virtual_service_violations,
    workload_entry_violations,
)
from resources.violation import Violation, check_address, check_network, check_port_text

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_SUBDOMAIN = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")

_NETWORK_FIELDS = ("ipBlocks", "notIpBlocks", "remoteIpBlocks", "notRemoteIpBlocks")
_NETWORK_KEYS = ("source.ip", "destination.ip", "remote.ip")


def violations(value: KubernetesObject) -> list[Violation]:
    """Everything the object is refused for; empty for a sound one."""
    found = list(_names(value))
    found += rate_limit_violations(value.metadata, _rule_names(value))
    found += health_check_violations(value.metadata)
    match value:
        case Pod():
            found += _pod(value)
        case Service():
            found += _service(value)
        case EndpointSlice():
            found += _endpoint_slice(value)
        case AuthorizationPolicy():
            found += _authorization_policy(value)
        case PeerAuthentication():
            found += _peer_authentication(value)
        case RequestAuthentication():
            found += _selector(value.spec.selector)
            found += request_authentication_violations(value.spec)
        case Gateway():
            found += gateway_violations(value.spec)
        case HTTPRoute() | GRPCRoute() | TCPRoute() | TLSRoute():
            found += route_violations(value.spec)
        case ReferenceGrant():
            found += reference_grant_violations(value.spec)
        case BackendTLSPolicy():
            found += backend_tls_violations(value.spec)
        case VirtualService():
            found += virtual_service_violations(value.spec)
        case DestinationRule():
            found += destination_rule_violations(value.spec)
        case ServiceEntry():
            found += service_entry_violations(value.spec)
        case WorkloadEntry():
            found += workload_entry_violations(value.spec, ("spec",), names=False)
        case Telemetry():
            if value.spec.selector is not None and value.spec.targets:
                found.append(Violation(("spec",), "selector and targetRefs exclude each other", "keep one of them"))
        case _:
            pass
    return found


def _rule_names(value: KubernetesObject) -> list[str] | None:
    """The names of the rules that a rate limit can be for."""
    match value:
        case HTTPRoute() | GRPCRoute():
            return [rule.name or "" for rule in value.spec.rules]
        case VirtualService():
            return [route.name for route in value.spec.http]
    return None


def _names(value: KubernetesObject) -> Iterator[Violation]:
    metadata = value.metadata
    kind = type(value).__name__
    lower = "use lower-case letters, digits, '-' and, in names, '.'"
    if not metadata.name:
        yield Violation(("metadata", "name"), "the object has no name", "generateName is not taken: give a name")
    elif not (_LABEL if kind in ("Namespace", "Service") else _SUBDOMAIN).fullmatch(metadata.name):
        yield Violation(("metadata", "name"), f"{metadata.name[:64]!r} is not a name Kubernetes allows", lower)
    if kind in CLUSTER_SCOPED:
        if metadata.namespace:
            yield Violation(("metadata", "namespace"), f"a {kind} is in no namespace", "remove the field")
    elif not _LABEL.fullmatch(metadata.namespace):
        yield Violation(("metadata", "namespace"), f"{metadata.namespace[:64]!r} is not a namespace's name", lower)


def _pod(pod: Pod) -> Iterator[Violation]:
    account = pod.spec.account
    if not _SUBDOMAIN.fullmatch(account):
        yield Violation(("spec", "serviceAccountName"), f"{account[:64]!r} is not a service account's name")
    if not pod.spec.containers:
        yield Violation(("spec", "containers"), "a pod has at least one container")
    for address in pod.status.addresses:
        yield from check_address(("status", "podIPs"), address)


def _service(service: Service) -> Iterator[Violation]:
    spec = service.spec
    for address in spec.virtual_addresses:
        yield from check_address(("spec", "clusterIPs"), address)
    for index, address in enumerate(spec.external_ips):
        yield from check_address(("spec", "externalIPs", index), address)
    if spec.type != "ExternalName" and not spec.ports and not spec.headless:
        yield Violation(("spec", "ports"), "a Service has at least one port unless it is headless")
    names = [port.name for port in spec.ports]
    if len(set(names)) != len(names):
        yield Violation(("spec", "ports"), "two ports have the same name", "name every port of a Service with several")


def _endpoint_slice(value: EndpointSlice) -> Iterator[Violation]:
    if value.address_type == "FQDN":
        return
    for index, endpoint in enumerate(value.endpoints):
        for position, address in enumerate(endpoint.addresses):
            yield from check_address(("endpoints", index, "addresses", position), address)


def _authorization_policy(policy: AuthorizationPolicy) -> Iterator[Violation]:
    spec = policy.spec
    if spec.selector is not None and (spec.target_ref is not None or spec.target_refs):
        yield Violation(("spec",), "selector and targetRefs exclude each other", "keep one of them")
    if spec.action == "CUSTOM" and (spec.provider is None or not spec.provider.name):
        yield Violation(("spec", "provider"), "the action CUSTOM needs a provider")
    yield from _selector(spec.selector)
    for index, rule in enumerate(spec.rules):
        yield from _rule(rule, ("spec", "rules", index))


def _rule(rule: AuthorizationRule, path: Path) -> Iterator[Violation]:
    empty = "is empty: a list that is given has at least one entry"
    for name, part in (("from", rule.from_), ("to", rule.to), ("when", rule.when)):
        if part is not None and not part:
            yield Violation((*path, name), empty, "leave the field out to match everything")
    for index, alternative in enumerate(rule.from_ or ()):
        where = (*path, "from", index, "source")
        yield from _field_lists(alternative.source, where, networks=_NETWORK_FIELDS)
    for index, operation in enumerate(rule.to or ()):
        where = (*path, "to", index, "operation")
        yield from _field_lists(operation.operation, where, ports=("ports", "notPorts"))
    for index, condition in enumerate(rule.when or ()):
        where = (*path, "when", index)
        if not condition.values and not condition.not_values:
            yield Violation(where, "a condition needs values or notValues")
        for name, values in (("values", condition.values), ("notValues", condition.not_values)):
            for position, text in enumerate(values or ()):
                if condition.key in _NETWORK_KEYS:
                    yield from check_network((*where, name, position), text)
                elif condition.key == "destination.port":
                    yield from check_port_text((*where, name, position), text)


def _field_lists(
    part: Source | Operation | None, path: Path, *, networks: tuple[str, ...] = (), ports: tuple[str, ...] = ()
) -> Iterator[Violation]:
    """Check a Source or an Operation: given, with at least one field, no list empty, no text empty."""
    given: dict[str, tuple[str, ...]] = {}
    for field in msgspec.structs.fields(part) if part is not None else ():
        if (values := getattr(part, field.name)) is not None:
            given[field.encode_name] = values
    if not given:
        yield Violation(path, "must hold at least one field", "leave the whole part out to match everything")
    for name, values in given.items():
        if not values:
            yield Violation((*path, name), "is empty: a list that is given has at least one entry")
        for position, text in enumerate(values):
            where = (*path, name, position)
            if not text:
                yield Violation(where, "an empty text matches nothing")
            elif name in networks:
                yield from check_network(where, text)
            elif name in ports:
                yield from check_port_text(where, text)


def _peer_authentication(policy: PeerAuthentication) -> Iterator[Violation]:
    spec = policy.spec
    yield from _selector(spec.selector)
    if spec.port_level_mtls and (spec.selector is None or not spec.selector.match_labels):
        yield Violation(("spec", "portLevelMtls"), "needs a selector", "ports are those of selected workloads")
    for port in spec.port_level_mtls:
        yield from check_port_text(("spec", "portLevelMtls", port), port)


def _selector(selector: WorkloadSelector | None) -> Iterator[Violation]:
    for key, value in (selector.match_labels if selector else {}).items():
        if not key or "*" in key or "*" in value:
            yield Violation(("spec", "selector", "matchLabels"), f"{key[:64]!r}: labels are matched exactly, without *")
