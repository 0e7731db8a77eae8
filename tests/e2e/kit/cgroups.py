"""The cgroup folders of a node: one in every hierarchy the machine has, which the node takes for the root.

Machines differ: one unified hierarchy (v2), one for each controller (v1), or those with an empty unified one beside
them. A node gets what the machine has, below a folder of its own; with a cgroup namespace it sees nothing above. Its
services are in ``system.slice``, as systemd has them, and its pods where kubelet puts them.
"""

from __future__ import annotations

import errno
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mesh.errors import EnvironmentLacks

_MOUNTS = Path("/proc/self/mountinfo")
_NO_CONTROLLERS = {"rw", "ro", "xattr", "noprefix", "clone_children", "cpuset_v2_mode"}
_REMOVE_SECONDS = 10.0
_POLL_SECONDS = 0.05
FIRST_PROCESS = "init.scope"
"""The folder of process 1."""


def service_folder(name: str) -> str:
    """The folder of a service of a node."""
    return f"system.slice/{name}.service"


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """One that the machine has mounted."""

    mounted: Path
    kind: Literal["cgroup", "cgroup2"]
    options: str
    """What to mount it with again: its controllers, or its name if it has none."""

    @property
    def groups_services(self) -> bool:
        """Whether systemd would keep services apart in it; in those of a v1 controller they stay at the root."""
        return self.kind == "cgroup2" or "name=" in self.options


def find_hierarchies(mounts: str | None = None) -> list[Hierarchy]:
    """Those of this machine; ``mounts`` is what ``/proc/self/mountinfo`` says."""
    found = []
    for line in (_MOUNTS.read_text() if mounts is None else mounts).splitlines():
        place, _, system = line.partition(" - ")
        root, mounted = place.split()[3:5]
        kind, _, options = system.split()[:3]
        if root != "/":
            continue  # a part of one, mounted for somebody else
        if kind == "cgroup2":
            found.append(Hierarchy(Path(mounted), "cgroup2", ""))
        elif kind == "cgroup":
            chosen = [each for each in options.split(",") if _matters(each)]
            named_only = all(each.startswith("name=") for each in chosen)
            found.append(Hierarchy(Path(mounted), "cgroup", ",".join(["none", *chosen] if named_only else chosen)))
    return found


def _matters(option: str) -> bool:
    return option not in _NO_CONTROLLERS and not option.startswith("release_agent=")


def make_folders(name: str) -> list[Path]:
    """Make a folder in every hierarchy and let it be used; returns them.

    Raises:
        EnvironmentLacks: no privilege, or no cgroups.
    """
    made = []
    try:
        for hierarchy in find_hierarchies():
            folder = hierarchy.mounted / name
            folder.mkdir(exist_ok=True)
            made.append(folder)
            for setting in ("cpuset.cpus", "cpuset.mems"):
                if hierarchy.kind == "cgroup" and (folder / setting).exists():
                    # Without them no process may enter.
                    (folder / setting).write_text((hierarchy.mounted / setting).read_text())
    except OSError as error:
        raise EnvironmentLacks(f"cgroup {name}: {error}; remedy: run as root, with cgroups writable") from error
    if not made:
        raise EnvironmentLacks("no cgroup hierarchy is mounted; remedy: mount one at /sys/fs/cgroup")
    return made


def remove_folders(name: str) -> None:
    """Remove these folders with all below; waits a little for their processes, which have been killed, to be gone.

    Raises:
        EnvironmentLacks: somebody is still in them.
    """
    deadline = time.monotonic() + _REMOVE_SECONDS
    for hierarchy in find_hierarchies():
        while not _removed(hierarchy.mounted / name):
            if time.monotonic() > deadline:
                raise EnvironmentLacks(f"cgroup {hierarchy.mounted / name} is still in use")
            time.sleep(_POLL_SECONDS)


def _removed(folder: Path) -> bool:
    """Remove what can be removed, from the bottom; whether that was all."""
    try:
        inner = [entry for entry in folder.iterdir() if entry.is_dir()]
    except FileNotFoundError:
        return True
    if [entry for entry in inner if not _removed(entry)]:
        return False
    try:
        folder.rmdir()
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return False
    return True
