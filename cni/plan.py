"""What is to be done, from what should be and what is. Pure.

"What is" is the kernel's state and ztunnel's acknowledgements, never the annotation: after a reboot a pod can be
annotated ``enabled`` while nothing in the kernel captures it. The annotation is an output, compared only to know
whether it must be written again.

Absence is treated with care. A pod that is missing from a view with unreadable objects may well be running; taking it
out of the mesh would send its traffic in clear, so it stays until a complete view shows it gone. And a pod that is
gone from the source but whose sandbox the container runtime has not yet taken down (a forced deletion) stays until it
has.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from cni.enrolment import (
    REDIRECTION_ANNOTATION,
    REDIRECTION_ENABLED,
    Enrolment,
    EnrolmentRules,
    decide,
    exclusions_of,
)
from cni.pod import NodeView, PodFacts
from ebpf.pods import PodEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class Actual:
    """What is so for one pod."""

    capture: PodEntry | None = None
    """None: the kernel captures nothing of it."""
    verified: bool = False
    """This process has seen that the captured namespace is the pod's (again after every start of the agent)."""
    acknowledged: bool = False
    """A ztunnel said that it serves it."""


NOTHING_DONE = Actual()


class Step(enum.Enum):
    """One kind of work on one pod."""

    ENROL = "enrol"
    """Find and verify the namespace, capture, have ztunnel serve, annotate; each only if not so yet."""
    UNENROL = "unenrol"
    ANNOTATE = "annotate"
    """All is done but the annotation does not say so."""
    CLEAR_ANNOTATION = "clear annotation"
    """It says that a pod is enrolled that is not to be."""


@dataclass(frozen=True, slots=True)
class Action:
    """A step for a pod; ``pod`` is None for one the source no longer knows."""

    step: Step
    uid: str
    pod: PodFacts | None
    reason: str


def same_capture(one: PodEntry, other: PodEntry) -> bool:
    """Whether two entries capture alike: the kernel does not keep the order of addresses."""
    return (
        set(one.addresses) == set(other.addresses)
        and one.exclusions == other.exclusions
        and one.fast_path is other.fast_path
    )


def plan(
    view: NodeView, actual: Mapping[str, Actual], rules: EnrolmentRules, living: Collection[str] = ()
) -> list[Action]:
    """The work that would make ``actual`` (by uid) what ``view`` asks for; departures first: addresses are used again.

    Args:
        view: what the source says.
        actual: what is so; pods about which nothing is so may be missing.
        rules: the agent's configuration.
        living: uids of pods whose sandbox the container runtime still holds.
    """
    departures: list[Action] = []
    arrivals: list[Action] = []
    for pod in view.pods.values():
        action = _of_pod(view, pod, actual.get(pod.uid, NOTHING_DONE), rules)
        if action is not None:
            (departures if action.step is Step.UNENROL else arrivals).append(action)
    if view.complete:
        present = {pod.uid for pod in view.pods.values()}
        departures += [
            Action(Step.UNENROL, uid, None, "the pod is gone")
            for uid, state in actual.items()
            if uid not in present and uid not in living and state != NOTHING_DONE
        ]
    return departures + arrivals


def _of_pod(view: NodeView, pod: PodFacts, state: Actual, rules: EnrolmentRules) -> Action | None:
    labels = view.namespaces.get(pod.namespace)
    if labels is None and not view.complete:
        return None
    decision = decide(pod, labels or {}, rules)
    if decision is Enrolment.SELECTED:
        return _of_selected(pod, state)
    if state != NOTHING_DONE:
        return Action(Step.UNENROL, pod.uid, pod, decision.value)
    if REDIRECTION_ANNOTATION in pod.annotations and decision is not Enrolment.ENDED:
        return Action(Step.CLEAR_ANNOTATION, pod.uid, pod, decision.value)
    return None


def _of_selected(pod: PodFacts, state: Actual) -> Action | None:
    if not pod.addresses and state.capture is None:
        # Its network is being made: the CNI plugin will bring it.
        return None
    if state.capture is None and pod.leaving:
        # The runtime has taken its network down and the object goes next, or it was never in the mesh.
        return None
    if state.capture is None:
        return Action(Step.ENROL, pod.uid, pod, "it is not captured")
    if pod.addresses and set(pod.addresses) != set(state.capture.addresses):
        return Action(Step.ENROL, pod.uid, pod, "its addresses are others than the captured ones")
    if exclusions_of(pod.annotations)[0] != state.capture.exclusions:
        return Action(Step.ENROL, pod.uid, pod, "its exclusions are others than the captured ones")
    if pod.fast_path is not state.capture.fast_path:
        return Action(Step.ENROL, pod.uid, pod, "its use of the fast path is another than the captured one")
    if not state.verified:
        return Action(Step.ENROL, pod.uid, pod, "its namespace has not been verified since the agent started")
    if not state.acknowledged:
        return Action(Step.ENROL, pod.uid, pod, "ztunnel has not acknowledged it")
    if pod.annotations.get(REDIRECTION_ANNOTATION) != REDIRECTION_ENABLED:
        return Action(Step.ANNOTATE, pod.uid, pod, "its annotation does not say that it is enrolled")
    return None
