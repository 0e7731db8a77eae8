"""Workloads by uid, by address, and by the names the container runtime knows them under."""

from __future__ import annotations

from collections.abc import Mapping

from mesh.addresses import IpBytes
from mesh.model.workload import NetworkMode, Workload
from mesh.state.claim_table import ClaimTable

Address = tuple[str, IpBytes]
"""Network and address."""
LocalName = tuple[str, str, str]
"""Namespace, pod name, service account."""


class WorkloadIndex:
    """All workloads of the mesh, and which of them run on this node."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._by_uid: dict[str, Workload] = {}
        self._by_address: ClaimTable[Address, Workload] = ClaimTable(owner_of=_uid, preference=_no_preference)
        self._local: ClaimTable[LocalName, Workload] = ClaimTable(owner_of=_uid, preference=_no_preference)
        # Bound once: these are asked for every connection.
        self.get = self._by_uid.get
        self.local = self._local.current.get

    @property
    def by_uid(self) -> Mapping[str, Workload]:
        """All of them, to read."""
        return self._by_uid

    @property
    def by_address(self) -> Mapping[Address, Workload]:
        """Who has an address; host-network pods are not here, they share their node's."""
        return self._by_address.current

    def put(self, workload: Workload) -> Workload | None:
        """Add or replace; the former version, if any."""
        former = self._by_uid.get(workload.uid)
        if former is not None:
            kept = set(_addresses(workload))
            for address in _addresses(former):
                if address not in kept:
                    self._by_address.release(address, former.uid)
            if self._is_local(former):
                self._local.release(_local_name(former), former.uid)
        self._by_uid[workload.uid] = workload
        for address in _addresses(workload):
            self._by_address.claim(address, workload)
        if self._is_local(workload):
            self._local.claim(_local_name(workload), workload)
        return former

    def remove(self, uid: str) -> Workload | None:
        """Take one out; what it was."""
        former = self._by_uid.pop(uid, None)
        if former is None:
            return None
        for address in _addresses(former):
            self._by_address.release(address, uid)
        if self._is_local(former):
            self._local.release(_local_name(former), uid)
        return former

    def local_by_pod(self, namespace: str, name: str) -> list[Workload]:
        """Workloads of this node with these names and whatever service account: for error messages."""
        return [
            workload
            for (of_namespace, of_name, _), workload in self._local.current.items()
            if (of_namespace, of_name) == (namespace, name)
        ]

    def _is_local(self, workload: Workload) -> bool:
        return workload.node == self._node


def _uid(workload: Workload) -> str:
    return workload.uid


def _no_preference(workload: Workload) -> int:
    return 0


def _addresses(workload: Workload) -> list[Address]:
    if workload.network_mode is NetworkMode.HOST_NETWORK:
        return []
    return [(workload.network, ip) for ip in workload.addresses]


def _local_name(workload: Workload) -> LocalName:
    return workload.namespace, workload.name, workload.service_account
