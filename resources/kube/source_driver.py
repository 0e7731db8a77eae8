"""The objects of a cluster by its API server: what ``FolderSource`` is for a folder of manifests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import partial

import structlog
import trio

from resources.kube.client_driver import ApiClient
from resources.kube.kind_store import KindStore
from resources.kube.kinds import API_KINDS, ApiKind
from resources.kube.list_watch_driver import ListWatch
from resources.kube.list_watch_machine import Remove, Report, Store
from resources.object_set import ObjectSet
from resources.objects import KubernetesObject, ObjectKey
from resources.problem import Problem

QUIET = 0.01
"""Seconds that changes are gathered: a rollout brings them in bursts."""
WAITING_SECONDS = 10.0
"""How long the first state may take before the log says what is waited for."""
_log = structlog.get_logger("resources")


class ApiSource:
    """Follows kinds, each on its own, and offers all of them as one set. For one waiter at a time."""

    def __init__(self, client: ApiClient, kinds: Iterable[ApiKind] = API_KINDS.values()) -> None:
        self._client = client
        self._stores = {kind.name: KindStore(kind, partial(self._in_force, kind)) for kind in kinds}
        self._objects = ObjectSet()
        self._problems: tuple[Problem, ...] = ()
        self._pending: dict[ObjectKey, KubernetesObject | None] = {}
        self._problems_dirty = False
        self._offered = False
        self._told = trio.Event()

    @property
    def objects(self) -> ObjectSet:
        """All objects, as last offered."""
        return self._objects

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What is wrong with objects, and with the way to them, as of now."""
        if self._problems_dirty:
            self._problems_dirty = False
            self._problems = tuple(problem for store in self._stores.values() for problem in store.problems)
        return self._problems

    @property
    def not_ready_because(self) -> str | None:
        """What the first state waits for; None once it is there."""
        if self._offered:
            return None
        return next((reason for store in self._stores.values() if (reason := store.waited_for) is not None), None)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[ApiSource]:
        """Follow all kinds.

        Raises:
            ConfigurationError: there is no way to an API server.
        """
        await self._client.check()
        async with trio.open_nursery() as nursery:
            for store in self._stores.values():
                nursery.start_soon(self._follow, store)
            nursery.start_soon(self._tell_what_is_waited_for)
            yield self
            nursery.cancel_scope.cancel()

    async def wait_change(self) -> ObjectSet:
        """Wait until objects or problems differ from those returned last.

        The first call returns once every kind has been read, or is known not to be there. A kind without which nothing
        can be said (pods, policies) must be readable for that; of the others a problem says that they are not.
        """
        while True:
            await self._told.wait()
            if self._offered:
                await trio.sleep(QUIET)
            self._told = trio.Event()
            if not self._offered and any(store.waited_for for store in self._stores.values()):
                continue
            before = self._objects, self._problems
            self._take_pending()
            self._tell_problems(before[1])
            first, self._offered = not self._offered, True
            if first or self._objects is not before[0] or self._problems != before[1]:
                return self._objects

    def _take_pending(self) -> None:
        pending, self._pending = self._pending, {}
        self._objects = self._objects.with_changes(
            [value for value in pending.values() if value is not None],
            [key for key, value in pending.items() if value is None],
        )

    def _in_force(self, kind: ApiKind) -> set[ObjectKey]:
        found = {value.key for value in self._objects.of_kind(kind.type)}
        for key, value in self._pending.items():
            if key.kind == kind.name:
                found.discard(key) if value is None else found.add(key)
        return found

    async def _follow(self, store: KindStore) -> None:
        def told(what: Store | Remove | Report) -> None:
            changes = store.take(what)
            for key, value in changes.items():
                self._pending[key] = value
            self._problems_dirty = True
            self._told.set()

        await ListWatch(self._client, store.kind, told).run()

    def _tell_problems(self, before: tuple[Problem, ...]) -> None:
        now = self.problems
        if now is before:
            return
        known = set(before)
        for problem in now:
            if problem not in known:
                _log.warning("object problem", problem=str(problem))

    async def _tell_what_is_waited_for(self) -> None:
        while not self._offered:
            await trio.sleep(WAITING_SECONDS)
            if (reason := self.not_ready_because) is not None:
                _log.warning("not_read_yet", reason=reason, effect="nothing is served before it is known")

