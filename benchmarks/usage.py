"""CPU time and memory, from /proc and the cgroup hierarchy (proc(5), the kernel's cgroup-v2 document).

CPU time of a subject's proxies is that of their cgroups, which counts processes that have ended meanwhile too. Beside
it the machine's busy time and that of the whole lab are taken: what is busy and not the lab's own disturbs the
measurement, and is reported with it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ambimesh.lab.cgroups import processes_in

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Usage:
    """Counters at one moment, or their growth between two; all in seconds."""

    at: float
    """Monotonic clock."""
    proxies: float
    lab: float
    machine: float

    def since(self, before: Usage) -> Usage:
        """The growth from ``before`` to this one."""
        return Usage(
            self.at - before.at,
            self.proxies - before.proxies,
            self.lab - before.lab,
            self.machine - before.machine,
        )

    @property
    def others(self) -> float:
        """Of a growth: how many cores were busy with something that is not the lab's."""
        return max(0.0, self.machine - self.lab) / self.at


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of memory of some processes together."""

    resident: int
    """The sum of each one's: what several share counts several times."""
    proportional: int
    """The same, but of a page that N processes share each is charged the Nth part (proc(5), Pss)."""


class Meter:
    """Reads the counters of one lab and, in it, of some proxies' cgroups."""

    def __init__(self, lab: Path, proxies: Iterable[Path]) -> None:
        self._lab = lab
        self._proxies = tuple(proxies)

    def read(self) -> Usage:
        """The counters now."""
        proxies = sum(cgroup_seconds((cgroup / "cpu.stat").read_text()) for cgroup in self._proxies)
        lab = cgroup_seconds((self._lab / "cpu.stat").read_text())
        machine = busy_seconds(Path("/proc/stat").read_text())
        return Usage(time.monotonic(), proxies, lab, machine)


def memory_of(cgroup: Path) -> Memory:
    """The memory of the processes of a cgroup."""
    found = [process_memory(text) for text in _texts(cgroup, "smaps_rollup")]
    return Memory(sum(one.resident for one in found), sum(one.proportional for one in found))


def _texts(cgroup: Path, name: str) -> list[str]:
    texts: list[str] = []
    for pid in processes_in(cgroup):
        try:
            texts.append(Path(f"/proc/{pid}/{name}").read_text(errors="replace"))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
    return texts


def process_memory(smaps_rollup: str) -> Memory:
    """Memory of a process from its ``/proc/PID/smaps_rollup``; none for a zombie, of which that is empty."""
    found = {"Rss": 0, "Pss": 0}
    for line in smaps_rollup.splitlines():
        name, _, rest = line.partition(":")
        if name in found:
            found[name] = int(rest.split()[0]) * 1024
    return Memory(found["Rss"], found["Pss"])


def cgroup_seconds(cpu_stat: str) -> float:
    """CPU seconds that a cgroup and all below it have used, from its ``cpu.stat``."""
    values = dict(line.split() for line in cpu_stat.splitlines())
    return int(values["usage_usec"]) / 1e6


def busy_seconds(stat: str) -> float:
    """CPU seconds in which the machine did something, from ``/proc/stat``; time a hypervisor took away included."""
    user, nice, system, _idle, _waiting, *rest = (int(field) for field in stat.splitlines()[0].split()[1:9])
    return (user + nice + system + sum(rest)) / _TICKS_PER_SECOND
