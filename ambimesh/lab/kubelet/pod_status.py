"""The status of a pod from the state of its containers. Pure; times are given as RFC 3339 text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from resources.base import Condition
from resources.objects import Pod
from resources.pod import Container, PodIp, PodStatus


@dataclass(slots=True)
class ContainerState:
    """What one container is doing."""

    container: Container
    phase: Literal["waiting", "running", "terminated"] = "waiting"
    reason: str = "ContainerCreating"
    message: str = ""
    exit_code: int = 0
    started_at: str = ""
    finished_at: str = ""
    ready: bool = False
    restarts: int = 0
    last: dict[str, Any] | None = None
    """The state it was in before it was restarted last."""

    def as_status(self) -> dict[str, Any]:
        """One entry of ``status.containerStatuses``."""
        status: dict[str, Any] = {
            "name": self.container.name,
            "image": self.container.image,
            "ready": self.ready,
            "started": self.phase == "running",
            "restartCount": self.restarts,
            "state": self.current(),
        }
        if self.last is not None:
            status["lastState"] = self.last
        return status

    def current(self) -> dict[str, Any]:
        """``state`` as the API shows it."""
        if self.phase == "running":
            return {"running": {"startedAt": self.started_at}}
        detail: dict[str, Any] = {"reason": self.reason}
        if self.message:
            detail["message"] = self.message
        if self.phase == "terminated":
            detail |= {"exitCode": self.exit_code, "startedAt": self.started_at, "finishedAt": self.finished_at}
        return {self.phase: detail}


@dataclass(slots=True)
class PodState:
    """What one pod is doing."""

    pod: Pod
    host_ips: tuple[str, ...]
    start_time: str
    addresses: tuple[str, ...] = ()
    init_containers: list[ContainerState] = field(default_factory=list)
    containers: list[ContainerState] = field(default_factory=list)
    initialized: bool = False
    reason: str = ""
    message: str = ""


def pod_status(state: PodState, previous: PodStatus, now: str) -> PodStatus:
    """The status to write; a condition that did not change keeps the time of its last transition."""
    ready = state.initialized and all(container.ready for container in state.containers)
    conditions = [
        _condition("PodScheduled", True, previous, now),
        _condition("PodReadyToStartContainers", bool(state.addresses), previous, now, state.reason, state.message),
        _condition("Initialized", state.initialized, previous, now),
        _condition("ContainersReady", ready, previous, now, *_unready(state)),
        _condition("Ready", ready, previous, now, *_unready(state)),
    ]
    return PodStatus(
        phase=phase(state),
        conditions=tuple(conditions),
        reason=state.reason or None,
        message=state.message or None,
        host_ip=state.host_ips[0],
        host_ips=[{"ip": address} for address in state.host_ips],
        pod_ip=state.addresses[0] if state.addresses else "",
        pod_ips=tuple(PodIp(ip=address) for address in state.addresses),
        start_time=state.start_time,
        init_container_statuses=[one.as_status() for one in state.init_containers] or None,
        container_statuses=[one.as_status() for one in state.containers],
    )


def phase(state: PodState) -> str:
    """``Pending``, ``Running``, ``Succeeded`` or ``Failed`` (Kubernetes, pod lifecycle)."""
    policy = state.pod.spec.restart_policy or "Always"
    if any(one.phase == "terminated" and one.exit_code != 0 for one in state.init_containers) and policy == "Never":
        return "Failed"
    if not state.initialized or all(one.phase == "waiting" and not one.restarts for one in state.containers):
        return "Pending"
    if policy != "Always" and all(one.phase == "terminated" for one in state.containers):
        if all(one.exit_code == 0 for one in state.containers):
            return "Succeeded"
        if policy == "Never":
            return "Failed"
    return "Running"


def restarts(policy: str | None, exit_code: int) -> bool:
    """Whether a container that ended with this status is started again."""
    return policy in (None, "", "Always") or (policy == "OnFailure" and exit_code != 0)


def _unready(state: PodState) -> tuple[str, str]:
    names = [one.container.name for one in state.containers if not one.ready]
    return ("ContainersNotReady", f"containers with unready status: {' '.join(names)}") if names else ("", "")


def _condition(
    kind: str, holds: bool, previous: PodStatus, now: str, reason: str = "", message: str = ""
) -> Condition:
    status = "True" if holds else "False"
    old = next((one for one in previous.conditions if one.type == kind), None)
    since = old.last_transition_time if old is not None and old.status == status else now
    if holds:
        reason = message = ""
    return Condition(type=kind, status=status, last_transition_time=since, reason=reason, message=message)
