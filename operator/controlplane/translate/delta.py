"""What an update of the translation changed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from controlplane.translate.finding import Finding
from mesh.addresses import write_ip
from mesh.model.policy import Policy
from mesh.model.service import Service
from mesh.model.waypoint import Destination, WorkloadLabels
from mesh.model.workload import NetworkMode, Workload
from resources.objects import ObjectKey

Address = Workload | Service
Translated = Address | Policy | Destination | WorkloadLabels
ResultKey = tuple[str, str]
"""What tells resources apart: the group they are published in, and their name there."""

ADDRESSES = "addresses"
POLICIES = "policies"
DESTINATIONS = "destinations"
LABELS = "labels"


@dataclass(frozen=True, slots=True)
class Delta:
    """What an update changed."""

    addresses_updated: tuple[Address, ...] = ()
    addresses_removed: tuple[str, ...] = ()
    """Resource names."""
    policies_updated: tuple[Policy, ...] = ()
    policies_removed: tuple[str, ...] = ()
    """Resource names."""
    destinations_updated: tuple[Destination, ...] = ()
    destinations_removed: tuple[str, ...] = ()
    """Resource names, ``waypoint|key``."""
    labels_updated: tuple[WorkloadLabels, ...] = ()
    labels_removed: tuple[str, ...] = ()
    """Workloads' uids."""
    objects: tuple[ObjectKey, ...] = ()
    """Objects that came, changed or went."""
    told: frozenset[ObjectKey] = frozenset()
    """Objects of which something else is said now, in findings or status."""
    findings: tuple[Finding, ...] = ()
    """New ones. An update that changes nothing but what is said is no change of the model."""

    def __bool__(self) -> bool:
        return bool(
            self.addresses_updated
            or self.addresses_removed
            or self.policies_updated
            or self.policies_removed
            or self.destinations_updated
            or self.destinations_removed
            or self.labels_updated
            or self.labels_removed
        )


def resource_name(value: Translated) -> str:
    """The xDS resource name: a workload's uid, ``namespace/hostname``, ``namespace/name``, ``waypoint|key``."""
    match value:
        case Workload() | WorkloadLabels():
            return value.uid
        case Destination():
            return value.name
    return value.key


def result_key(value: Translated) -> ResultKey:
    """Group and name of a resource."""
    match value:
        case Policy():
            group = POLICIES
        case Destination():
            group = DESTINATIONS
        case WorkloadLabels():
            group = LABELS
        case _:
            group = ADDRESSES
    return group, resource_name(value)


def aliases(value: Address) -> tuple[str, ...]:
    """The other names an address can be asked for by, ``network/ip``; a host-network pod has none of its own."""
    if isinstance(value, Workload):
        if value.network_mode is NetworkMode.HOST_NETWORK:
            return ()
        return tuple(f"{value.network}/{write_ip(ip)}" for ip in value.addresses)
    return tuple(f"{address.network}/{write_ip(address.ip)}" for address in value.addresses)


class DeltaBuilder:
    """Gathers differences. A resource that left one object and came with another is updated, not removed; if it is the
    same as it was, nothing is told of it."""

    def __init__(self) -> None:
        self._values: dict[ResultKey, Translated | None] = {}
        self._left: dict[ResultKey, Translated] = {}
        """What removed resources were."""
        self._told: set[ObjectKey] = set()
        self._findings: list[Finding] = []

    def compare(self, before: Mapping[ResultKey, Translated], now: Mapping[ResultKey, Translated]) -> None:
        """One node's results, before and after it was translated again."""
        for key, value in now.items():
            if before.get(key) != value:
                self.update(key, value)
        for key, old in before.items():
            if key not in now:
                self._left[key] = old
                self.remove(key)

    def say(self, key: ObjectKey, before: Collection[Finding], now: Collection[Finding], restated: bool) -> None:
        """What is said of an object by one node, before and after; ``restated``: its status differs."""
        new = [finding for finding in now if finding not in before]
        if restated or new or any(finding not in now for finding in before):
            self._told.add(key)
            self._findings += new

    def update(self, key: ResultKey, value: Translated) -> None:
        """A resource is new or differs."""
        self._values[key] = value

    def remove(self, key: ResultKey) -> None:
        """A resource is no more."""
        self._values.setdefault(key, None)

    def build(self, objects: Iterable[ObjectKey] = ()) -> Delta:
        """All of it; ``objects`` came, changed or went."""
        present = [
            value for key, value in self._values.items() if value is not None and self._left.get(key) != value
        ]
        return Delta(
            addresses_updated=tuple(value for value in present if isinstance(value, Workload | Service)),
            addresses_removed=self._removed(ADDRESSES),
            policies_updated=tuple(value for value in present if isinstance(value, Policy)),
            policies_removed=self._removed(POLICIES),
            destinations_updated=tuple(value for value in present if isinstance(value, Destination)),
            destinations_removed=self._removed(DESTINATIONS),
            labels_updated=tuple(value for value in present if isinstance(value, WorkloadLabels)),
            labels_removed=self._removed(LABELS),
            objects=tuple(objects),
            told=frozenset(self._told),
            findings=tuple(self._findings),
        )

    def _removed(self, group: str) -> tuple[str, ...]:
        return tuple(name for (kind, name), value in self._values.items() if kind == group and value is None)
