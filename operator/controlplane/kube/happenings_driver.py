"""Notices what is to be told as events, whenever this replica leads; and tells, leading or not, whom it refused."""

from __future__ import annotations

from typing import Never

import trio

from controlplane.ca.authentication import Caller
from controlplane.kube.happenings import (
    REPORTER,
    of_finding,
    of_other_mesh,
    of_problem,
    of_refusal,
    of_unpublished_roots,
    other_mesh,
)
from controlplane.source import Source
from controlplane.translate.delta import Delta
from controlplane.translate.translator import Translator
from resources.kube.client_driver import ApiClient
from resources.kube.event_driver import Events
from resources.kube.event_machine import AGAIN_SECONDS
from resources.kube.kinds import API_KINDS
from resources.object_set import ObjectSet
from resources.objects import ObjectKey, Pod
from resources.problem import Problem

_BEHIND_SECONDS = 60.0
"""How much later than its first time an event may have been put in, at its rate."""


class Happenings:
    """All that is told as events."""

    def __init__(
        self, client: ApiClient, source: Source, translator: Translator, namespace: str, instance: str
    ) -> None:
        """Begin with nothing noticed.

        Args:
            client: the API server.
            source: its problems are told.
            translator: its findings are told.
            namespace: the operator's own.
            instance: which replica this is.
        """
        self._source = source
        self._translator = translator
        self._namespace = namespace
        self._events = Events(client, REPORTER, instance)
        self._leads = False
        self._seen_problems: tuple[Problem, ...] = ()
        self._others: dict[str, set[ObjectKey]] = {}
        """What is there of other meshes, and the pods of each."""

    def update(self, objects: ObjectSet, delta: Delta) -> None:
        """Take notice of an update."""
        for key in delta.objects:
            if key.kind == "Pod":
                self._look_at(key, objects.find(Pod, key.namespace, key.name))
        if not self._leads:
            return
        for finding in delta.findings:
            if finding.object.kind in API_KINDS:
                self._events.tell(of_finding(finding, objects.get(finding.object)))
        problems = self._source.problems
        if problems is not self._seen_problems:
            self._seen_problems = problems
            self._tell_problems(objects)

    def refused(self, caller: Caller, reason: str) -> None:
        """A caller got no certificate."""
        pod = self._translator.objects.find(Pod, caller.namespace, caller.pod) if caller.pod else None
        if pod is not None:
            self._events.tell(of_refusal(pod, reason))

    def roots_not_published(self, namespace: str, reason: str) -> None:
        """A namespace does not get the root certificates."""
        self._events.tell(of_unpublished_roots(namespace, reason))

    async def run_events(self) -> Never:
        """Tell until cancelled."""
        await self._events.run()

    async def run(self) -> Never:
        """Notice everything there is, now and again, until cancelled; to be run while this replica leads."""
        self._leads = True
        try:
            while True:
                objects = self._translator.objects
                for finding in self._translator.findings:
                    if finding.object.kind in API_KINDS:
                        self._events.tell(of_finding(finding, objects.get(finding.object)))
                self._tell_problems(objects)
                for what, pods in self._others.items():
                    self._events.tell(of_other_mesh(what, min(pods), self._namespace))
                await trio.sleep(AGAIN_SECONDS + _BEHIND_SECONDS)
        finally:
            self._leads = False

    def _tell_problems(self, objects: ObjectSet) -> None:
        for problem in self._source.problems:
            value = objects.get(problem.key) if problem.key is not None else None
            self._events.tell(of_problem(problem, value, self._namespace))

    def _look_at(self, key: ObjectKey, pod: Pod | None) -> None:
        for what, pods in list(self._others.items()):
            pods.discard(key)
            if not pods:
                del self._others[what]
        found = other_mesh(pod, self._namespace) if pod is not None else None
        if found is not None:
            pods = self._others.setdefault(found, set())
            pods.add(key)
            if self._leads:
                self._events.tell(of_other_mesh(found, min(pods), self._namespace))
