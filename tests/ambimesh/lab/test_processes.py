from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from ambimesh.lab import cgroups
from ambimesh.lab.layout import LabLayout
from ambimesh.lab.processes import Processes, ProcessFailed, ProcessSpec, start_time
from ambimesh.lab.readiness import wait_for_process
from mesh.errors import ConfigurationError


@pytest.fixture
def processes(tmp_path: Path) -> Processes:
    layout = LabLayout.named("lab", tmp_path)
    for folder in (layout.pids, layout.logs):
        folder.mkdir(parents=True)
    return Processes(layout)


@pytest.fixture
def cgroup(resource_prefix: str) -> Iterator[Path]:
    folder = cgroups.find_hierarchy() / resource_prefix
    folder.mkdir()
    yield folder
    (folder / "cgroup.kill").write_text("1")
    while cgroups.processes_in(folder):
        pass
    folder.rmdir()


def spec(cgroup: Path, *argv: str) -> ProcessSpec:
    return ProcessSpec(name="one", argv=argv, netns="", cgroup=str(cgroup))


async def said(processes: Processes, text: str) -> None:
    with trio.fail_after(5):
        while text not in processes.last_lines("one"):  # noqa: ASYNC110 -- nothing to wait for
            await trio.sleep(0.01)


def test_a_start_time_is_a_processs_own() -> None:
    assert start_time(os.getpid()) is not None
    assert start_time(1) != start_time(os.getpid())
    assert start_time(2**22 + 1) is None


def test_a_process_the_lab_does_not_have_is_told_from_those_it_has(processes: Processes) -> None:
    with pytest.raises(ConfigurationError, match="the lab has no process 'other'; it has: none"):
        processes.spec("other")
    with pytest.raises(ConfigurationError):
        processes.spec("../../etc/passwd")


async def test_an_id_that_was_given_away_is_never_signalled(processes: Processes, tmp_path: Path) -> None:
    """The record is of a process with this very id, but another start time."""
    child = await trio.lowlevel.open_process([sys.executable, "-c", "import time; time.sleep(100)"])
    record = tmp_path / "lab" / "pids" / "one.json"
    await trio.Path(record).write_text(json.dumps({"pid": child.pid, "start_time": 1}))
    await processes.stop("one", kill=True)
    assert child.poll() is None
    child.kill()
    await child.wait()


async def test_what_was_not_told_to_end_is_told_from_what_was(processes: Processes, tmp_path: Path) -> None:
    pids = trio.Path(tmp_path / "lab" / "pids")
    for name in ("one", "two"):
        await (pids / f"{name}.spec.json").write_text("{}")
    await (pids / "one.json").write_text(json.dumps({"pid": os.getpid(), "start_time": start_time(os.getpid())}))
    assert processes.ended_unasked() == []
    await (pids / "one.json").write_text(json.dumps({"pid": os.getpid(), "start_time": 1}))
    assert processes.ended_unasked() == ["one"]
    await processes.stop("one")
    assert processes.ended_unasked() == []


@pytest.mark.root
async def test_a_process_is_started_restarted_and_stopped(processes: Processes, cgroup: Path) -> None:
    pid = await processes.start(spec(cgroup, "sh", "-c", "echo started; exec sleep 1000"))
    assert cgroups.processes_in(cgroup) == [pid]
    with pytest.raises(ConfigurationError, match="one runs already"):
        await processes.start(spec(cgroup, "true"))
    await said(processes, "started")
    again = await processes.restart("one")
    assert again != pid
    assert [(status.pid, status.running) for status in processes.statuses()] == [(again, True)]
    await said(processes, "started\nstarted")
    await processes.stop("one")
    assert [(status.pid, status.running) for status in processes.statuses()] == [(0, False)]


@pytest.mark.root
async def test_one_that_does_not_end_is_killed(processes: Processes, cgroup: Path) -> None:
    pid = await processes.start(spec(cgroup, "sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done"))
    await said(processes, "ready")
    await processes.stop("one", timeout=0.2)
    assert start_time(pid) is None


@pytest.mark.root
async def test_one_that_ends_before_it_is_ready_is_told_with_its_last_words(
    processes: Processes, cgroup: Path
) -> None:
    one = spec(cgroup, "sh", "-c", "echo the reason; exit 1")
    await processes.start(one)
    with trio.fail_after(5):
        while processes.is_running("one"):  # noqa: ASYNC110 -- nothing to wait for
            await trio.sleep(0.01)
    with pytest.raises(ProcessFailed, match=r"(?s)one ended; the last lines of .*one\.log:\nthe reason"):
        await wait_for_process(processes, one, 1.0)


@pytest.mark.root
async def test_one_that_cannot_be_launched_is_an_error(processes: Processes, cgroup: Path) -> None:
    one = ProcessSpec(name="one", argv=("true",), netns="/run/netns/none-such", cgroup=str(cgroup))
    with pytest.raises(ProcessFailed, match="none-such"):
        await processes.start(one)
