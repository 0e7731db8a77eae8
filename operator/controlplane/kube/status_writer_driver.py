"""Writes objects' status, by the replica that leads.

What should be said is worked out again for what an update concerns, and for everything once when this replica comes to
lead. An object whose status says it all already, as it was last read, is not touched; another is read once more before
it is written, so that others' entries are of now.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from typing import Never

import structlog
import trio

from controlplane.kube.status_body import ROUTES, status_body
from controlplane.kube.status_wishes import SPOKEN_KINDS, broken_route_status, wished_status
from controlplane.kube.write_queue import WriteQueue
from controlplane.kube.writer_driver import path_of
from controlplane.source import Source
from controlplane.translate.delta import Delta
from controlplane.translate.status import NO_STATUS, ObjectStatus
from controlplane.translate.translator import Translator
from mesh.clock import utc_now
from mesh.errors import MeshError
from resources.encode import to_document
from resources.kube.client_driver import ApiClient, ApiRefused
from resources.kube.kinds import API_KINDS
from resources.object_set import ObjectSet
from resources.objects import KINDS, ObjectKey
from resources.problem import Problem

MANAGER = "ambimesh-operator-status"
"""Another field manager than that of objects: apply takes away what the same manager applied before and not again."""
_log = structlog.get_logger("controlplane.status")


class StatusWriter:
    """Says in objects' status what became of them."""

    def __init__(self, client: ApiClient, source: Source, translator: Translator) -> None:
        self._client = client
        self._source = source
        self._translator = translator
        self._queue: WriteQueue | None = None
        """None while this replica does not lead."""
        self._put = trio.Event()
        self._problems: dict[ObjectKey, Problem] = {}
        self._seen_problems: tuple[Problem, ...] = ()
        self._told: dict[ObjectKey, str] = {}

    def update(self, objects: ObjectSet, delta: Delta) -> None:
        """Take notice of an update; ``objects`` are what the translator has just taken over."""
        changed = set(delta.told)
        changed.update(delta.objects)
        problems = self._source.problems
        if problems is not self._seen_problems:
            self._seen_problems = problems
            now = {one.key: one for one in problems if one.key is not None}
            differing = now.keys() | self._problems.keys()
            changed |= {key for key in differing if now.get(key) != self._problems.get(key)}
            self._problems = now
        self._consider(changed)

    async def run(self) -> Never:
        """Write until cancelled; to be run while this replica leads."""
        queue = self._queue = WriteQueue(trio.current_time())
        try:
            objects = self._translator.objects
            for kind in sorted(SPOKEN_KINDS):
                self._consider(value.key for value in objects.of_kind(KINDS[kind]))
            self._consider(self._problems)
            while True:
                self._put = trio.Event()
                key = queue.take(trio.current_time())
                if isinstance(key, ObjectKey):
                    await self._write(queue, key)
                else:
                    with trio.move_on_after(key) if key < math.inf else trio.CancelScope():
                        await self._put.wait()
        finally:
            self._queue = None

    def _consider(self, keys: Iterable[ObjectKey]) -> None:
        if self._queue is None:
            return
        now = _now()
        for key in keys:
            if key.kind not in SPOKEN_KINDS:
                continue
            wished = self._wished(key)
            value = self._translator.objects.get(key)
            if key.kind in ROUTES and key in self._problems:
                wished = wished or NO_STATUS  # which parents it has shows when it is read
            same = value is not None and wished is not None and key not in self._problems and (
                status_body(to_document(value), key.kind, wished, now) is None
            )
            if wished is None or same:
                self._queue.drop(key)
            else:
                self._queue.put(key, trio.current_time())
                self._put.set()

    def _is_ours(self, gateway: ObjectKey) -> bool:
        """The translation says something of a Gateway's acceptance where it is a waypoint of ours."""
        return bool(self._translator.said_of(gateway)[0].conditions)

    def _wished(self, key: ObjectKey) -> ObjectStatus | None:
        return wished_status(
            key, self._translator.objects.get(key), self._translator.said_of(key), self._problems.get(key)
        )

    async def _write(self, queue: WriteQueue, key: ObjectKey) -> None:
        wished, problem = self._wished(key), self._problems.get(key)
        if wished is None and problem is None:
            return
        value = self._translator.objects.get(key)
        kind = API_KINDS[key.kind]
        path = path_of(value) if value is not None else kind.path(kind.versions[0], key.namespace, key.name)
        try:
            found = await self._client.get(path)
            if key.kind in ROUTES and problem is not None:
                wished = broken_route_status(found, problem, self._is_ours)
            body = status_body(found, key.kind, wished, _now()) if wished is not None else None
            if body is not None:
                await self._client.apply(f"{path}/status", body, MANAGER)
        except ApiRefused as error:
            if error.status == 404:
                queue.done(key)  # deleted meanwhile
            else:
                self._failed(queue, key, error)
            return
        except MeshError as error:
            self._failed(queue, key, error)
            return
        queue.done(key)
        self._told.pop(key, None)
        if body is not None:
            _log.debug("status_written", object=str(key))

    def _failed(self, queue: WriteQueue, key: ObjectKey, error: MeshError) -> None:
        queue.failed(key, trio.current_time(), random.random())
        if self._told.get(key) != str(error):
            self._told[key] = str(error)
            _log.warning("status_not_written", object=str(key), error=str(error), effect="tried again")


def _now() -> str:
    return utc_now().strftime("%Y-%m-%dT%H:%M:%SZ")
