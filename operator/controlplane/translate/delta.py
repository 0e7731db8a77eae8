"""What an update of the translation changed."""

from __future__ import annotations

from dataclasses import dataclass

from mesh.addresses import format_ip
from mesh.model.policy import Policy
from mesh.model.service import Service
from mesh.model.workload import NetworkMode, Workload

Address = Workload | Service
Translated = Address | Policy


@dataclass(frozen=True, slots=True)
class Delta:
    """What an update changed."""

    addresses_updated: tuple[Address, ...] = ()
    addresses_removed: tuple[str, ...] = ()
    """Resource names."""
    policies_updated: tuple[Policy, ...] = ()
    policies_removed: tuple[str, ...] = ()
    """Resource names."""

    def __bool__(self) -> bool:
        return bool(self.addresses_updated or self.addresses_removed or self.policies_updated or self.policies_removed)


def resource_name(value: Translated) -> str:
    """The xDS resource name: a workload's uid, ``namespace/hostname``, ``namespace/name``."""
    return value.uid if isinstance(value, Workload) else value.key


def aliases(value: Address) -> tuple[str, ...]:
    """The other names an address can be asked for by, ``network/ip``; a host-network pod has none of its own."""
    if isinstance(value, Workload):
        if value.network_mode is NetworkMode.HOST_NETWORK:
            return ()
        return tuple(f"{value.network}/{format_ip(ip)}" for ip in value.addresses)
    return tuple(f"{address.network}/{format_ip(address.ip)}" for address in value.addresses)


class DeltaBuilder:
    """Gathers differences; a resource that left one object and came with another is updated, not removed."""

    def __init__(self) -> None:
        self._addresses: dict[str, Address | None] = {}
        self._policies: dict[str, Policy | None] = {}

    def update(self, name: str, value: Translated) -> None:
        """A resource is new or differs."""
        if isinstance(value, Policy):
            self._policies[name] = value
        else:
            self._addresses[name] = value

    def remove(self, name: str, old: Translated) -> None:
        """A resource is no more."""
        if isinstance(old, Policy):
            self._policies.setdefault(name, None)
        else:
            self._addresses.setdefault(name, None)

    def build(self) -> Delta:
        """All of it."""
        return Delta(
            addresses_updated=tuple(value for value in self._addresses.values() if value is not None),
            addresses_removed=tuple(name for name, value in self._addresses.items() if value is None),
            policies_updated=tuple(value for value in self._policies.values() if value is not None),
            policies_removed=tuple(name for name, value in self._policies.items() if value is None),
        )
