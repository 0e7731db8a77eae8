"""The lab's folder in the cgroup v2 hierarchy: made, emptied and removed.

A cgroup is the kernel's own record of a process and all its descendants, so what was started in the lab is found again
whatever it forked, and killed at once through ``cgroup.kill`` (Linux 5.14, cgroup-v2 documentation).
"""

from __future__ import annotations

from pathlib import Path

import trio

from mesh.errors import EnvironmentLacks

_REMOVAL_DEADLINE_SECONDS = 10


def hierarchy(mountinfo: str) -> Path:
    """Where cgroup v2 is mounted, from the text of ``/proc/self/mountinfo`` (proc(5)).

    Raises:
        EnvironmentLacks: it is not mounted.
    """
    for line in mountinfo.splitlines():
        before, separator, after = line.partition(" - ")
        if separator and after.split(" ", 1)[0] == "cgroup2":
            return Path(before.split(" ")[4])
    raise EnvironmentLacks(
        "cgroup v2 is not mounted; remedy: "
        "mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 none /sys/fs/cgroup/unified"
    )


def find_hierarchy() -> Path:
    """Where cgroup v2 is mounted on this machine.

    Raises:
        EnvironmentLacks: it is not mounted.
    """
    return hierarchy(Path("/proc/self/mountinfo").read_text())


def processes_in(cgroup: Path) -> list[int]:
    """Process ids in this cgroup and those below; empty when there is no such cgroup."""
    pids: list[int] = []
    for folder in _bottom_up(cgroup):
        try:
            pids.extend(int(line) for line in (folder / "cgroup.procs").read_text().split())
        except (FileNotFoundError, OSError):
            continue
    return pids


async def kill_all(cgroup: Path) -> None:
    """SIGKILL everything in this cgroup and below, and wait until it is gone.

    Raises:
        EnvironmentLacks: something is still there after ten seconds.
    """
    if not cgroup.is_dir():
        return
    with trio.move_on_after(_REMOVAL_DEADLINE_SECONDS):
        while processes_in(cgroup):
            (cgroup / "cgroup.kill").write_text("1")
            await trio.sleep(0.01)
        return
    raise EnvironmentLacks(f"processes {processes_in(cgroup)} of {cgroup} outlive SIGKILL: they hang in the kernel")


async def remove(cgroup: Path) -> None:
    """Kill what is in this cgroup and below, then remove the folders.

    Raises:
        EnvironmentLacks: it cannot be emptied in ten seconds.
    """
    await kill_all(cgroup)
    deadline = trio.current_time() + _REMOVAL_DEADLINE_SECONDS
    for folder in _bottom_up(cgroup):
        while True:
            try:
                folder.rmdir()
                break
            except FileNotFoundError:
                break
            except OSError as error:
                # A killed process leaves its cgroup only once its exit is complete, a little after it left the list.
                if trio.current_time() > deadline:
                    raise EnvironmentLacks(f"cannot remove the cgroup {folder}: {error}") from error
                await trio.sleep(0.01)


def _bottom_up(cgroup: Path) -> list[Path]:
    folders: list[Path] = []
    pending = [cgroup] if cgroup.is_dir() else []
    while pending:
        folder = pending.pop()
        folders.append(folder)
        try:
            pending.extend(entry for entry in folder.iterdir() if entry.is_dir())
        except FileNotFoundError:
            continue
    return folders[::-1]
