"""Keeps all pods of the node as they should be.

Theory of operation. Level, not edge: after every change of anything the whole plan is made anew from the source's
view and the kernel's state, and what it asks for is started, one task per pod. A task that finishes or fails causes
the next look. An event that is missed therefore costs time, never correctness. A pod whose work failed is left alone
for a while that grows from 5 ms to 5 s. Before a task does anything it makes the plan for its pod once more, under
the pod's lock: what the CNI plugin did in the meantime counts.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Never

import structlog
import trio

from cni.agent.enroller import Enroller
from cni.agent.pod_source import PodSource
from cni.agent.sandboxes import SandboxRegister
from cni.enrolment import EnrolmentRules
from cni.plan import Action, Step, plan
from mesh.backoff import Backoff
from mesh.errors import MeshError
from mesh.zds.server_driver import ZtunnelAway

_log = structlog.get_logger("reconciler")

_BACKOFF = Backoff(initial=0.005, maximum=5.0)
_REPEAT = 30.0
"""Seconds between looks without a cause: what others did to the kernel's state has no event."""
_PATIENCE = 5.0
"""Seconds that a pod's work may fail before its owner is told: a ztunnel that restarts is back by then."""
_CONCURRENT = 8
_SETTLING = 1.0
"""Seconds that the source is given to show an annotation that was written, before it is written again."""


_ANNOTATING = (Step.ANNOTATE, Step.CLEAR_ANNOTATION)


class Reconciler:
    """The task that compares what should be with what is."""

    def __init__(
        self,
        source: PodSource,
        rules: EnrolmentRules,
        enroller: Enroller,
        sandboxes: SandboxRegister,
        *,
        begun: Callable[[str], None] = lambda step: None,
        ended: Callable[[str, bool], None] = lambda step, succeeded: None,
    ) -> None:
        self._source = source
        self._rules = rules
        self._enroller = enroller
        self._sandboxes = sandboxes
        self._begun = begun
        self._ended = ended
        self._busy: set[str] = set()
        self._failures: dict[str, int] = {}
        self._failing_since: dict[str, float] = {}
        self._not_before: dict[str, float] = {}
        self._said: dict[str, str] = {}
        self._annotated: dict[str, tuple[int, float]] = {}
        self._woken = trio.Event()
        self._limiter = trio.CapacityLimiter(_CONCURRENT)

    def wake(self, *, impatient: bool = False) -> None:
        """Look again now; ``impatient``: also at pods whose work failed lately, because the cause may be gone."""
        if impatient:
            self._not_before.clear()
        self._woken.set()

    async def run(self) -> Never:
        """Reconcile for ever."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow_source)
            refreshed = trio.current_time()
            while True:
                self._woken = trio.Event()
                actions, look_again = self._due(trio.current_time())
                for action in actions:
                    self._busy.add(action.uid)
                    nursery.start_soon(self._work, action)
                with trio.move_on_at(look_again):
                    await self._woken.wait()
                if trio.current_time() >= refreshed + _REPEAT:
                    self._enroller.refresh()
                    refreshed = trio.current_time()

    async def _follow_source(self) -> None:
        serial = self._source.view.serial
        while True:
            serial = (await self._source.changed(serial)).serial
            self.wake()

    def _plan(self) -> list[Action]:
        return plan(self._source.view, self._enroller.actual(), self._rules, self._sandboxes.living())

    def _due(self, now: float) -> tuple[list[Action], float]:
        """The work to begin now, and when to look again if nothing happens."""
        self._prune()
        begin: list[Action] = []
        look_again = now + _REPEAT
        for action in self._plan():
            if action.uid in self._busy:
                continue  # it will wake us
            when = max(self._not_before.get(action.uid, -math.inf), self._settled(action))
            if when <= now:
                begin.append(action)
            else:
                look_again = min(look_again, when)
        return begin, look_again

    def _settled(self, action: Action) -> float:
        """When an annotation may be written: not while the view is still the one from before the last time."""
        serial, written = self._annotated.get(action.uid, (-1, -math.inf))
        if action.step in _ANNOTATING and serial == self._source.view.serial:
            return written + _SETTLING
        return -math.inf

    def _prune(self) -> None:
        """Drop what is remembered of pods that are gone."""
        view = self._source.view
        if not view.complete:
            return
        present = {pod.uid for pod in view.pods.values()}
        for uid in (self._failures.keys() | self._annotated.keys()) - present - self._enroller.actual().keys():
            self._calm(uid)
        for uid, sandbox in self._sandboxes.items():
            if uid not in present and not sandbox.alive():
                self._sandboxes.forget(uid)

    def _calm(self, uid: str) -> None:
        self._failures.pop(uid, None)
        self._failing_since.pop(uid, None)
        self._not_before.pop(uid, None)
        self._said.pop(uid, None)
        self._annotated.pop(uid, None)

    async def _work(self, action: Action) -> None:
        uid, serial = action.uid, self._source.view.serial
        try:
            async with self._limiter, self._enroller.working_on(uid):
                for current in self._plan():
                    if current.uid == uid:
                        await self._perform(current)
            self._calm(uid)
            self._annotated[uid] = (serial, trio.current_time())
            self._ended(action.step.value, True)
        except MeshError as error:
            self._ended(action.step.value, False)
            self._failures[uid] = self._failures.get(uid, 0) + 1
            wait = _BACKOFF.delay(self._failures[uid], random.random())
            self._not_before[uid] = trio.current_time() + wait
            if self._said.get(uid) != str(error):  # said once, not every five seconds
                self._said[uid] = str(error)
                pod = str(action.pod.key) if action.pod else ""
                say = _log.warning if isinstance(error, ZtunnelAway) else _log.error
                say("pod not as it should be", pod=pod, uid=uid, step=action.step.value, reason=str(error))
            since = self._failing_since.setdefault(uid, trio.current_time())
            if action.pod is not None and trio.current_time() - since >= _PATIENCE:
                self._source.tell_failure(action.pod, f"{action.step.value}: {error}")
        finally:
            self._busy.discard(uid)
            self.wake()

    async def _perform(self, action: Action) -> None:
        self._begun(action.step.value)
        _log.debug("working on pod", uid=action.uid, step=action.step.value, reason=action.reason)
        match action:
            case Action(Step.ENROL, _, pod, _) if pod is not None:
                await self._enroller.enrol_running(pod)
            case Action(Step.UNENROL, uid, pod, reason):
                await self._enroller.unenrol(uid, pod, reason)
            case Action(Step.ANNOTATE, _, pod, _) if pod is not None:
                await self._enroller.annotate_enabled(pod)
            case Action(Step.CLEAR_ANNOTATION, _, pod, _) if pod is not None:
                await self._enroller.clear_annotation(pod)
