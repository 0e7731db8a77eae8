"""Whether a Deployment or DaemonSet is there, and what keeps it from it. Pure.

What is wrong is seldom said by the workload: a pod's container says that its image cannot be pulled or that it crashes,
a pod's condition that no node takes it, an event of the workload that a quota refuses its pods, an event of a pod that
a volume cannot be mounted. All of these are read here, from raw objects, and put into words with a remedy.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]

_IMAGE = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable")
_CONFIGURATION = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
_CRASH = "CrashLoopBackOff"
_MOUNT_EVENTS = ("FailedMount", "FailedAttachVolume")
_SANDBOX_EVENT = "FailedCreatePodSandBox"
_REFUSED_EVENT = "FailedCreate"
_MOST = 400
_OUT_OF_MEMORY = 137


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """Something that keeps pods from being ready."""

    kind: str
    """In a word: ``image``, ``crash``, ``memory``, ``unschedulable``, ``quota``, ``security``, ``mount``, ..."""
    place: str
    """The pod, with its node where it has one, or the workload."""
    text: str
    remedy: str = ""
    pod: str = field(default="", compare=False)
    """Whose log says more, with ``container``; empty if no log does."""
    container: str = field(default="", compare=False)

    def __str__(self) -> str:
        remedy = f"; remedy: {self.remedy}" if self.remedy else ""
        return f"{self.kind}: {self.place}: {self.text}{remedy}"


@dataclass(frozen=True, slots=True)
class Rollout:
    """How far a workload is."""

    wanted: int
    ready: int
    """Of the new pods."""
    done: bool
    problems: tuple[Problem, ...]


def progress_of(workload: Json, pods: Iterable[Json], events: Iterable[Json]) -> Rollout:
    """How far a workload is, and what keeps it.

    Args:
        workload: a Deployment or DaemonSet, with its status.
        pods: that its selector finds.
        events: of its namespace.
    """
    status = workload.get("status", {})
    seen = status.get("observedGeneration", 0) >= workload["metadata"].get("generation", 0)
    if workload["kind"] == "DaemonSet":
        wanted = status.get("desiredNumberScheduled", 0)
        updated, ready = status.get("updatedNumberScheduled", 0), status.get("numberAvailable", 0)
        current = status.get("currentNumberScheduled", 0) == wanted and not status.get("numberMisscheduled")
        old = wanted - updated
    else:
        wanted = workload["spec"].get("replicas", 1)
        updated, ready = status.get("updatedReplicas", 0), status.get("availableReplicas", 0)
        current = status.get("replicas", 0) == wanted
        old = status.get("replicas", 0) - updated
    done = seen and current and updated >= wanted and ready >= wanted
    if done:
        return Rollout(wanted, ready, wanted > 0, () if wanted else (_nowhere(workload),))
    pods, events = list(pods), list(events)
    problems = [*_of_workload(workload, events)]
    for pod in [pod for pod in pods if _is_current(pod, workload)] or pods:
        problems += _of_pod(pod, events)
    # Who is ready is not told by old and new: as many of the new ones are as the old ones cannot account for.
    return Rollout(wanted, max(0, min(updated, ready - old)), False, tuple(sorted(set(problems))))


def selector_of(workload: Json) -> str:
    """A workload's label selector, as a query takes it."""
    labels: dict[str, str] = workload["spec"]["selector"].get("matchLabels", {})
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items()))


def _is_current(pod: Json, workload: Json) -> bool:
    """Whether a pod has the images that the workload has now: what keeps older ones is to be over with them."""
    template = workload["spec"].get("template", {}).get("spec", {})
    wanted = {one["image"] for one in template.get("containers", ())}
    return wanted <= {one["image"] for one in pod["spec"].get("containers", ())}


def _nowhere(workload: Json) -> Problem:
    name = f"{workload['kind']} {workload['metadata']['name']}"
    return Problem("unschedulable", name, "no node is selected", "look at nodeSelector and at the nodes' labels")


def _of_workload(workload: Json, events: Sequence[Json]) -> Iterable[Problem]:
    name = workload["metadata"]["name"]
    place = f"{workload['kind']} {name}"
    for condition in workload.get("status", {}).get("conditions") or ():
        if condition.get("type") == "ReplicaFailure" and condition.get("status") == "True":
            yield _refused(place, str(condition.get("message", "")))
    for event in events:
        involved = event.get("involvedObject", {})
        of_it = involved.get("name") == name or (
            involved.get("kind") == "ReplicaSet" and str(involved.get("name", "")).rpartition("-")[0] == name
        )
        if of_it and event.get("reason") == _REFUSED_EVENT:
            yield _refused(place, str(event.get("message", "")))


def _refused(place: str, text: str) -> Problem:
    if "exceeded quota" in text or "insufficient quota" in text:
        remedy = "raise the ResourceQuota of the namespace, or admit the priority classes system-*-critical there"
        return Problem("quota", place, text[:_MOST], remedy)
    if "violates PodSecurity" in text:
        remedy = "label the namespace pod-security.kubernetes.io/enforce=privileged"
        return Problem("security", place, text[:_MOST], remedy)
    return Problem("refused", place, text[:_MOST])


def _of_pod(pod: Json, events: Sequence[Json]) -> Iterable[Problem]:
    name = pod["metadata"]["name"]
    node = pod.get("spec", {}).get("nodeName", "")
    place = f"pod {name} on {node}" if node else f"pod {name}"
    status = pod.get("status", {})
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            remedy = "look at the nodes' taints, labels and free resources"
            yield Problem("unschedulable", place, str(condition.get("message", ""))[:_MOST], remedy)
    if status.get("reason") == "Evicted":
        yield Problem("evicted", place, str(status.get("message", ""))[:_MOST])
    found = False
    for container in [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]:
        problem = _of_container(container, name, place)
        if problem is not None:
            found = True
            yield problem
    yield from _of_events(pod, place, events, container_told=found)


def _of_container(container: Json, pod: str, place: str) -> Problem | None:
    name = container.get("name", "")
    waiting = container.get("state", {}).get("waiting") or {}
    ended = container.get("state", {}).get("terminated") or container.get("lastState", {}).get("terminated") or {}
    reason = waiting.get("reason", "")
    message = str(waiting.get("message", ""))[:_MOST]
    if reason in _IMAGE:
        remedy = "--set images.prefix=..., --set images.tag=..., images.pullSecrets; or load the image onto the nodes"
        return Problem("image", place, f"{container.get('image', '')}: {message or reason}", remedy)
    if reason in _CONFIGURATION:
        return Problem("configuration", place, f"{name}: {message or reason}")
    if reason == _CRASH or (ended and ended.get("exitCode") and not container.get("ready")):
        code = ended.get("exitCode", "?")
        text = f"{name} ends with status {code}, started {container.get('restartCount', 0) + 1} times"
        if ended.get("reason") == "OOMKilled" or code == _OUT_OF_MEMORY:
            text = f"{text}: killed, out of memory"
            return Problem("memory", place, text, "raise resources.limits.memory", pod, name)
        return Problem("crash", place, text, "", pod, name)
    return None


def _of_events(pod: Json, place: str, events: Sequence[Json], *, container_told: bool) -> Iterable[Problem]:
    """What only events tell; a probe that fails is told only of a pod that runs otherwise."""
    latest: dict[str, str] = {}
    for event in events:
        if event.get("involvedObject", {}).get("uid") == pod["metadata"].get("uid") and pod["metadata"].get("uid"):
            latest[str(event.get("reason", ""))] = str(event.get("message", ""))
    ready = any(
        condition.get("type") == "Ready" and condition.get("status") == "True"
        for condition in pod.get("status", {}).get("conditions") or ()
    )
    if ready:
        return
    waits = not pod.get("status", {}).get("containerStatuses") or any(
        (one.get("state", {}).get("waiting") or {}).get("reason") in ("ContainerCreating", "PodInitializing")
        for one in pod["status"]["containerStatuses"]
    )
    for reason in _MOUNT_EVENTS:
        if reason in latest and waits:
            yield Problem("mount", place, latest[reason][:_MOST])
    if _SANDBOX_EVENT in latest and waits:
        remedy = "look at the node's CNI configuration and the agent's log"
        yield Problem("network", place, latest[_SANDBOX_EVENT][:_MOST], remedy)
    if "Unhealthy" in latest and not container_told and not waits:
        containers = pod["status"].get("containerStatuses") or [{}]
        yield Problem(
            "probe", place, latest["Unhealthy"][:_MOST], "", pod["metadata"]["name"], containers[0].get("name", "")
        )
