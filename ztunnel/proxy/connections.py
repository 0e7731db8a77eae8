"""The table of connections that are alive, and the one place where they are counted and recorded.

Every application connection is in the table from its acceptance to its end, and leaves it exactly once: then its bytes
are added to its counters, its access record is written, and the table forgets it. Bytes are added to the counters while
it lives, too, whenever metrics are read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final, Protocol

from mesh.addresses import SocketAddress
from mesh.errors import MeshError
from mesh.rbac import ConnectionFacts
from mesh.telemetry.access_log import AccessLog, ConnectionRecord, Direction
from mesh.telemetry.metrics import ConnectionHandles, L4Labels, L4Metrics, Reporter, ServiceLabels, WorkloadLabels
from ztunnel.pod import Pod


class Relayed(Protocol):
    """What the relay makes of a connection."""

    @property
    def sent(self) -> int:
        """Bytes read from the socket this node accepted or dialled for its own pod's connection."""

    @property
    def received(self) -> int:
        """Bytes the other way."""

    def cut(self, error: MeshError) -> None:
        """End the connection now."""


class Connection:
    """One application connection."""

    __slots__ = ("_counted_received", "_counted_sent", "end", "facts", "handles", "pod", "record", "started", "swapped")

    def __init__(self, pod: Pod, record: ConnectionRecord) -> None:
        self.pod = pod
        self.record = record
        self.started = time.monotonic()
        self.handles: ConnectionHandles | None = None
        self.facts: ConnectionFacts | None = None
        """What RBAC decides on; None for outbound connections, which the far side decides about."""
        self.end: Relayed | None = None
        self.swapped = False
        """The accepted socket is the peer's, not the pod's: ``end.sent`` is what the pod received."""
        self._counted_sent = 0
        self._counted_received = 0

    def count_bytes(self) -> None:
        """Bring record and counters up to date with what the relay has moved."""
        end = self.end
        if end is None:
            return
        sent, received = (end.received, end.sent) if self.swapped else (end.sent, end.received)
        record = self.record
        record.bytes_sent = sent
        record.bytes_received = received
        handles = self.handles
        if handles is None:
            return
        # Metrics name bytes from the server's point of view: "sent" is the response.
        if record.direction == "outbound":
            sent, received = received, sent
        if sent != self._counted_sent:
            handles.sent(sent - self._counted_sent)
            self._counted_sent = sent
        if received != self._counted_received:
            handles.received(received - self._counted_received)
            self._counted_received = received


_KEPT_LABELS: Final = 4096
_REPORTERS: Final[dict[Direction, Reporter]] = {"inbound": "destination", "outbound": "source"}


class ConnectionTable:
    """All connections of this ztunnel."""

    def __init__(self, metrics: L4Metrics, access_log: AccessLog) -> None:
        self._metrics = metrics
        self._access_log = access_log
        self._alive: set[Connection] = set()
        self._labels: dict[tuple[object, ...], tuple[L4Labels, object]] = {}
        self._on_empty: Callable[[], None] | None = None
        self._on_dialled_over: Callable[[float, float], None] | None = None
        self.begun = 0
        """Connections so far."""

    def __len__(self) -> int:
        return len(self._alive)

    def __iter__(self) -> Iterator[Connection]:
        return iter(list(self._alive))

    def of_pod(self, pod: Pod) -> list[Connection]:
        """Those of one pod."""
        return [connection for connection in self._alive if connection.pod is pod]

    def begin(
        self, pod: Pod, direction: Direction, source: SocketAddress, destination: SocketAddress
    ) -> Connection:
        """A connection was accepted."""
        connection = Connection(pod, ConnectionRecord(direction=direction, source=source, destination=destination))
        self._alive.add(connection)
        self.begun += 1
        self._metrics.sockets_open[_REPORTERS[direction]] += 1
        return connection

    def described(self, connection: Connection, service: ServiceLabels) -> None:
        """Source and destination are known: from here on the connection is counted under their labels."""
        if connection.handles is not None:
            return
        labels = self._labels_of(connection.record, service)
        connection.handles = self._metrics.handles(labels)
        connection.handles.opened()
        self._access_log.opened(connection.record)

    def _labels_of(self, record: ConnectionRecord, service: ServiceLabels) -> L4Labels:
        """Labels are the same for all connections of two workloads; all are told apart by object."""
        source, destination = record.source_workload, record.destination_workload
        key = (
            id(source),
            id(destination),
            id(record.source_identity),
            id(record.destination_identity),
            service,
            record.direction,
            record.no_mtls is None,
        )
        kept = self._labels.get(key)
        if kept is None:
            labels = L4Labels(
                _REPORTERS[record.direction],
                WorkloadLabels.of(source, record.source_identity),
                WorkloadLabels.of(destination, record.destination_identity),
                service,
                record.no_mtls is None,
            )
            if len(self._labels) >= _KEPT_LABELS:
                self._labels.clear()
            # What the numbers stand for is kept, too, so that they are not given to others.
            alive = (source, destination, record.source_identity, record.destination_identity)
            kept = self._labels[key] = (labels, alive)
        return kept[0]

    def finished(self, connection: Connection, error: MeshError | None) -> None:
        """The connection is over; called once."""
        if connection not in self._alive:
            return
        self._alive.discard(connection)
        record = connection.record
        self._metrics.sockets_open[_REPORTERS[record.direction]] -= 1
        connection.count_bytes()
        handles = connection.handles
        if handles is None:
            # It failed before both ends were known: what is known are its labels.
            self.described(connection, ServiceLabels())
            handles = connection.handles
        if handles is not None:
            if error is not None:
                handles.failed(error.response_flag)
            handles.closed()
        now = time.monotonic()
        self._access_log.record(record, now - connection.started, error)
        if self._on_dialled_over is not None and record.direction == "outbound":
            self._on_dialled_over(now, now - connection.started)
        connection.end = None
        if self._on_empty is not None and not self._alive:
            self._on_empty()

    def count_all(self) -> None:
        """Bring all counters up to date; called when metrics are read."""
        for connection in self._alive:
            connection.count_bytes()

    def when_empty(self, call: Callable[[], None]) -> None:
        """Call this whenever the last connection ends."""
        self._on_empty = call

    def when_dialled_over(self, call: Callable[[float, float], None]) -> None:
        """Call this whenever a connection that an application of ours has made ends, with the monotonic time and the
        seconds that it lived.
        """
        self._on_dialled_over = call

    def cut_all(self, error: MeshError) -> None:
        """End every connection."""
        for connection in self:
            if connection.end is not None:
                connection.end.cut(error)
