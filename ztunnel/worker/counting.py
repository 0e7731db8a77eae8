"""What a worker's counters have gained, for the supervisor to add up."""

from __future__ import annotations

from itertools import count

from mesh.telemetry.metrics import ConnectionHandles, L4Labels, L4Metrics
from ztunnel.fanout.messages_codec import Counts, Labels, Series


class _Known:
    """A label set that was mentioned, and its counters as they were told last."""

    __slots__ = ("closed", "failures", "handles", "number", "opened", "received", "sent")

    def __init__(self, number: int, handles: ConnectionHandles) -> None:
        self.number = number
        self.handles = handles
        self.opened = self.closed = self.sent = self.received = 0
        self.failures: dict[str, int] = {}

    def gained(self) -> Series | None:
        """The difference since this was last asked; None if there is none."""
        handles = self.handles
        opened, closed = handles.opened_count - self.opened, handles.closed_count - self.closed
        sent, received = handles.sent_bytes - self.sent, handles.received_bytes - self.received
        if not (opened or closed or sent or received):
            return None  # whatever fails is closed, too
        failures: dict[str, int] = {}
        for flag, number in (handles.failures or {}).items():
            more = number - self.failures.get(flag.value, 0)
            if more:
                failures[flag.value] = more
                self.failures[flag.value] = number
        self.opened, self.closed = handles.opened_count, handles.closed_count
        self.sent, self.received = handles.sent_bytes, handles.received_bytes
        return Series(self.number, opened, closed, sent, received, failures)


class Counting:
    """Makes ``Counts`` of the connections' counters."""

    def __init__(self, metrics: L4Metrics) -> None:
        self._metrics = metrics
        self._known: dict[L4Labels, _Known] = {}
        self._numbers = count(1)

    def gained(self, pending: int) -> Counts:
        """What is new since the last call.

        Args:
            pending: pods that could not be served yet.
        """
        labels: dict[int, Labels] = {}
        found: list[Series] = []
        before, self._known = self._known, {}
        for key, handles in self._metrics.series():
            known = before.get(key)
            if known is None or known.handles is not handles:  # new, or dropped as idle and made anew
                known = _Known(next(self._numbers), handles)
                labels[known.number] = (key.reporter, key.source, key.destination, key.service, key.mutual_tls)
            self._known[key] = known
            series = known.gained()
            if series is not None:
                found.append(series)
        sockets = self._metrics.sockets_open
        return Counts(
            labels=labels, series=found, sockets=(sockets["source"], sockets["destination"]), pending=pending
        )
