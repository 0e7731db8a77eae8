from __future__ import annotations

import os
import signal
from pathlib import Path

import msgspec
import pytest
import trio

from ambimesh.lab.daemon import until_told_to_stop
from ambimesh.lab.layout import LabLayout
from ambimesh.lab.processes import ProcessFailed
from ambimesh.lab.readiness import READY_SECONDS, wait_for_pods
from ambimesh.lab.record import Lab, LabRecord
from ebpf import programs_driver
from resources.base import Condition, ObjectMeta
from resources.folder_store import FolderStore
from resources.objects import Pod
from resources.pod import Container, PodSpec, PodStatus

UNKNOWN = PodStatus()
READY = PodStatus(phase="Running", conditions=(Condition(type="Ready", status="True"),))


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(LabLayout.named("lab", tmp_path), LabRecord(name="lab", nodes=1, mesh=False, cgroup="/c"))


def pod(name: str, status: PodStatus = UNKNOWN) -> Pod:
    spec = PodSpec(containers=(Container(name="c", command=("x",)),))
    return Pod(metadata=ObjectMeta(name=name, namespace="n"), spec=spec, status=status)


async def test_pods_that_become_ready_while_one_waits(lab: Lab) -> None:
    store = FolderStore(lab.layout.cluster)
    store.replace(pod("a"))
    store.replace(pod("done", PodStatus(phase="Succeeded")))
    async with trio.open_nursery() as nursery:

        async def later() -> None:
            await trio.sleep(0.2)
            store.patch_status(Pod, "n", "a", READY)

        nursery.start_soon(later)
        started = trio.current_time()
        assert await wait_for_pods(lab, 10) == []
        assert trio.current_time() - started < 5


async def test_those_that_do_not_are_listed_with_the_reason(lab: Lab) -> None:
    store = FolderStore(lab.layout.cluster)
    waiting = [{"name": "c", "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "restarting in 2 s"}}}]
    store.replace(pod("a", PodStatus(message="the agent is away")))
    store.replace(pod("b", PodStatus(container_statuses=waiting)))
    store.replace(pod("c"))
    assert await wait_for_pods(lab, 0.3) == [
        ("n/a", "the agent is away"),
        ("n/b", "CrashLoopBackOff: restarting in 2 s"),
        ("n/c", "it is on no node yet"),
    ]


async def test_a_pod_for_a_node_that_is_not_there_is_not_waited_for(lab: Lab) -> None:
    elsewhere = pod("a")
    spec = msgspec.structs.replace(elsewhere.spec, node_name="node9")
    FolderStore(lab.layout.cluster).replace(msgspec.structs.replace(elsewhere, spec=spec))
    with trio.fail_after(5):
        assert await wait_for_pods(lab, 60) == [("n/a", "the lab has no node node9")]


async def test_a_process_that_has_ended_is_told_of_where_pods_wait_for_it(lab: Lab) -> None:
    for folder in (lab.layout.pids, lab.layout.logs):
        folder.mkdir(parents=True)
    (lab.layout.pids / "kubelet-node1.spec.json").touch()
    (lab.layout.pids / "kubelet-node1.json").write_text('{"pid": 1, "start_time": 1}')
    (lab.layout.logs / "kubelet-node1.log").write_text("its last words\n")
    store = FolderStore(lab.layout.cluster)
    store.replace(pod("a", READY))
    assert await wait_for_pods(lab, 10) == []
    store.replace(pod("b"))
    with pytest.raises(ProcessFailed, match=r"(?s)kubelet-node1 ended; .*its last words"):
        await wait_for_pods(lab, 0.3)


async def test_a_process_that_ends_meanwhile_ends_the_wait(lab: Lab) -> None:
    for folder in (lab.layout.pids, lab.layout.logs):
        folder.mkdir(parents=True)
    (lab.layout.pids / "kubelet-node1.spec.json").touch()
    FolderStore(lab.layout.cluster).replace(pod("a"))

    async def end() -> None:
        await trio.sleep(0.2)
        await trio.Path(lab.layout.pids / "kubelet-node1.json").write_text('{"pid": 1, "start_time": 1}')

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(end)
            with pytest.raises(ProcessFailed, match="kubelet-node1 ended"):
                await wait_for_pods(lab, 10_000)


async def test_a_daemon_ends_when_told_with_its_work_undone() -> None:
    undone = False

    async def work() -> None:
        nonlocal undone
        os.kill(os.getpid(), signal.SIGTERM)
        try:
            await trio.sleep_forever()
        finally:
            undone = True

    with trio.fail_after(5):
        await until_told_to_stop(work)
    assert undone


def test_an_agent_is_given_longer_than_its_loader() -> None:
    """So that what the loader says of its failure is what a person reads."""
    assert READY_SECONDS > programs_driver._CHILD_DEADLINE
