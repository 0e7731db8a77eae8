"""From the source to the snapshots: one change after another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import structlog
import trio

from controlplane.ca.placement import Placement
from controlplane.memory_driver import give_back
from controlplane.publisher import Publisher
from controlplane.reconcile.driver import Reconciler
from controlplane.source import Source
from controlplane.translate.delta import Delta
from controlplane.translate.finding import Finding
from controlplane.translate.translator import Translator
from resources.object_set import ObjectSet

_log = structlog.get_logger("controlplane.translate")
_NOT_RECONCILED = frozenset({"Pod", "Node"})
"""Kinds of which nothing is made and nothing said, and which change most."""
_LARGE = 1000
"""Objects of an update after which memory is worth being given back: the first one, or that after a long absence."""
Observer = Callable[[ObjectSet, Delta], None]
"""Told of every update once it is published; must not wait."""


class Leadership(Protocol):
    """Whether this replica is the one that writes."""

    @property
    def leads(self) -> bool:
        """As of now."""
        ...

    async def wait_until_leads(self) -> None:
        """Wait until it is."""
        ...


    async def wait_until_follows(self) -> None:
        """Wait until it is not."""
        ...


class SoleReplica:
    """There is no other."""

    leads = True

    async def wait_until_leads(self) -> None:
        """At once."""
        await trio.lowlevel.checkpoint()

    async def wait_until_follows(self) -> None:
        """Never."""
        await trio.sleep_forever()


class Pipeline:
    """Follows a source and keeps everything that is derived from it in step."""

    def __init__(
        self,
        source: Source,
        translator: Translator,
        placement: Placement,
        publisher: Publisher,
        reconciler: Reconciler | None = None,
        leadership: Leadership | None = None,
        observers: Sequence[Observer] = (),
    ) -> None:
        self.source = source
        self.translator = translator
        self._placement = placement
        self._publisher = publisher
        self._reconciler = reconciler
        self._leadership = leadership or SoleReplica()
        self._observers = tuple(observers)
        self._unreconciled = trio.Event()
        self.ready = trio.Event()
        """Set once the source's first objects are offered."""

    async def run(self) -> None:
        """Follow the source; runs until cancelled."""
        async with trio.open_nursery() as nursery:
            if self._reconciler is not None:
                nursery.start_soon(self._reconcile, self._reconciler)
            await self._follow()

    async def _follow(self) -> None:
        while True:
            objects = await self.source.wait_change()
            # First who may have certificates, then who exists: nobody hears of a pod whose identity is not given out.
            self._placement.update(objects)
            delta = self.translator.update(objects)
            self._publisher.publish(delta)
            for finding in sorted(delta.findings, key=str):
                told = {"object": str(finding.object), "condition": finding.condition.value, "text": finding.message}
                _log.warning("finding", **told)
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
            for observer in self._observers:
                observer(objects, delta)
            if not self.ready.is_set() or any(key.kind not in _NOT_RECONCILED for key in delta.objects) or delta.told:
                self._unreconciled.set()
            large = len(delta.objects) >= _LARGE
            del objects, delta  # a wait may be long, and what the first update brought is as large as the cluster
            if large:
                give_back()
            self.ready.set()

    async def _reconcile(self, reconciler: Reconciler) -> None:
        """Write what should be there. Apart from following: an API server that is slow to write holds up nobody."""
        while True:
            await self._unreconciled.wait()
            await self._leadership.wait_until_leads()
            self._unreconciled = trio.Event()
            await reconciler.reconcile(self.translator.objects)

    def findings(self) -> Iterator[Finding]:
        """What objects ask for and do not get."""
        return self.translator.findings
