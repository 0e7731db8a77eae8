from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from ambimesh.lab import launch
from ambimesh.lab.programs import (
    Place,
    ProgramFailed,
    base_environment,
    launch_arguments,
    run,
    run_for_status,
    run_in_foreground,
)


def launched(argv: list[str], **more: str) -> subprocess.CompletedProcess[bytes]:
    command = launch_arguments(argv, Place(), environment=base_environment(), **more)
    return subprocess.run(command, capture_output=True, check=False)


def test_the_launcher_becomes_the_program() -> None:
    done = launched(["sh", "-c", "echo $0 $LANG; pwd; exit 7"], cwd="/usr")
    assert done.returncode == 7
    assert done.stdout == b"sh C.UTF-8\n/usr\n"


def test_the_launched_program_has_no_ignored_signals() -> None:
    """Python ignores SIGPIPE, which a shell pipeline in a container would notice."""
    done = launched(["sh", "-c", "grep SigIgn /proc/self/status"])
    assert int(done.stdout.split()[1], 16) & (1 << (13 - 1)) == 0


def test_a_program_that_is_not_there_answers_as_a_shell_does() -> None:
    done = launched(["no-such-program"])
    assert done.returncode == launch.EXIT_NOT_FOUND
    assert done.stderr == b"cannot start 'no-such-program': not found\n"


def test_a_program_that_cannot_be_executed_says_why(tmp_path: Path) -> None:
    file = tmp_path / "plain"
    file.write_text("text")
    done = launched([str(file)])
    assert done.returncode == launch.EXIT_CANNOT_RUN
    assert b"Permission denied" in done.stderr


def test_a_namespace_that_is_not_there_is_named() -> None:
    command = launch_arguments(["true"], Place(netns=Path("/run/netns/none-such")))
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == launch.EXIT_NOT_FOUND
    assert b"/run/netns/none-such" in done.stderr


def test_a_daemon_is_recorded_with_its_start_time(tmp_path: Path) -> None:
    record, log = tmp_path / "pid.json", tmp_path / "log"
    done = launched(["sh", "-c", "echo said; exec sleep 1000"], pid_file=str(record), log=str(log))
    assert done.returncode == 0
    identity = json.loads(record.read_text())
    try:
        fields = Path(f"/proc/{identity['pid']}/stat").read_text().rpartition(")")[2].split()
        assert int(fields[19]) == identity["start_time"]
        assert os.getsid(identity["pid"]) == identity["pid"]
        while log.read_text() != "said\n":
            pass
    finally:
        os.kill(identity["pid"], 9)


async def test_output_and_status() -> None:
    assert await run(["cat"], stdin=b"given") == b"given"
    assert await run_for_status(["sh", "-c", "echo out; echo err >&2; exit 3"]) == (3, b"out\n", b"err\n")


async def test_a_failure_carries_the_programs_own_words() -> None:
    with pytest.raises(ProgramFailed, match=r"ended with 2: not so"):
        await run(["sh", "-c", "echo not so >&2; exit 2"])


async def test_a_program_that_may_not_be_executed_is_a_failure_too(tmp_path: Path) -> None:
    file = tmp_path / "plain"
    file.write_text("text")
    with pytest.raises(ProgramFailed, match=f"^{file} cannot be executed: Permission denied$"):
        await run([str(file)])


async def test_a_missing_program_and_a_slow_one_are_told_apart() -> None:
    with pytest.raises(ProgramFailed, match="no-such-program is not installed"):
        await run(["no-such-program"])
    with pytest.raises(ProgramFailed, match="did not end within"):
        await run(["sleep", "100"], timeout=0.05)


def test_foreground_keeps_the_status_and_names_signals_as_a_shell() -> None:
    assert run_in_foreground(["sh", "-c", "exit 42"], Place(), base_environment()) == 42
    assert run_in_foreground(["sh", "-c", "kill -9 $$"], Place(), base_environment()) == 128 + 9
