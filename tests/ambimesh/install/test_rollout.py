"""When a workload is there, and what keeps it, from what the API shows."""

from __future__ import annotations

from typing import Any

import pytest

from ambimesh.install.rollout import Problem, progress_of, selector_of

Json = dict[str, Any]


def _daemon_set(wanted: int = 2, **status: int) -> Json:
    filled = {"desiredNumberScheduled": wanted, "currentNumberScheduled": wanted, "observedGeneration": 3}
    filled |= {"updatedNumberScheduled": wanted, "numberAvailable": wanted} | status
    selector = {"matchLabels": {"b": "2", "a": "1"}}
    return {
        "kind": "DaemonSet",
        "metadata": {"name": "agent", "generation": 3},
        "spec": {"selector": selector},
        "status": filled,
    }


def _deployment(**status: Any) -> Json:
    filled = {"replicas": 2, "updatedReplicas": 2, "availableReplicas": 2, "observedGeneration": 1, **status}
    return {
        "kind": "Deployment",
        "metadata": {"name": "operator", "generation": 1},
        "spec": {"replicas": 2, "selector": {}},
        "status": filled,
    }


def _pod(container: Json | None = None, *, node: str = "n1", **status: Any) -> Json:
    if container is not None:
        status["containerStatuses"] = [{"name": "main", "image": "i:1", **container}]
    return {"metadata": {"name": "p", "uid": "u"}, "spec": {"nodeName": node} if node else {}, "status": status}


def _event(reason: str, message: str, **involved: str) -> Json:
    return {"reason": reason, "message": message, "involvedObject": {"uid": "u", **involved}}


@pytest.mark.parametrize(
    ("workload", "done"),
    [
        (_daemon_set(), True),
        (_daemon_set(observedGeneration=2), False),
        (_daemon_set(updatedNumberScheduled=1), False),
        (_daemon_set(numberAvailable=1), False),
        (_daemon_set(numberMisscheduled=1), False),
        (_deployment(), True),
        (_deployment(replicas=3), False),  # an old one still goes
        (_deployment(availableReplicas=1), False),
        (_deployment(updatedReplicas=1), False),
        (_deployment(observedGeneration=0), False),
    ],
)
def test_done_means_every_new_pod_and_no_old_one(workload: Json, done: bool) -> None:
    assert progress_of(workload, (), ()).done is done


@pytest.mark.parametrize(
    ("workload", "ready"),
    [
        (_deployment(replicas=3, updatedReplicas=1), 0),  # the new one is not, both old ones still are
        (_deployment(replicas=3, updatedReplicas=1, availableReplicas=3), 1),
        (_deployment(availableReplicas=0), 0),
        (_daemon_set(updatedNumberScheduled=1), 1),
        (_daemon_set(updatedNumberScheduled=1, numberAvailable=1), 0),
    ],
)
def test_old_pods_that_are_ready_are_not_counted_as_new_ones(workload: Json, ready: int) -> None:
    assert progress_of(workload, (), ()).ready == ready


def test_a_daemon_set_without_nodes_is_not_done() -> None:
    state = progress_of(_daemon_set(wanted=0), (), ())
    assert not state.done
    assert [problem.kind for problem in state.problems] == ["unschedulable"]


_CRASHED = {
    "restartCount": 2,
    "lastState": {"terminated": {"exitCode": 1}},
    "state": {"waiting": {"reason": "CrashLoopBackOff"}},
}


@pytest.mark.parametrize(
    ("pod", "events", "kind", "said"),
    [
        (_pod({"state": {"waiting": {"reason": "ErrImagePull", "message": "no host"}}}), [], "image", "no host"),
        (_pod({"state": {"waiting": {"reason": "ErrImageNeverPull"}}}), [], "image", "i:1"),
        (_pod({"state": {"waiting": {"reason": "CreateContainerConfigError"}}}), [], "configuration", "ConfigError"),
        (_pod(_CRASHED), [], "crash", "main ends with status 1, started 3 times"),
        (_pod({"state": {"terminated": {"exitCode": 2}}, "restartCount": 0}), [], "crash", "status 2"),
        (_pod({"state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}), [], "memory", "out of memory"),
        (
            _pod(node="", conditions=[{"type": "PodScheduled", "status": "False", "message": "0/3 nodes"}]),
            [],
            "unschedulable",
            "0/3 nodes",
        ),
        (_pod(reason="Evicted", message="low on disk"), [], "evicted", "low on disk"),
        (_pod(), [_event("FailedMount", "configmap ambimesh-root-cert not found")], "mount", "root-cert"),
        (_pod(), [_event("FailedCreatePodSandBox", "plugin type=x failed")], "network", "plugin type"),
        (_pod({"state": {"running": {}}}), [_event("Unhealthy", "HTTP probe failed: 503")], "probe", "503"),
    ],
)  # fmt: skip
def test_a_pod_says_what_is_wrong(pod: Json, events: list[Json], kind: str, said: str) -> None:
    [problem] = progress_of(_daemon_set(numberAvailable=1), [pod], events).problems
    assert problem.kind == kind
    assert said in str(problem)


def test_a_pod_that_is_well_or_whose_events_are_anothers_says_nothing() -> None:
    well = _pod({"ready": True, "state": {"running": {}}}, conditions=[{"type": "Ready", "status": "True"}])
    events = [_event("Unhealthy", "long ago"), {**_event("FailedMount", "x"), "involvedObject": {"uid": "another"}}]
    assert progress_of(_daemon_set(numberAvailable=1), [well, _pod()], events[1:]).problems == ()
    assert progress_of(_daemon_set(numberAvailable=1), [well], events).problems == ()


def test_what_keeps_pods_of_earlier_images_is_not_told() -> None:
    now = _deployment(availableReplicas=0)
    now["spec"]["template"] = {"spec": {"containers": [{"name": "main", "image": "i:2"}]}}
    old = _pod({"state": {"waiting": {"reason": "ErrImagePull", "message": "no host"}}})
    old["spec"]["containers"] = [{"name": "main", "image": "i:1"}]
    new = _pod(_CRASHED)
    new["spec"]["containers"] = [{"name": "injected", "image": "x"}, {"name": "main", "image": "i:2"}]
    assert [problem.kind for problem in progress_of(now, [old, new], []).problems] == ["crash"]
    # Where somebody rewrites images on the way, none is as it was asked for.
    assert [problem.kind for problem in progress_of(now, [old], []).problems] == ["image"]


def test_a_refused_pod_is_told_of_its_workload() -> None:
    text = 'pods "agent-x" is forbidden: exceeded quota: none'
    event = {"reason": "FailedCreate", "message": text, "involvedObject": {"kind": "DaemonSet", "name": "agent"}}
    [problem] = progress_of(_daemon_set(numberAvailable=0), [], [event, event]).problems
    assert problem == Problem("quota", "DaemonSet agent", text, problem.remedy)
    failure = {"type": "ReplicaFailure", "status": "True", "message": "violates PodSecurity baseline"}
    [problem] = progress_of(_deployment(availableReplicas=0, conditions=[failure]), [], []).problems
    assert problem.kind == "security"
    other = {**event, "involvedObject": {"kind": "ReplicaSet", "name": "operator-7d9f"}, "message": "no reason"}
    [problem] = progress_of(_deployment(availableReplicas=0), [], [event, other]).problems
    assert (problem.kind, problem.text) == ("refused", "no reason")


def test_a_crash_says_whose_log_has_more() -> None:
    [problem] = progress_of(_daemon_set(numberAvailable=1), [_pod(_CRASHED)], []).problems
    assert (problem.pod, problem.container, problem.place) == ("p", "main", "pod p on n1")


def test_a_selector_becomes_a_query() -> None:
    assert selector_of(_daemon_set()) == "a=1,b=2"
