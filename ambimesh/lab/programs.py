"""Running ordinary programs, in a namespace and cgroup when asked: the one place that starts children to wait for.

Long-running processes of the lab itself are started by ``processes``, which makes daemons of them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from ambimesh.lab import launch
from mesh.errors import EnvironmentLacks

_LAUNCHER = str(Path(launch.__file__))
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class ProgramFailed(EnvironmentLacks):
    """A program of the machine ended with an error; the message carries its own words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a program runs; what is None stays as it is for the caller."""

    netns: Path | None = None
    cgroup: Path | None = None
    hosts: Path | None = None
    """Shown to the program as ``/etc/hosts``."""
    hostname: str | None = None


HERE = Place()


def launch_arguments(
    argv: Sequence[str], place: Place, *, environment: Mapping[str, str] | None = None, **more: str
) -> list[str]:
    """The command that runs ``argv`` at ``place``; ``more`` goes to the launcher as it is."""
    spec: dict[str, object] = {"argv": list(argv), **more}
    for key, value in (("netns", place.netns), ("cgroup", place.cgroup), ("hosts", place.hosts)):
        if value is not None:
            spec[key] = str(value)
    if place.hostname is not None:
        spec["hostname"] = place.hostname
    if environment is not None:
        spec["environment"] = dict(environment)
    # -I -S: no site packages and no user's paths; 12 ms of start instead of 60.
    return [sys.executable, "-I", "-S", _LAUNCHER, json.dumps(spec)]


def base_environment() -> dict[str, str]:
    """The environment of a container, and of the lab's processes: nothing of the caller's.

    ``python3`` is found first beside this very interpreter, so that manifests can name the programs of this package.
    """
    return {
        "PATH": f"{Path(sys.executable).parent}:{_SYSTEM_PATH}",
        "HOME": "/root",
        "LANG": "C.UTF-8",
    }


async def run(
    argv: Sequence[str],
    *,
    place: Place = HERE,
    stdin: bytes = b"",
    timeout: float = 30.0,
    environment: Mapping[str, str] | None = None,
) -> bytes:
    """Run a program to its end and return what it wrote to standard output.

    Raises:
        ProgramFailed: it is not installed, cannot be executed, took longer than ``timeout`` seconds, or did not end
            with 0.
    """
    status, output, errors = await run_for_status(
        argv, place=place, stdin=stdin, timeout=timeout, environment=environment
    )
    if status != 0:
        words = (errors or output).decode(errors="replace").strip()[-2000:] or "it said nothing"
        raise ProgramFailed(f"{' '.join(argv)[:200]!r} ended with {status}: {words}")
    return output


async def run_for_status(
    argv: Sequence[str],
    *,
    place: Place = HERE,
    stdin: bytes = b"",
    timeout: float = 30.0,
    environment: Mapping[str, str] | None = None,
) -> tuple[int, bytes, bytes]:
    """Run a program to its end; its exit status, standard output and standard error.

    Raises:
        ProgramFailed: it is not installed, cannot be executed, or took longer than ``timeout`` seconds (it is
            killed then).
    """
    command = list(argv) if place == HERE else launch_arguments(argv, place, environment=environment)
    try:
        with trio.fail_after(timeout):
            done = await trio.run_process(
                command,
                stdin=stdin,
                capture_stdout=True,
                capture_stderr=True,
                check=False,
                env=environment if place == HERE and environment is not None else os.environ,
            )
    except FileNotFoundError as error:
        raise ProgramFailed(f"{argv[0]} is not installed") from error
    except OSError as error:
        raise ProgramFailed(f"{argv[0]} cannot be executed: {error.strerror}{_where_not(argv[0])}") from error
    except trio.TooSlowError as error:
        raise ProgramFailed(f"{' '.join(argv)[:200]!r} did not end within {timeout:g} s") from error
    return done.returncode, done.stdout, done.stderr


def _where_not(program: str) -> str:
    """What the words of the kernel's refusal (EACCES) leave out."""
    try:
        forbidden = os.statvfs(program).f_flag & os.ST_NOEXEC
    except OSError:
        return ""
    return ", as its file system is mounted with noexec" if forbidden else ""


def run_in_foreground(argv: Sequence[str], place: Place, environment: Mapping[str, str]) -> int:
    """Run a program on the caller's own terminal or pipes; its exit status, 128 + N when signal N ended it.

    Blocking on purpose: it is the whole of what ``lab exec`` does.
    """
    status = subprocess.call(launch_arguments(argv, place, environment=environment))
    return status if status >= 0 else 128 - status
