"""Writes pod statuses to the object store, the newest of each pod only, without keeping the pods waiting."""

from __future__ import annotations

import msgspec
import structlog
import trio

from mesh.errors import MeshError, ObjectMissing
from resources.folder_store import FolderStore
from resources.objects import ObjectKey, Pod
from resources.pod import PodStatus

_logger = structlog.get_logger()
_RETRY_SECONDS = 1.0


class StatusWriter:
    """A queue of at most one status per pod."""

    def __init__(self, store: FolderStore) -> None:
        self._store = store
        self._pending: dict[ObjectKey, tuple[Pod, PodStatus]] = {}
        self._wake = trio.Event()

    def submit(self, pod: Pod, status: PodStatus) -> None:
        """Have this status written soon, in place of an older one that is not written yet."""
        self._pending[pod.key] = (pod, status)
        self._wake.set()

    async def run(self) -> None:
        """Write for ever."""
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            while self._pending:
                key = next(iter(self._pending))
                pod, status = self._pending.pop(key)
                try:
                    await trio.to_thread.run_sync(self._write, pod, status)
                except ObjectMissing:
                    continue  # deleted meanwhile: its runner is being cancelled
                except (MeshError, OSError) as error:
                    _logger.warning("status_not_written", pod=str(key), error=str(error))
                    self._pending.setdefault(key, (pod, status))
                    await trio.sleep(_RETRY_SECONDS)

    def _write(self, pod: Pod, status: PodStatus) -> None:
        def change(existing: Pod) -> Pod:
            # Another pod of the same name may have taken the place of the one that this status is about.
            if existing.metadata.uid != pod.metadata.uid:
                return existing
            return msgspec.structs.replace(existing, status=status)

        self._store.modify(Pod, pod.metadata.namespace, pod.metadata.name, change)
