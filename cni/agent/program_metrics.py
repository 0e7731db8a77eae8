"""What the eBPF programs count, and how full their maps are, as metrics.

Counters are read at each scrape: two dozen system calls. To know how full a map is means to walk through it, so that is
done from time to time in a thread, and a scrape shows what was found last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Never, Protocol

import structlog
import trio
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from ebpf.counters import MapUsage
from ebpf.reasons import Reason
from mesh.errors import MeshError

_log = structlog.get_logger("programs")

INTERVAL = 15.0
"""Seconds between looks at the maps: how often metrics are usually scraped."""


class ReasonCounters(Protocol):
    """What is used of ``ebpf.counters.Counters``."""

    def read(self) -> Mapping[Reason, int]:
        """All counters; raises MeshError when the kernel refuses."""


class ProgramMetrics(Collector):
    """The families, for the agent's registry."""

    def __init__(self, counters: ReasonCounters) -> None:
        self._counters = counters
        self._usages: Sequence[MapUsage] = ()
        self._told: set[str] = set()

    def collect(self) -> Iterator[Metric]:
        """One scrape. Counters that cannot be read are left out, so that the page's other metrics are there."""
        events = CounterMetricFamily("ambimesh_ebpf_events", "What the eBPF programs did, by reason", labels=["reason"])
        try:
            for reason, count in self._counters.read().items():
                events.add_metric([reason.name.lower()], count)
        except MeshError as error:
            _log.error("counters cannot be read", reason=str(error))
        yield events
        entries = GaugeMetricFamily("ambimesh_ebpf_map_entries", "Entries of an eBPF map", labels=["map"])
        capacity = GaugeMetricFamily("ambimesh_ebpf_map_capacity", "Entries that fit in an eBPF map", labels=["map"])
        for usage in self._usages:
            entries.add_metric([usage.name], usage.entries)
            capacity.add_metric([usage.name], usage.capacity)
        yield from (entries, capacity)

    def found(self, usages: Iterable[MapUsage]) -> None:
        """Take over a look at the maps; warns of each that is nearly full, again only after it has had room."""
        self._usages = tuple(usages)
        for usage in self._usages:
            shown = {"map": usage.name, "entries": usage.entries, "capacity": usage.capacity}
            if usage.nearly_full and usage.name not in self._told:
                self._told.add(usage.name)
                _log.warning("map is nearly full", **shown)
            elif usage.name in self._told and _has_room(usage):
                self._told.remove(usage.name)
                _log.info("map has room again", **shown)


async def watch_maps(look: Callable[[], Iterable[MapUsage]], found: Callable[[Iterable[MapUsage]], None]) -> Never:
    """Look at the maps from time to time.

    Args:
        look: reads them; called in a thread, since it may take milliseconds.
        found: is told, here.
    """
    while True:
        try:
            found(await trio.to_thread.run_sync(look))
        except MeshError as error:
            _log.error("maps cannot be read", reason=str(error))
        await trio.sleep(INTERVAL)


def _has_room(usage: MapUsage) -> bool:
    """Whether it is well below nearly full, so that one entry more or less does not warn again and again."""
    return usage.entries * 4 < usage.capacity * 3
