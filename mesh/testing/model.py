"""Makers of model values for tests: everything has a default, addresses are text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mesh.addresses import parse_ip
from mesh.model.policy import Clause, Match, Policy, PolicyAction, PolicyScope, Rule
from mesh.model.service import Service
from mesh.model.workload import NetworkAddress, ServicePort, TunnelProtocol, Workload


def make_workload(
    name: str,
    *addresses: str,
    namespace: str = "default",
    services: Mapping[str, Mapping[int, int]] | None = None,
    **fields: Any,
) -> Workload:
    """A workload that speaks HBONE unless ``fields`` say otherwise.

    Args:
        name: the pod's; the uid follows from it.
        addresses: IP addresses as text.
        namespace: the pod's.
        services: service key to service port to target port.
        fields: any others of ``Workload``.
    """
    fields.setdefault("tunnel_protocol", TunnelProtocol.HBONE)
    ports = {
        key: tuple(ServicePort(service_port, target_port) for service_port, target_port in entries.items())
        for key, entries in (services or {}).items()
    }
    return Workload(
        uid=f"Kubernetes//Pod/{namespace}/{name}",
        name=name,
        namespace=namespace,
        addresses=tuple(map(parse_ip, addresses)),
        services=ports,
        **fields,
    )


def make_service(
    name: str, *addresses: str, ports: Mapping[int, int] | None = None, namespace: str = "default", **fields: Any
) -> Service:
    """A service on the default network.

    Args:
        name: the service's; its host name follows from it.
        addresses: virtual IP addresses as text.
        ports: service port to target port; default 80 to 8080.
        namespace: the service's.
        fields: any others of ``Service``; its ``addresses`` instead of the positional ones for networks.
    """
    fields.setdefault("addresses", tuple(NetworkAddress("", parse_ip(address)) for address in addresses))
    entries = {80: 8080} if ports is None else ports
    return Service(
        name=name,
        namespace=namespace,
        hostname=f"{name}.{namespace}.svc.cluster.local",
        ports=tuple(ServicePort(service_port, target_port) for service_port, target_port in entries.items()),
        **fields,
    )


def make_policy(
    name: str,
    *matches: Match,
    namespace: str = "default",
    scope: PolicyScope = PolicyScope.NAMESPACE,
    action: PolicyAction = PolicyAction.ALLOW,
    dry_run: bool = False,
    rules: Sequence[Rule] | None = None,
) -> Policy:
    """A policy of one rule with one clause of these matches, unless ``rules`` are given."""
    made = (Rule((Clause(matches),)),) if rules is None else tuple(rules)
    return Policy(name=name, namespace=namespace, scope=scope, action=action, rules=made, dry_run=dry_run)
