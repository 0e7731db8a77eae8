"""Brings the cluster to where it should be: looks at objects, writes what differs."""

from __future__ import annotations

from typing import Protocol

import msgspec
import structlog
import trio

from controlplane.reconcile.difference import same_owner, says
from controlplane.reconcile.status import gateway_statuses
from controlplane.reconcile.waypoints import WaypointSettings, unwanted, wanted
from mesh.clock import utc_now
from mesh.errors import MeshError, ObjectMissing
from resources.folder_store import FolderStore
from resources.gateway import GatewayStatus
from resources.object_set import ObjectSet
from resources.objects import Gateway, KubernetesObject

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


class Reconciler:
    """Makes waypoints of Gateways."""

    def __init__(self, writer: Writer, settings: WaypointSettings) -> None:
        self._writer = writer
        self._settings = settings

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
        statuses = gateway_statuses(objects, self._settings, utc_now().strftime("%Y-%m-%dT%H:%M:%SZ"))
        if missing or leftovers or statuses:
            await trio.to_thread.run_sync(self._write, missing, leftovers, statuses)

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
