"""Which cluster addresses a Service has. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

import msgspec

from ambimesh.lab.layout import SERVICE_RANGE_IPV4, SERVICE_RANGE_IPV6
from mesh.errors import ConfigurationError
from resources.objects import Service

_FIRST_HOST = 10
"""Lower addresses are left to Services that ask for one by number, as in a cluster (KEP-3070)."""
_RANGES = {"IPv4": ipaddress.ip_network(SERVICE_RANGE_IPV4), "IPv6": ipaddress.ip_network(SERVICE_RANGE_IPV6)}
_DUAL = ("PreferDualStack", "RequireDualStack")


def families(service: Service) -> tuple[str, ...]:
    """``IPv4``, ``IPv6`` or both: what the Service asks for, else what its given addresses are, else IPv4."""
    spec = service.spec
    given = tuple(f"IPv{ipaddress.ip_address(address).version}" for address in spec.virtual_addresses)
    asked = spec.ip_families or given or ("IPv4",)
    if spec.ip_family_policy in _DUAL:
        return asked + tuple(family for family in ("IPv4", "IPv6") if family not in asked)
    return asked


def allocate(services: Iterable[Service]) -> list[Service]:
    """Those Services that lack an address, with one for each of their families; given addresses are kept.

    Raises:
        ConfigurationError: no address is left.
    """
    services = list(services)
    taken = {address for service in services for address in service.spec.virtual_addresses}
    changed: list[Service] = []
    for service in sorted(services, key=lambda one: one.key):
        spec = service.spec
        if spec.headless or spec.type == "ExternalName":
            continue
        wanted = families(service)
        present = {f"IPv{ipaddress.ip_address(address).version}" for address in spec.virtual_addresses}
        missing = [family for family in wanted if family not in present]
        if not missing:
            continue
        addresses = list(spec.virtual_addresses)
        for family in missing:
            address = _lowest_free(family, taken)
            taken.add(address)
            addresses.append(address)
        filled = msgspec.structs.replace(
            spec, cluster_ip=addresses[0], cluster_ips=tuple(addresses), ip_families=wanted
        )
        changed.append(msgspec.structs.replace(service, spec=filled))
    return changed


def _lowest_free(family: str, taken: set[str]) -> str:
    network = _RANGES[family]
    for offset in range(_FIRST_HOST, network.num_addresses - 1):
        address = str(network[offset])
        if address not in taken:
            return address
    raise ConfigurationError(f"all Service addresses of {network} are taken")
