"""One container: started, probed, restarted by policy, stopped. The driver under ``pods``.

A container here is a process group in the pod's namespaces and cgroup; its image is ignored. Its output goes to a log
file that stays when it is restarted.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog
import trio

from ambimesh.lab.kubelet.pod_status import ContainerState, restarts
from ambimesh.lab.kubelet.probes import ProbeState, attempt
from ambimesh.lab.programs import Place, launch_arguments
from mesh.clock import utc_now
from mesh.errors import ConfigurationError
from resources.pod import Container, Probe

_logger = structlog.get_logger()
_FIRST_BACKOFF_SECONDS = 1.0
_LONGEST_BACKOFF_SECONDS = 30.0
_EAGER_SECONDS = 0.1
_LONG_ENOUGH_SECONDS = 60.0
"""A container that ran this long is restarted at once, and its next backoff is the first again."""


def now() -> str:
    """The wall clock as the API writes it."""
    return utc_now().strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True, kw_only=True)
class ContainerSetting:
    """What a container needs to know about its pod."""

    pod: str
    """``namespace/name``, for messages."""
    place: Place
    address: str
    log: Path
    restart_policy: str | None
    grace_seconds: float
    prepare: Callable[[Container], tuple[list[str], Mapping[str, str]]]
    """Its command and environment; raises ConfigurationError when it has none."""
    changed: Callable[[], None]
    """Called whenever the state changed."""


class ContainerRunner:
    """Runs one container for as long as its pod lives."""

    def __init__(self, state: ContainerState, setting: ContainerSetting) -> None:
        self.state = state
        self._setting = setting
        self._process: trio.Process | None = None

    async def run(self) -> None:
        """Keep the container running as its restart policy says; return when it has ended for good.

        When cancelled, the container is told to end, and killed after its grace period.
        """
        backoff = _FIRST_BACKOFF_SECONDS
        while True:
            started = trio.current_time()
            await self._run_once()
            if not restarts(self._setting.restart_policy, self.state.exit_code):
                return
            if trio.current_time() - started > _LONG_ENOUGH_SECONDS:
                backoff = _FIRST_BACKOFF_SECONDS
            self.state.last = self.state.current()
            if self.state.reason != "CreateContainerConfigError":
                self.state.reason, self.state.message = "CrashLoopBackOff", f"restarting in {backoff:g} s"
            self.state.phase = "waiting"
            self.state.restarts += 1
            self._setting.changed()
            await trio.sleep(backoff)
            backoff = min(backoff * 2, _LONGEST_BACKOFF_SECONDS)

    async def _run_once(self) -> None:
        state, container = self.state, self.state.container
        try:
            argv, environment = self._setting.prepare(container)
        except ConfigurationError as error:
            state.phase, state.reason, state.message = "waiting", "CreateContainerConfigError", str(error)
            state.exit_code = 128
            self._setting.changed()
            return
        with self._setting.log.open("ab") as log:
            self._process = await trio.lowlevel.open_process(
                launch_arguments(
                    argv, self._setting.place, environment=environment, cwd=container.working_dir or "/"
                ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        state.phase, state.reason, state.message, state.started_at = "running", "", "", now()
        state.ready = container.readiness_probe is None and container.startup_probe is None
        self._setting.changed()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._probe_all)
                await self._process.wait()
                nursery.cancel_scope.cancel()
        finally:
            await self._stop(self._setting.grace_seconds)
            status = self._process.returncode
            assert status is not None
            state.phase, state.ready, state.finished_at = "terminated", False, now()
            # A shell's convention for a death by signal, which container runtimes share.
            state.exit_code = status if status >= 0 else 128 - status
            state.reason = "Completed" if status == 0 else "Error"
            self._process = None
            self._setting.changed()

    async def _stop(self, grace: float) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        with trio.CancelScope(shield=True):
            _signal_group(process.pid, signal.SIGTERM)
            with trio.move_on_after(grace):
                await process.wait()
            if process.returncode is None:
                _signal_group(process.pid, signal.SIGKILL)
                await process.wait()

    async def _probe_all(self) -> None:
        container = self.state.container
        if container.startup_probe is not None:
            startup = ProbeState(container.startup_probe, initially=False)
            await self._probe_until(container.startup_probe, startup, lambda: startup.passing or startup.exhausted)
            if not startup.passing:
                await self._fail("startup", container.startup_probe)
                return
            self.state.ready = container.readiness_probe is None
            self._setting.changed()
        async with trio.open_nursery() as nursery:
            if container.readiness_probe is not None:
                nursery.start_soon(self._watch_readiness, container.readiness_probe)
            if container.liveness_probe is not None:
                nursery.start_soon(self._watch_liveness, container.liveness_probe)

    async def _watch_readiness(self, probe: Probe) -> None:
        readiness = ProbeState(probe, initially=False)

        def note() -> bool:
            if self.state.ready != readiness.passing:
                self.state.ready = readiness.passing
                self._setting.changed()
            return False

        await self._probe_until(probe, readiness, note, eager=True)

    async def _watch_liveness(self, probe: Probe) -> None:
        liveness = ProbeState(probe, initially=True)
        await self._probe_until(probe, liveness, lambda: liveness.exhausted)
        await self._fail("liveness", probe)

    async def _probe_until(
        self, probe: Probe, state: ProbeState, done: Callable[[], bool], *, eager: bool = False
    ) -> None:
        await trio.sleep(probe.initial_delay_seconds)
        period = max(1, probe.period_seconds)
        # Until it is ready for the first time a container is asked often, so that a lab is up quickly. Only where
        # failures have no consequence: a startup probe's threshold counts periods.
        delay = _EAGER_SECONDS if eager else float(period)
        while True:
            outcome = await attempt(probe, self.state.container, self._setting.address, self._setting.place)
            if not outcome.success:
                _logger.info("probe_unsuccessful", pod=self._setting.pod, reason=outcome.reason)
            state.record(outcome)
            if done():
                return
            await trio.sleep(period if state.passing else min(period, delay))
            delay *= 2

    async def _fail(self, kind: str, probe: Probe) -> None:
        _logger.warning("probe_failed", kind=kind, pod=self._setting.pod, container=self.state.container.name)
        await self._stop(probe.termination_grace_period_seconds or self._setting.grace_seconds)


def _signal_group(pid: int, number: signal.Signals) -> None:
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        pass
