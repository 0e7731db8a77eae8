"""Model values as entries of a snapshot: names, aliases and what brings what along.

Names and aliases are those stock ztunnels ask for: a workload by its uid or ``network/ip``, a service by
``namespace/hostname`` or ``network/ip``, a policy by ``namespace/name``.
"""

from __future__ import annotations

from mesh.addresses import IpBytes, format_ip
from mesh.model.policy import Policy
from mesh.model.service import Service
from mesh.model.workload import NetworkMode, Workload
from mesh.xds.codec import ADDRESS_TYPE, AUTHORIZATION_TYPE, encode_address, encode_authorization
from mesh.xds.snapshot import Entry, entry


def address_alias(network: str, ip: IpBytes) -> str:
    """The name under which an address is asked for: ``network/ip``."""
    return f"{network}/{format_ip(ip)}"


def workload_entry(workload: Workload) -> Entry:
    """A workload; found under its services, as their subscribers need their endpoints."""
    # A pod on the host's network shares the node's address, which therefore names nobody.
    named = workload.network_mode is NetworkMode.STANDARD
    aliases = [address_alias(workload.network, ip) for ip in workload.addresses] if named else []
    return entry(ADDRESS_TYPE, workload.uid, encode_address(workload), aliases, sorted(workload.services))


def service_entry(service: Service) -> Entry:
    """A service; networks (CIDRs) are no aliases."""
    aliases = [address_alias(each.network, each.ip) for each in service.addresses if each.length is None]
    return entry(ADDRESS_TYPE, service.key, encode_address(service), aliases)


def policy_entry(policy: Policy) -> Entry:
    """An authorization policy."""
    return entry(AUTHORIZATION_TYPE, policy.key, encode_authorization(policy))
