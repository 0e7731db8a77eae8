"""The translation's results as versioned snapshots for the xDS server.

Order matters to readers. A workload refers to policies by name, and a policy that is referred to but missing denies, so
a name must be known before it is used and stay known until it is no longer used. Policies therefore go out before
addresses (the server sends types in that order), and a policy that workloads referred to is withdrawn only a moment
after the addresses that no longer name it.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable
from dataclasses import replace

import trio

from controlplane.translate.delta import Address, Delta, aliases, resource_name
from mesh.model.policy import Policy, PolicyScope
from mesh.model.waypoint import Destination, WorkloadLabels
from mesh.model.workload import Workload
from mesh.xds.codec import (
    ADDRESS_TYPE,
    AUTHORIZATION_TYPE,
    DESTINATION_TYPE,
    LABELS_TYPE,
    encode_address,
    encode_authorization,
)
from mesh.xds.server_driver import SnapshotStore
from mesh.xds.snapshot import Entry, entry
from mesh.xds.waypoint_codec import encode_destination, encode_labels
from resources.sharing import shared

WITHDRAWAL_SECONDS = 1.0
"""How long a policy outlives the last address that named it."""


class Publisher:
    """Writes the store that the xDS server reads."""

    def __init__(
        self,
        store: SnapshotStore,
        session_secret: bytes,
        withdrawal_seconds: float = WITHDRAWAL_SECONDS,
        labels: Callable[[], Iterable[WorkloadLabels]] | None = None,
    ) -> None:
        """Begin with nothing published.

        Args:
            store: what the xDS server reads.
            session_secret: the same for all replicas of the operator; waypoints' session keys are derived from it.
            withdrawal_seconds: how long a policy outlives the last address that named it.
            labels: all labels there are, after the update that is being published. Given, labels are published only
                from when a waypoint has a destination: nobody else asks for them, and they are a resource for each pod.
        """
        self._store = store
        self._session_secret = session_secret
        self._withdrawal_seconds = withdrawal_seconds
        self._withdrawn: dict[str, float] = {}
        """Policies that are to go, and when, on trio's clock."""
        self._withdrawals_changed = trio.Event()
        self._scopes: dict[str, PolicyScope] = {}
        self._labels: Callable[[], Iterable[WorkloadLabels]] | None = labels
        """None once labels are published as they come."""

    def publish(self, delta: Delta) -> None:
        """Offer what an update of the translation changed."""
        at_once: list[str] = []
        for name in delta.policies_removed:
            if self._scopes.pop(name, None) is PolicyScope.WORKLOAD_SELECTOR:
                self._withdrawn[name] = trio.current_time() + self._withdrawal_seconds
                self._withdrawals_changed.set()
            else:
                at_once.append(name)
        for policy in delta.policies_updated:
            self._scopes[policy.key] = policy.scope
            self._withdrawn.pop(policy.key, None)
        # No wait between the two: whoever is woken by the first sees the second as well.
        self._store.update(AUTHORIZATION_TYPE, [policy_entry(policy) for policy in delta.policies_updated], at_once)
        self._store.update(
            ADDRESS_TYPE, [address_entry(value) for value in delta.addresses_updated], delta.addresses_removed
        )
        self._publish_labels(delta)
        self._store.update(
            DESTINATION_TYPE,
            [destination_entry(self._with_key(value)) for value in delta.destinations_updated],
            delta.destinations_removed,
        )

    def _publish_labels(self, delta: Delta) -> None:
        updated: Iterable[WorkloadLabels] = delta.labels_updated
        if self._labels is not None:
            if not delta.destinations_updated:
                return
            updated, self._labels = self._labels(), None
        self._store.update(LABELS_TYPE, [labels_entry(value) for value in updated], delta.labels_removed)

    def _with_key(self, value: Destination) -> Destination:
        """With the secret that its waypoint's replicas share; of another waypoint, another one."""
        key = hmac.digest(self._session_secret, value.waypoint.encode(), "sha256")
        return replace(value, session_key=key[:16].hex())

    async def run_withdrawals(self) -> None:
        """Withdraw policies when their time has come; runs until cancelled."""
        while True:
            await self._withdrawals_changed.wait()
            self._withdrawals_changed = trio.Event()
            while self._withdrawn:
                await trio.sleep_until(min(self._withdrawn.values()))
                now = trio.current_time()
                due = [name for name, when in self._withdrawn.items() if when <= now]
                for name in due:
                    del self._withdrawn[name]
                self._store.update(AUTHORIZATION_TYPE, (), due)


def address_entry(value: Address) -> Entry:
    """A workload or service as a resource; a workload is also found by those who ask for its services."""
    groups = shared(tuple(value.services)) if isinstance(value, Workload) else ()
    return entry(ADDRESS_TYPE, resource_name(value), encode_address(value), aliases(value), groups)


def labels_entry(value: WorkloadLabels) -> Entry:
    """A workload's labels as a resource."""
    return entry(LABELS_TYPE, value.uid, encode_labels(value))


def destination_entry(value: Destination) -> Entry:
    """A destination as a resource; its waypoint finds it under its own name."""
    return entry(DESTINATION_TYPE, value.name, encode_destination(value), (), (value.waypoint,))


def policy_entry(policy: Policy) -> Entry:
    """A policy as a resource."""
    return entry(AUTHORIZATION_TYPE, policy.key, encode_authorization(policy))
