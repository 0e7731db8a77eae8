"""Memory and processor time of all processes of one ztunnel, for Prometheus."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_KIB: Final = 1024


class ProcessesCollector(Collector):
    """The families ``ztunnel_process_*``, read from ``/proc`` when somebody scrapes.

    Args:
        processes: the name and id of each process that runs now.
    """

    def __init__(self, processes: Callable[[], dict[str, int]], proc: Path = Path("/proc")) -> None:
        self._processes = processes
        self._proc = proc

    def describe(self) -> Iterable[Metric]:
        """Nothing ahead of time."""
        return []

    def collect(self) -> Iterable[Metric]:
        """What the kernel says of each."""
        resident = GaugeMetricFamily(
            "ztunnel_process_resident_memory_bytes",
            "Memory in use, what is shared counted in full.",
            labels=["process"],
        )
        own = GaugeMetricFamily(
            "ztunnel_process_proportional_memory_bytes",
            "Memory in use, what is shared divided among those who share it.",
            labels=["process"],
        )
        seconds = CounterMetricFamily(
            "ztunnel_process_cpu_seconds", "Processor time of the process that runs now.", labels=["process"]
        )
        for name, pid in self._processes().items():
            try:
                rollup = _rollup((self._proc / str(pid) / "smaps_rollup").read_text())
                fields = (self._proc / str(pid) / "stat").read_text().rpartition(")")[2].split()
            except (OSError, ValueError):
                continue  # it has just ended
            resident.add_metric([name], rollup["Rss"])
            own.add_metric([name], rollup["Pss"])
            seconds.add_metric([name], (int(fields[11]) + int(fields[12])) / _TICKS)
        return [resident, own, seconds]


def _rollup(text: str) -> dict[str, int]:
    """Bytes by name."""
    found: dict[str, int] = {}
    for line in text.splitlines()[1:]:
        name, _, rest = line.partition(":")
        found[name] = int(rest.split()[0]) * _KIB
    return found
