"""From the source to the snapshots: one change after another."""

from __future__ import annotations

from collections.abc import Iterator

import structlog
import trio

from controlplane.ca.placement import Placement
from controlplane.publisher import Publisher
from controlplane.reconcile.driver import Reconciler
from controlplane.translate.finding import Finding
from controlplane.translate.translator import Translator
from resources.folder_source import FolderSource

_log = structlog.get_logger("controlplane.translate")


class Pipeline:
    """Follows a source and keeps everything that is derived from it in step."""

    def __init__(
        self,
        source: FolderSource,
        translator: Translator,
        placement: Placement,
        publisher: Publisher,
        reconciler: Reconciler | None = None,
    ) -> None:
        self.source = source
        self.translator = translator
        self._placement = placement
        self._publisher = publisher
        self._reconciler = reconciler
        self._told: set[Finding] = set()
        self.ready = trio.Event()
        """Set once the source's first objects are offered."""

    async def run(self) -> None:
        """Follow the source; runs until cancelled."""
        while True:
            objects = await self.source.wait_change()
            # First who may have certificates, then who exists: nobody hears of a pod whose identity is not given out.
            self._placement.update(objects)
            delta = self.translator.update(objects)
            self._publisher.publish(delta)
            self._tell_findings()
            if delta or not self.ready.is_set():
                _log.info(
                    "model_updated",
                    objects=len(objects),
                    addresses_updated=len(delta.addresses_updated),
                    addresses_removed=len(delta.addresses_removed),
                    policies_updated=len(delta.policies_updated),
                    policies_removed=len(delta.policies_removed),
                    destinations_updated=len(delta.destinations_updated),
                    destinations_removed=len(delta.destinations_removed),
                )
            self.ready.set()
            if self._reconciler is not None:
                await self._reconciler.reconcile(objects)

    def findings(self) -> Iterator[Finding]:
        """What objects ask for and do not get."""
        return self.translator.findings

    def _tell_findings(self) -> None:
        found = set(self.translator.findings)
        for finding in sorted(found - self._told, key=str):
            _log.warning("finding", object=str(finding.object), condition=finding.condition.value, text=finding.message)
        self._told = found
