"""Service addresses on a node: the nftables ruleset that stands in for kube-proxy. Pure: objects to text.

Theory of operation. Packets to a Service's address are translated in the node's own namespace, as they leave a pod's
veth (prerouting) or the node itself (output), to one of the ready endpoints chosen at random. Nothing is set in pods.
A pod that is its own endpoint would see its own address as the peer and answer past the translation, so that one case
is masqueraded. A Service without an endpoint refuses connections, as kube-proxy makes it.

The whole table is replaced in one transaction, so no packet meets half of it; connections already translated are kept
by connection tracking.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from resources.objects import SERVICE_NAME_LABEL, EndpointSlice, Service

TABLE = "ambimesh-services"


@dataclass(frozen=True, slots=True, order=True)
class Backend:
    """Where one port of one endpoint listens."""

    ip: str
    port: int


@dataclass(frozen=True, slots=True)
class ServiceRule:
    """One port of one Service address and the ready endpoints behind it."""

    address: str
    protocol: str
    """``tcp``, ``udp`` or ``sctp``."""
    port: int
    backends: tuple[Backend, ...]

    @property
    def version(self) -> int:
        """4 or 6."""
        return ipaddress.ip_address(self.address).version


def service_rules(services: Iterable[Service], slices: Iterable[EndpointSlice]) -> list[ServiceRule]:
    """What the node has to translate, in a stable order."""
    by_service: dict[tuple[str, str], list[EndpointSlice]] = {}
    for entry in slices:
        owner = entry.metadata.labels.get(SERVICE_NAME_LABEL, "")
        by_service.setdefault((entry.metadata.namespace, owner), []).append(entry)
    rules: list[ServiceRule] = []
    for service in services:
        owned = by_service.get((service.metadata.namespace, service.metadata.name), [])
        for address in service.spec.virtual_addresses:
            version = ipaddress.ip_address(address).version
            fitting = [entry for entry in owned if entry.address_type == f"IPv{version}"]
            for port in service.spec.ports:
                backends = {
                    Backend(ip, target.port)
                    for entry in fitting
                    for target in entry.ports
                    if target.name == port.name and target.protocol == port.protocol and target.port is not None
                    for endpoint in entry.endpoints
                    if endpoint.conditions.ready is not False
                    for ip in endpoint.addresses
                }
                rules.append(ServiceRule(address, port.protocol.lower(), port.port, tuple(sorted(backends))))
    return sorted(rules, key=lambda rule: (rule.version, rule.address, rule.protocol, rule.port))


def ruleset(rules: Iterable[ServiceRule]) -> str:
    """The text for ``nft -f`` that makes these rules, and only these, hold."""
    rules = list(rules)
    translated = "".join(_translation(rule) for rule in rules if rule.backends)
    own: dict[int, list[str]] = {4: [], 6: []}
    refused: dict[int, list[str]] = {4: [], 6: []}
    for rule in rules:
        own[rule.version] += [f"{backend.ip} . {backend.ip}" for backend in rule.backends]
        if not rule.backends:
            refused[rule.version].append(f"{rule.address} . {rule.protocol} . {rule.port}")
    masqueraded = "".join(
        f"    ct status dnat {_family(version)} saddr . {_family(version)} daddr {{ {', '.join(sorted(set(pairs)))} }} "
        "masquerade\n"
        for version, pairs in own.items()
        if pairs
    )
    rejected = "".join(
        f"    {_family(version)} daddr . meta l4proto . th dport {{ {', '.join(entries)} }} "
        "reject with icmpx type port-unreachable\n"
        for version, entries in refused.items()
        if entries
    )
    return (
        # Adding it first makes the deletion succeed on a node that has none yet.
        f"table inet {TABLE}\n"
        f"delete table inet {TABLE}\n"
        f"table inet {TABLE} {{\n"
        f"  chain services {{\n{translated}  }}\n"
        f"  chain refused {{\n{rejected}  }}\n"
        "  chain prerouting {\n    type nat hook prerouting priority dstnat; policy accept;\n    jump services\n  }\n"
        "  chain output {\n    type nat hook output priority -100; policy accept;\n    jump services\n  }\n"
        "  chain postrouting {\n    type nat hook postrouting priority srcnat; policy accept;\n"
        f"{masqueraded}  }}\n"
        "  chain forward-refused {\n    type filter hook forward priority filter; policy accept;\n"
        "    ct state new jump refused\n  }\n"
        "  chain output-refused {\n    type filter hook output priority filter; policy accept;\n"
        "    ct state new jump refused\n  }\n"
        "}\n"
    )


def _translation(rule: ServiceRule) -> str:
    family = _family(rule.version)
    targets = ", ".join(f"{index} : {backend.ip} . {backend.port}" for index, backend in enumerate(rule.backends))
    return (
        f"    {family} daddr {rule.address} {rule.protocol} dport {rule.port} "
        f"dnat {family} to numgen random mod {len(rule.backends)} map {{ {targets} }}\n"
    )


def _family(version: int) -> str:
    return "ip" if version == 4 else "ip6"
