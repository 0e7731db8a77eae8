"""What a cluster left on the machine: looked for by its name and by the namespaces its processes were in."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.kit.cgroups import find_hierarchies

_KINDS = ("cgroup", "mnt", "net", "pid", "uts")


@dataclass(frozen=True, slots=True)
class Traces:
    """What tells a cluster's things from others', noted while it runs."""

    name: str
    """Of its folder, which its cgroups' names begin with."""
    namespaces: frozenset[str]
    """Those of its processes that are not the machine's, as ``net:[4026531840]``."""

    @classmethod
    def of(cls, folder: Path) -> Traces:
        """Those of a cluster that runs."""
        pids = list(_processes(folder.name))
        ours = _namespaces("self")
        found = frozenset(each for pid in pids for each in _namespaces(pid))
        return cls(folder.name, found - ours)

    def left(self) -> list[str]:
        """What is still there, one line each."""
        found = [f"process {pid}: {_command_line(pid)}" for pid in _processes(self.name)]
        for entry in _pids():
            shared = self.namespaces & _namespaces(entry)
            found += [f"namespace {each}, held by process {entry}: {_command_line(entry)}" for each in sorted(shared)]
        for hierarchy in find_hierarchies():
            found += [f"cgroup {group}" for group in hierarchy.mounted.glob(f"{self.name}*")]
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            if self.name in line or any(each in line for each in self.namespaces):
                found.append(f"mount {line}")
        folder = Path(os.environ.get("TMPDIR", "/tmp")) / self.name
        return found + ([f"folder {folder}"] if folder.exists() else [])


def _pids() -> Iterator[str]:
    return (entry for entry in os.listdir("/proc") if entry.isdigit())


def _processes(name: str) -> Iterator[str]:
    """Processes that have the name in their arguments or their cgroups."""
    for pid in _pids():
        try:
            ours = name in _command_line(pid) or name in Path(f"/proc/{pid}/cgroup").read_text()
            if ours and _state(pid) != "Z":
                yield pid
        except OSError:
            continue  # it has just ended


def _state(pid: str) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def _command_line(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def _namespaces(pid: str) -> frozenset[str]:
    found = set()
    for kind in _KINDS:
        try:
            found.add(os.readlink(f"/proc/{pid}/ns/{kind}"))
        except OSError:
            continue  # a kernel thread of another user, or it has just ended
    return frozenset(found)
