from __future__ import annotations

import pytest

from ambimesh.lab.kubelet.pod_status import ContainerState, PodState, phase, pod_status, restarts
from resources.base import ObjectMeta
from resources.objects import Pod
from resources.pod import Container, PodSpec, PodStatus


def state(*containers: ContainerState, policy: str | None = None, initialized: bool = True) -> PodState:
    spec = PodSpec(containers=tuple(one.container for one in containers), restart_policy=policy)
    pod = Pod(metadata=ObjectMeta(name="p", namespace="n"), spec=spec)
    made = PodState(pod, ("172.18.0.11", "fd00::11"), "2026-01-01T00:00:00Z", addresses=("10.244.1.2", "fd00::2"))
    made.containers = list(containers)
    made.initialized = initialized
    return made


def running(ready: bool = True) -> ContainerState:
    return ContainerState(Container(name="c"), phase="running", ready=ready, started_at="2026-01-01T00:00:01Z")


def ended(code: int) -> ContainerState:
    return ContainerState(Container(name="d"), phase="terminated", exit_code=code)


@pytest.mark.parametrize(
    ("policy", "containers", "expected"),
    [
        (None, [running()], "Running"),
        (None, [ContainerState(Container(name="c"))], "Pending"),
        ("Never", [ended(0), ended(0)], "Succeeded"),
        ("Never", [ended(0), ended(1)], "Failed"),
        ("Never", [ended(1), running()], "Running"),
        ("OnFailure", [ended(0)], "Succeeded"),
        ("OnFailure", [ended(1)], "Running"),
        ("Always", [ended(0)], "Running"),
    ],
)
def test_phases(policy: str | None, containers: list[ContainerState], expected: str) -> None:
    assert phase(state(*containers, policy=policy)) == expected


def test_a_failed_init_container_fails_a_pod_that_is_never_restarted() -> None:
    made = state(ContainerState(Container(name="c")), policy="Never", initialized=False)
    made.init_containers = [ended(1)]
    assert phase(made) == "Failed"


def test_a_pod_is_ready_when_all_its_containers_are() -> None:
    assert pod_status(state(running(), running()), PodStatus(), "t").ready
    status = pod_status(state(running(), running(ready=False)), PodStatus(), "t")
    assert not status.ready
    assert status.conditions[-1].message == "containers with unready status: c"
    assert status.addresses == ("10.244.1.2", "fd00::2")


def test_a_condition_keeps_the_time_of_its_last_change() -> None:
    first = pod_status(state(running()), PodStatus(), "t1")
    again = pod_status(state(running()), first, "t2")
    assert again == first
    unready = pod_status(state(running(ready=False)), first, "t3")
    times = {condition.type: condition.last_transition_time for condition in unready.conditions}
    assert (times["Ready"], times["PodScheduled"]) == ("t3", "t1")


def test_what_a_container_is_doing_is_shown_as_the_api_does() -> None:
    waiting = ContainerState(Container(name="c"), reason="CrashLoopBackOff", message="restarting in 2 s", restarts=3)
    shown = waiting.as_status()
    assert shown["state"] == {"waiting": {"reason": "CrashLoopBackOff", "message": "restarting in 2 s"}}
    assert (shown["restartCount"], shown["started"]) == (3, False)
    assert ended(137).current()["terminated"]["exitCode"] == 137


@pytest.mark.parametrize(
    ("policy", "code", "again"),
    [("Always", 0, True), (None, 1, True), ("OnFailure", 1, True), ("OnFailure", 0, False), ("Never", 1, False)],
)
def test_restart_policies(policy: str | None, code: int, again: bool) -> None:
    assert restarts(policy, code) is again
