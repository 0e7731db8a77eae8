"""Pods of a manifest folder: ``PodSource`` for where there is no API server."""

from __future__ import annotations

from pathlib import Path
from typing import Never

import structlog
import trio

from cni.agent.object_pods import ObjectPods
from cni.pod import PodFacts
from mesh.errors import ObjectMissing
from resources.folder_source import FolderSource
from resources.folder_store import FolderStore
from resources.objects import Pod

_log = structlog.get_logger("pods")


class FolderPods(ObjectPods):
    """Pods that a folder's manifests give to one node."""

    def __init__(self, folder: Path, node: str) -> None:
        super().__init__(node)
        self._folder = folder

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> Never:
        """Keep the view current for ever; started when the first one is there.

        Raises:
            ConfigurationError: there is no such folder.
            EnvironmentLacks: it cannot be watched.
        """
        async with FolderSource(self._folder).open() as source:
            while True:
                objects = await source.wait_change()
                self._take(objects, complete=not source.problems)
                task_status.started()
                task_status = trio.TASK_STATUS_IGNORED

    def tell_failure(self, pod: PodFacts, reason: str) -> None:
        """The agent's log has it: files have no events."""

    def tell_node(self, reason: str, note: str) -> None:
        """The agent's log has it."""

    async def annotate(self, pod: PodFacts, annotation: str, value: str | None) -> None:
        """Write an annotation into the pod's file, or take it out; a pod that is gone is no error.

        Raises:
            MeshError: the folder cannot be written, or holds a broken file of this pod.
        """

        def patch() -> None:
            store = FolderStore(self._folder)
            try:
                store.patch_metadata(Pod, pod.namespace, pod.name, annotations={annotation: value})
            except ObjectMissing:
                _log.debug("pod gone before it was annotated", pod=str(pod.key))

        await trio.to_thread.run_sync(patch)
