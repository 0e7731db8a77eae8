"""What a test left behind in the kernel: namespaces, cgroups, BPF mounts, processes.

A test that makes such things takes a prefix of its own for their names, so that tests of several people on one machine
do not blame one another; what still carries the prefix when the test has ended is its leftover.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

NAMED_NAMESPACES = Path("/run/netns")
_CGROUP_DEPTH = 5


@dataclass(frozen=True, slots=True)
class Inventory:
    """What exists now, by name."""

    namespaces: frozenset[str]
    """Named network namespaces."""
    cgroups: frozenset[str]
    """Folders of the cgroup v2 hierarchy, to some depth."""
    mounts: frozenset[str]
    """Where BPF file systems are mounted."""
    processes: frozenset[str]
    """``pid: command line (cgroup)`` of every process of user space that can be read."""

    def since(self, before: Inventory, containing: str = "") -> list[str]:
        """What was not there ``before``, one line each, as far as ``containing`` is part of it."""
        parts = (
            ("network namespace", self.namespaces - before.namespaces),
            ("cgroup", self.cgroups - before.cgroups),
            ("BPF mount", self.mounts - before.mounts),
            ("process", self.processes - before.processes),
        )
        return [f"{kind} {name}" for kind, names in parts for name in sorted(names) if containing in name]


NOTHING = Inventory(frozenset(), frozenset(), frozenset(), frozenset())


def take_inventory() -> Inventory:
    """Look at the kernel; takes a few milliseconds."""
    mounts = _mounts()
    return Inventory(
        namespaces=frozenset(os.listdir(NAMED_NAMESPACES)) if NAMED_NAMESPACES.is_dir() else frozenset(),
        cgroups=frozenset(name for place, kind in mounts if kind == "cgroup2" for name in _folders(Path(place))),
        mounts=frozenset(place for place, kind in mounts if kind == "bpf"),
        processes=frozenset(_processes()),
    )


def children(pid: int) -> list[str]:
    """``pid: command line`` of the running children of a process."""
    found = []
    for process in _process_folders():
        try:
            # The command may hold spaces and brackets; what follows its last bracket is regular.
            state, parent = (process / "stat").read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue  # it has just ended
        if int(parent) == pid and state != "Z":
            found.append(f"{process.name}: {_command_line(process)}")
    return found


def _mounts() -> list[tuple[str, str]]:
    mounts = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        mounts.append((left.split()[4], right.split()[0]))
    return mounts


def _folders(top: Path, depth: int = _CGROUP_DEPTH) -> list[str]:
    found: list[str] = []
    try:
        inner = [entry for entry in os.scandir(top) if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return found  # removed meanwhile
    for entry in inner:
        found.append(entry.path)
        if depth > 1:
            found += _folders(Path(entry.path), depth - 1)
    return found


def _process_folders() -> list[Path]:
    return [Path(entry.path) for entry in os.scandir("/proc") if entry.name.isdigit()]


def _processes() -> list[str]:
    found = []
    for process in _process_folders():
        try:
            cgroup = (process / "cgroup").read_text().strip().rpartition(":")[2]
        except OSError:
            continue
        command = _command_line(process)
        if command:
            found.append(f"{process.name}: {command} ({cgroup})")
    return found


def _command_line(process: Path) -> str:
    try:
        return (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()[:200]
    except OSError:
        return ""
