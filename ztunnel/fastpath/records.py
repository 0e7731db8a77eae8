"""Metrics and access records of fast connections, which never come through this process.

Each is recorded twice, as its two ends would be: by the client's pod (outbound) and by the server's (inbound). What
ended between two looks at the kernel's tables is recorded without ever having been seen alive.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass

from ebpf.fastpath.tables import FastPathConnection
from mesh.addresses import SocketAddress
from mesh.errors import MeshError
from mesh.telemetry.access_log import AccessLog, ConnectionRecord, Direction, NoMtls
from mesh.telemetry.metrics import ConnectionHandles, L4Labels, L4Metrics, Reporter, ServiceLabels, WorkloadLabels
from ztunnel.pod import Pod

_REPORTERS: dict[Direction, Reporter] = {"outbound": "source", "inbound": "destination"}


@dataclass(frozen=True, slots=True)
class Ends:
    """Who a fast connection is between, as far as this ztunnel knows."""

    source: Pod | None
    destination: Pod | None
    service: ServiceLabels


class _Side:
    """One of the two records of a connection, and its counters."""

    __slots__ = ("counted_received", "counted_sent", "handles", "record")

    def __init__(self, record: ConnectionRecord, handles: ConnectionHandles) -> None:
        self.record = record
        self.handles = handles
        self.counted_sent = 0
        self.counted_received = 0

    def count(self, client_sent: int, server_sent: int) -> None:
        handles, record = self.handles, self.record
        handles.received(client_sent - self.counted_received)
        handles.sent(server_sent - self.counted_sent)
        self.counted_received, self.counted_sent = client_sent, server_sent
        outbound = record.direction == "outbound"
        record.bytes_sent = client_sent if outbound else server_sent
        record.bytes_received = server_sent if outbound else client_sent


class FastConnectionRecords:
    """Counts and records."""

    def __init__(
        self, metrics: L4Metrics, access_log: AccessLog, ends_of: Callable[[FastPathConnection], Ends]
    ) -> None:
        self._metrics = metrics
        self._access_log = access_log
        self._ends_of = ends_of
        self._live: dict[int, tuple[_Side, _Side]] = {}
        self._missing: set[int] = set()

    def __len__(self) -> int:
        return len(self._live)

    def seen(self, connection: FastPathConnection) -> None:
        """It is alive, with these bytes so far."""
        sides = self._live.get(connection.cookie)
        if sides is None:
            sides = self._live[connection.cookie] = self._open(connection)
        for side in sides:
            side.count(connection.sent, connection.received)

    def ended(self, connection: FastPathConnection, error: MeshError | None) -> None:
        """It is over; called once for each."""
        sides = self._live.pop(connection.cookie, None) or self._open(connection)
        seconds = (connection.closed_at - connection.opened_at) / 1e9
        for side in sides:
            side.count(connection.sent, connection.received)
            if error is not None:
                side.handles.failed(error.response_flag)
            side.handles.closed()
            self._metrics.sockets_open[_REPORTERS[side.record.direction]] -= 1
            self._access_log.record(side.record, seconds, error)

    def end_lost(self, alive: Set[int]) -> None:
        """End what is alive no more and left no record since this was last called: the kernel had no room for it."""
        missing = self._live.keys() - alive
        for cookie in missing & self._missing:
            for side in self._live.pop(cookie):
                side.handles.closed()
                self._metrics.sockets_open[_REPORTERS[side.record.direction]] -= 1
        self._missing = missing

    def _open(self, connection: FastPathConnection) -> tuple[_Side, _Side]:
        ends = self._ends_of(connection)
        return self._side("outbound", connection, ends), self._side("inbound", connection, ends)

    def _side(self, direction: Direction, connection: FastPathConnection, ends: Ends) -> _Side:
        source, destination = ends.source, ends.destination
        record = ConnectionRecord(
            direction=direction,
            source=connection.source,
            destination=SocketAddress(connection.destination.ip, connection.destination.port),
            source_workload=None if source is None else source.workload,
            destination_workload=None if destination is None else destination.workload,
            source_identity=None if source is None else source.identity,
            destination_identity=None if destination is None else destination.identity,
            no_mtls=NoMtls.FAST_PATH,
            fast_path=True,
        )
        service = ServiceLabels()
        if direction == "outbound":
            service = ends.service
            if service != ServiceLabels():
                record.destination_service = service.hostname
        labels = L4Labels(
            _REPORTERS[direction],
            WorkloadLabels.of(record.source_workload, record.source_identity),
            WorkloadLabels.of(record.destination_workload, record.destination_identity),
            service,
            False,
        )
        handles = self._metrics.handles(labels)
        handles.opened()
        self._metrics.sockets_open[_REPORTERS[direction]] += 1
        self._access_log.opened(record)
        return _Side(record, handles)
