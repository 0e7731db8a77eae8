"""Programs that the kit starts: each with a log, waited for until it serves, and ended by the kit or with it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mesh.errors import EnvironmentLacks

_POLL_SECONDS = 0.02
_SHOWN_LINES = 15


class NotServing(EnvironmentLacks):
    """A program ended or did not answer in time; the message holds the end of its log."""


class Process:
    """A running program, in a process group of its own.

    The kernel kills it when the thread that started it ends (``setpriv --pdeathsig``), so that a test session that is
    killed leaves nothing running. Start it from the main thread.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        log: Path,
        *,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", *map(str, command)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Its process id, which is its group's too."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def wait_until(self, serves: Callable[[], bool], seconds: float) -> None:
        """Wait until it serves.

        Raises:
            NotServing: it ended, or time is up.
        """
        deadline = time.monotonic() + seconds
        while not serves():
            if not self.running:
                raise NotServing(f"{self.name} ended with status {self._process.returncode}:\n{self.tail()}")
            if time.monotonic() > deadline:
                raise NotServing(f"{self.name} does not serve after {seconds:.0f} s:\n{self.tail()}")
            time.sleep(_POLL_SECONDS)

    def tail(self) -> str:
        """The end of its log."""
        lines = self.log.read_text(errors="replace").splitlines()[-_SHOWN_LINES:]
        return "\n".join(f"  {line[:400]}" for line in lines)

    def stop(self, grace_seconds: float = 5.0) -> None:
        """End it: asked first, killed with its whole group when it does not go. Nothing happens if it has ended."""
        if self.running:
            self._process.terminate()
            try:
                self._process.wait(grace_seconds)
            except subprocess.TimeoutExpired:
                self.kill()
        self._reap_group()

    def kill(self) -> None:
        """End it as a crash does: with SIGKILL, and what it started with it."""
        self._reap_group()
        self._process.wait()

    def _reap_group(self) -> None:
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # nobody of it is left
