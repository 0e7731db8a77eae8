from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import trio

from ambimesh.lab.kubelet.containers import ContainerRunner, ContainerSetting
from ambimesh.lab.kubelet.pod_status import ContainerState
from ambimesh.lab.programs import HERE, base_environment
from mesh.errors import ConfigurationError
from resources.pod import Container, ExecAction, Probe


class Watched:
    """A runner whose every change of state is noted."""

    def __init__(self, tmp_path: Path, container: Container, policy: str = "Never", grace: float = 1.0) -> None:
        self.seen: list[str] = []
        self.state = ContainerState(container)
        self.changed = trio.Event()
        self.log = tmp_path / "log"
        setting = ContainerSetting(
            pod="n/p",
            place=HERE,
            address="127.0.0.1",
            log=self.log,
            restart_policy=policy,
            grace_seconds=grace,
            prepare=self._prepare,
            changed=self._note,
        )
        self.runner = ContainerRunner(self.state, setting)

    def _prepare(self, container: Container) -> tuple[list[str], Mapping[str, str]]:
        if not container.command:
            raise ConfigurationError("no command")
        return list(container.command), base_environment()

    def _note(self) -> None:
        ready = "+ready" if self.state.ready else ""
        self.seen.append(f"{self.state.phase}{ready}")
        self.changed.set()
        self.changed = trio.Event()

    async def until(self, what: str) -> None:
        with trio.fail_after(10):
            while what not in self.seen:
                await self.changed.wait()


def shell(
    script: str, *, readiness: Probe | None = None, liveness: Probe | None = None, startup: Probe | None = None
) -> Container:
    return Container(
        name="c",
        command=("sh", "-c", script),
        readiness_probe=readiness,
        liveness_probe=liveness,
        startup_probe=startup,
    )


async def test_a_container_runs_once_and_its_output_is_kept(tmp_path: Path) -> None:
    watched = Watched(tmp_path, shell("echo out; echo err >&2; exit 3"))
    await watched.runner.run()
    assert (watched.seen[0], watched.seen[-1]) == ("running+ready", "terminated")
    assert (watched.state.exit_code, watched.state.reason) == (3, "Error")
    assert await trio.Path(watched.log).read_text() == "out\nerr\n"


async def test_it_is_restarted_with_growing_pauses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr("ambimesh.lab.kubelet.containers.trio.sleep", sleep)
    watched = Watched(tmp_path, Container(name="c"), policy="Always")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watched.runner.run)
        while watched.state.restarts < 7:
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert pauses[:7] == [1, 2, 4, 8, 16, 30, 30]
    assert (watched.state.reason, watched.state.message) == ("CreateContainerConfigError", "no command")


async def test_cancelling_tells_it_to_end_and_kills_what_does_not(tmp_path: Path) -> None:
    for script, code in (("trap 'exit 5' TERM", 5), ("trap '' TERM", 137)):
        trapped = tmp_path / f"trapped-{code}"
        watched = Watched(tmp_path, shell(f"{script}; touch {trapped}; while :; do sleep 0.01; done"), grace=0.3)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watched.runner.run)
            await watched.until("running+ready")
            with trio.fail_after(10):
                while not trapped.exists():  # noqa: ASYNC110 -- a program makes it
                    await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
        assert watched.state.exit_code == code


async def test_it_is_ready_once_its_probe_passes_and_only_then(tmp_path: Path) -> None:
    gate = tmp_path / "open"
    probe = Probe(exec=ExecAction(command=("test", "-e", str(gate))), failure_threshold=1)
    watched = Watched(tmp_path, shell("exec sleep 1000", readiness=probe), grace=0.1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watched.runner.run)
        await watched.until("running")
        await trio.sleep(0.2)
        assert not watched.state.ready
        gate.touch()
        await watched.until("running+ready")
        nursery.cancel_scope.cancel()


async def test_failing_liveness_ends_it(tmp_path: Path) -> None:
    probe = Probe(exec=ExecAction(command=("false",)), failure_threshold=1)
    watched = Watched(tmp_path, shell("exec sleep 1000", liveness=probe))
    with trio.fail_after(10):
        await watched.runner.run()
    assert watched.state.exit_code == 128 + 15


async def test_other_probes_wait_for_the_startup_probe(tmp_path: Path) -> None:
    started = tmp_path / "started"
    startup = Probe(exec=ExecAction(command=("test", "-e", str(started))), failure_threshold=100, period_seconds=1)
    liveness = Probe(exec=ExecAction(command=("false",)), failure_threshold=1)
    watched = Watched(tmp_path, shell("exec sleep 1000", startup=startup, liveness=liveness), grace=0.1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watched.runner.run)
        await watched.until("running")
        await trio.sleep(0.3)
        assert watched.state.phase == "running"
        started.touch()
        await watched.until("terminated")
        nursery.cancel_scope.cancel()
