"""Adding up what workers count.

Every worker tells what its counters have gained; here they are added to the node's, which is what a scrape shows. So
the node's counters never go back when a worker ends. What a worker had open when it ended without a word is closed for
it, as failed; what it had moved since it last told is lost.
"""

from __future__ import annotations

from collections import Counter
from typing import cast

import structlog

from mesh.errors import ResponseFlag
from mesh.telemetry.metrics import ConnectionHandles, L4Labels, L4Metrics, Reporter, ServiceLabels, WorkloadLabels
from ztunnel.fanout.messages_codec import Counts, Labels

_log = structlog.get_logger("supervisor")

_REPORTERS: tuple[Reporter, Reporter] = ("source", "destination")


class WorkerCounts:
    """One worker's part of the node's counters."""

    def __init__(self, metrics: L4Metrics) -> None:
        self._metrics = metrics
        self._labels: dict[int, L4Labels] = {}
        self._open: Counter[int] = Counter()
        self._sockets = (0, 0)
        self.pending = 0
        """Pods that the worker could not serve yet."""

    def add(self, counts: Counts) -> None:
        """What the worker tells."""
        for number, labels in counts.labels.items():
            self._labels[number] = _labels(labels)
        for series in counts.series:
            known = self._labels.get(series.labels)
            if known is None:
                _log.error("counts of labels that were never named", labels=series.labels)
                continue
            handles = self._metrics.handles(known)
            handles.opened_count += series.opened
            handles.sent(series.sent)
            handles.received(series.received)
            for flag, number in series.failures.items():
                _fail(handles, ResponseFlag(flag), number)
            handles.closed_count += series.closed
            self._open[series.labels] += series.opened - series.closed
            if not self._open[series.labels]:
                del self._open[series.labels]
        self._set_sockets(counts.sockets)
        self.pending = counts.pending

    def end(self) -> int:
        """The worker has ended: close what it had open. Returns how many connections that were."""
        lost = 0
        for number, still_open in self._open.items():
            handles = self._metrics.handles(self._labels[number])
            _fail(handles, ResponseFlag.NONE, still_open)
            handles.closed_count += still_open
            lost += still_open
        self._open.clear()
        self._labels.clear()
        self._set_sockets((0, 0))
        self.pending = 0
        return lost

    def _set_sockets(self, sockets: tuple[int, int]) -> None:
        for reporter, before, now in zip(_REPORTERS, self._sockets, sockets, strict=True):
            self._metrics.sockets_open[reporter] += now - before
        self._sockets = sockets


def _fail(handles: ConnectionHandles, flag: ResponseFlag, number: int) -> None:
    if handles.failures is None:
        handles.failures = {}
    handles.failures[flag] = handles.failures.get(flag, 0) + number


def _labels(labels: Labels) -> L4Labels:
    reporter, source, destination, service, mutual_tls = labels
    return L4Labels(
        cast("Reporter", reporter),
        WorkloadLabels(*source),
        WorkloadLabels(*destination),
        ServiceLabels(*service),
        mutual_tls,
    )
