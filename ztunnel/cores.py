"""How many cores this process may use, which is how many workers ``auto`` means."""

from __future__ import annotations

import math
import os
from pathlib import Path

from ebpf.layout import MAX_WORKERS


def available_cores(
    cgroup: Path = Path("/proc/self/cgroup"), hierarchy: Path = Path("/sys/fs/cgroup")
) -> int:
    """Cores by the process's affinity and by the processor quota of its control groups; at least 1.

    Args:
        cgroup: which names the process's own, as ``0::/path``.
        hierarchy: where cgroup v2 is mounted.
    """
    cores = len(os.sched_getaffinity(0))
    try:
        path = next(line[3:] for line in cgroup.read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return cores
    folder = hierarchy / path.lstrip("/")
    while True:
        cores = min(cores, _quota(folder))
        if folder == hierarchy or hierarchy not in folder.parents:
            return max(1, cores)
        folder = folder.parent


def _quota(folder: Path) -> int:
    """What ``cpu.max`` of one group comes to, rounded up: 1.5 cores keep two workers busy most of the time."""
    try:
        quota, period = (folder / "cpu.max").read_text().split()
        return MAX_WORKERS if quota == "max" else math.ceil(int(quota) / int(period))
    except (OSError, ValueError, ZeroDivisionError):
        return MAX_WORKERS  # the root has no such file


def number_of_workers(wanted: int | str) -> int:
    """How many workers the setting means here."""
    return min(MAX_WORKERS, available_cores()) if isinstance(wanted, str) else wanted
