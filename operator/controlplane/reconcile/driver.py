"""Brings the cluster to where it should be: looks at objects, writes what differs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec
import structlog
import trio

from controlplane.reconcile.difference import same_owner, says
from controlplane.reconcile.object_status import object_statuses
from controlplane.reconcile.status import gateway_statuses
from controlplane.reconcile.waypoints import WaypointSettings, unwanted, wanted
from controlplane.translate.status import ObjectStatus
from mesh.clock import utc_now
from mesh.errors import MeshError, ObjectMissing
from resources.folder_store import FolderStore
from resources.gateway import GatewayStatus
from resources.object_set import ObjectSet
from resources.objects import Gateway, KubernetesObject, ObjectKey

_log = structlog.get_logger("controlplane.reconcile")


class Writer(Protocol):
    """Where objects are written. Calls block: they are made from a thread."""

    def apply(self, value: KubernetesObject) -> None:
        """Create or update an object, keeping what others wrote.

        Raises:
            MeshError: it cannot be.
        """
        ...

    def delete(self, value: KubernetesObject) -> None:
        """Delete an object; one that is gone is no error. Raises as :meth:`apply`."""
        ...

    def write_gateway_status(self, gateway: Gateway, status: GatewayStatus) -> None:
        """Replace a Gateway's status. Raises as :meth:`apply`."""
        ...


class FolderWriter:
    """Writes to a folder of manifests."""

    def __init__(self, store: FolderStore) -> None:
        self._store = store

    def apply(self, value: KubernetesObject) -> None:
        """See :class:`Writer`."""
        self._store.apply(value)

    def delete(self, value: KubernetesObject) -> None:
        """See :class:`Writer`."""
        self._store.delete(type(value), value.metadata.namespace, value.metadata.name)

    def write_gateway_status(self, gateway: Gateway, status: GatewayStatus) -> None:
        """See :class:`Writer`."""

        def written(existing: Gateway) -> Gateway:
            return msgspec.structs.replace(existing, status=status)

        try:
            self._store.modify(Gateway, gateway.metadata.namespace, gateway.metadata.name, written)
        except ObjectMissing:
            pass  # deleted meanwhile


class StatusWriter:
    """Says in the objects of a folder what became of them: of routes, and of what asks for a waypoint."""

    def __init__(self, store: FolderStore, statuses: Callable[[], Mapping[ObjectKey, ObjectStatus]]) -> None:
        """Prepare.

        Args:
            store: the folder.
            statuses: what is to be said, by the translation of the objects that are reconciled.
        """
        self._store = store
        self._statuses = statuses

    def wanted(self, objects: ObjectSet, now: str) -> list[KubernetesObject]:
        """The objects whose status is to be written, with it."""
        return object_statuses(objects, self._statuses(), now)

    def write(self, value: KubernetesObject, seen: KubernetesObject) -> None:
        """Write one object's status, unless another one stands there than was seen: that will come as a change.

        Raises:
            MeshError: it cannot be written.
        """

        def written(existing: KubernetesObject) -> KubernetesObject:
            if getattr(existing, "status", None) != getattr(seen, "status", None):
                return existing
            return msgspec.structs.replace(existing, status=getattr(value, "status", None))

        try:
            self._store.modify(type(value), value.metadata.namespace, value.metadata.name, written)
        except ObjectMissing:
            pass  # deleted meanwhile


class Reconciler:
    """Makes waypoints of Gateways, and says what became of objects."""

    def __init__(self, writer: Writer, settings: WaypointSettings, statuses: StatusWriter | None = None) -> None:
        """Prepare.

        Args:
            writer: writes what is made.
            settings: how waypoints are run.
            statuses: writes what became of objects; None: somebody else does.
        """
        self._writer = writer
        self._settings = settings
        self._statuses = statuses

    async def reconcile(self, objects: ObjectSet) -> None:
        """Write what differs from what should be there. Failures are logged: the next change is the next attempt."""
        missing = []
        for value in wanted(objects, self._settings):
            existing = objects.get(value.key)
            if existing is not None and not same_owner(existing, value):
                _log.error("not_applied", object=str(value.key), error="it is there already, and of somebody else's")
            elif existing is None or not says(existing, value):
                missing.append(value)
        leftovers = list(unwanted(objects, self._settings))
        now = utc_now().strftime("%Y-%m-%dT%H:%M:%SZ")
        gateways = gateway_statuses(objects, self._settings, now)
        told = [] if self._statuses is None else self._statuses.wanted(objects, now)
        if missing or leftovers or gateways:
            await trio.to_thread.run_sync(self._write, missing, leftovers, gateways)
        if told and self._statuses is not None:
            await trio.to_thread.run_sync(self._tell, self._statuses, [(value, objects[value.key]) for value in told])

    def _write(
        self,
        missing: list[KubernetesObject],
        leftovers: list[KubernetesObject],
        statuses: list[tuple[Gateway, GatewayStatus]],
    ) -> None:
        for value in leftovers:
            try:
                self._writer.delete(value)
                _log.info("deleted", object=str(value.key), reason="its Gateway does not ask for it any more")
            except MeshError as error:
                _log.error("not_deleted", object=str(value.key), error=str(error))
        for value in missing:
            try:
                self._writer.apply(value)
                _log.info("applied", object=str(value.key))
            except MeshError as error:
                _log.error("not_applied", object=str(value.key), error=str(error))
        for gateway, status in statuses:
            try:
                self._writer.write_gateway_status(gateway, status)
            except MeshError as error:
                _log.error("status_not_written", object=str(gateway.key), error=str(error))

    def _tell(self, statuses: StatusWriter, told: list[tuple[KubernetesObject, KubernetesObject]]) -> None:
        for value, seen in told:
            try:
                statuses.write(value, seen)
            except MeshError as error:
                _log.error("status_not_written", object=str(value.key), error=str(error))
