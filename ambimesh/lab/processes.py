"""The lab's long-running processes: daemons with a record, a log and a cgroup, found and stopped by their record only.

A record holds how the process was started and, beside its id, its start time: an id alone may by now belong to some
other program, so nothing is ever signalled whose start time differs (proc(5), field 22 of ``stat``).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import trio

from ambimesh.lab.layout import LabLayout
from ambimesh.lab.programs import Place, base_environment, launch_arguments
from mesh.errors import ConfigurationError, EnvironmentLacks

_STOP_SECONDS = 10.0
_LAST_LINES = 15


class ProcessFailed(EnvironmentLacks):
    """A process of the lab ended or did not become ready; the message holds its last log lines."""


class ProcessSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one process is started."""

    name: str
    """``operator``, ``ztunnel-node1``, ..."""
    argv: tuple[str, ...]
    netns: str
    """Path of the network namespace; empty for the root namespace."""
    cgroup: str
    environment: dict[str, str] = {}
    """Added to the base environment."""
    ready_port: int = 0
    """Port of ``/healthz/ready`` on loopback of its namespace; 0 when it has none."""


class _Identity(msgspec.Struct, frozen=True):
    pid: int
    start_time: int


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """A recorded process and whether it runs."""

    spec: ProcessSpec
    pid: int
    running: bool


class Processes:
    """The recorded processes of one lab."""

    def __init__(self, layout: LabLayout) -> None:
        self._layout = layout

    def log_file(self, name: str) -> Path:
        """Where the process writes."""
        return self._layout.logs / f"{name}.log"

    async def start(self, spec: ProcessSpec) -> int:
        """Start a process as a daemon; its id.

        Raises:
            ConfigurationError: it runs already.
            ProcessFailed: it could not even be launched.
        """
        if self._alive(spec.name) is not None:
            raise ConfigurationError(f"{spec.name} runs already")
        (self._layout.pids / f"{spec.name}.spec.json").write_bytes(msgspec.json.encode(spec))
        place = Place(netns=Path(spec.netns) if spec.netns else None, cgroup=Path(spec.cgroup))
        command = launch_arguments(
            spec.argv,
            place,
            environment={**base_environment(), **spec.environment},
            pid_file=str(self._pid_file(spec.name)),
            log=str(self.log_file(spec.name)),
        )
        done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
        if done.returncode != 0:
            raise ProcessFailed(f"{spec.name} could not be launched: {done.stderr.decode(errors='replace').strip()}")
        return self._identity(spec.name).pid

    async def stop(self, name: str, *, kill: bool = False, timeout: float = _STOP_SECONDS) -> None:
        """End a process: SIGTERM and, after ``timeout`` seconds, SIGKILL; at once SIGKILL when ``kill``."""
        identity = self._alive(name)
        if identity is not None:
            _signal(identity, signal.SIGKILL if kill else signal.SIGTERM)
            if not await _ended_within(identity, timeout):
                _signal(identity, signal.SIGKILL)
                await _ended_within(identity, timeout)
        self._pid_file(name).unlink(missing_ok=True)

    async def restart(self, name: str, *, kill: bool = False) -> int:
        """Stop a process and start it as it was started before; its new id."""
        spec = self.spec(name)
        await self.stop(name, kill=kill)
        return await self.start(spec)

    def spec(self, name: str) -> ProcessSpec:
        """How a process was started.

        Raises:
            ConfigurationError: the lab has no such process; the message lists those it has.
        """
        path = self._layout.pids / f"{name}.spec.json"
        if "/" in name or not path.is_file():
            known = ", ".join(self.names()) or "none"
            raise ConfigurationError(f"the lab has no process {name!r}; it has: {known}")
        return msgspec.json.decode(path.read_bytes(), type=ProcessSpec)

    def names(self) -> list[str]:
        """All processes that were ever started in this lab."""
        return sorted(path.name.removesuffix(".spec.json") for path in self._layout.pids.glob("*.spec.json"))

    def statuses(self) -> list[ProcessStatus]:
        """All processes and whether they run."""
        found: list[ProcessStatus] = []
        for name in self.names():
            alive = self._alive(name)
            found.append(ProcessStatus(self.spec(name), alive.pid if alive else 0, alive is not None))
        return found

    def is_running(self, name: str) -> bool:
        """Whether the process that was started under this name still is."""
        return self._alive(name) is not None

    def ended_unasked(self) -> list[str]:
        """Those that were started, were not told to stop, and run no more."""
        return [name for name in self.names() if self._pid_file(name).exists() and self._alive(name) is None]

    def last_lines(self, name: str) -> str:
        """The end of a process's log."""
        try:
            with self.log_file(name).open("rb") as log:
                log.seek(0, os.SEEK_END)
                log.seek(max(0, log.tell() - 16384))
                lines = log.read().decode(errors="replace").splitlines()
        except FileNotFoundError:
            return "(it logged nothing)"
        return "\n".join(lines[-_LAST_LINES:]) or "(it logged nothing)"

    def failure(self, name: str, what: str) -> ProcessFailed:
        """The error to raise for a process, with the end of its log."""
        return ProcessFailed(f"{name} {what}; the last lines of {self.log_file(name)}:\n{self.last_lines(name)}")

    def _pid_file(self, name: str) -> Path:
        return self._layout.pids / f"{name}.json"

    def _identity(self, name: str) -> _Identity:
        return msgspec.json.decode(self._pid_file(name).read_bytes(), type=_Identity)

    def _alive(self, name: str) -> _Identity | None:
        try:
            identity = self._identity(name)
        except (FileNotFoundError, msgspec.DecodeError):
            return None
        return identity if _is_alive(identity) else None


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None when there is none, or it is a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command's name stands in parentheses and may hold anything, so count from the last one.
    fields: Sequence[str] = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def _is_alive(identity: _Identity) -> bool:
    return start_time(identity.pid) == identity.start_time


async def _ended_within(identity: _Identity, seconds: float) -> bool:
    try:
        descriptor = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        return True
    try:
        with trio.move_on_after(seconds):
            if _is_alive(identity):
                await trio.lowlevel.wait_readable(descriptor)
        return not _is_alive(identity)
    finally:
        os.close(descriptor)


def _signal(identity: _Identity, number: signal.Signals) -> None:
    # A descriptor of the process closes the gap between looking and signalling.
    try:
        descriptor = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        return
    try:
        if _is_alive(identity):
            signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        pass
    finally:
        os.close(descriptor)
