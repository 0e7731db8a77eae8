"""Metrics and access records of fast connections, which never come through this process.

Each is recorded twice, as its two ends would be: by the client's pod (outbound) and by the server's (inbound). What
ended between two looks at the kernel's tables is recorded without ever having been seen alive.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set
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

    __slots__ = ("between", "counted_received", "counted_sent", "handles", "record")

    def __init__(self, record: ConnectionRecord, handles: ConnectionHandles) -> None:
        self.record = record
        self.handles = handles
        self.between: str | None = None
        self.counted_sent = 0
        self.counted_received = 0

    def begin_again(self, source: SocketAddress) -> None:
        """Be the side of another connection of the same two workloads."""
        self.record.source = source
        self.counted_sent = self.counted_received = 0
        self.handles.opened()

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
        self._alike: dict[tuple[int, int, SocketAddress, SocketAddress], tuple[_Side, _Side]] = {}

    def __len__(self) -> int:
        return len(self._live)

    def seen(self, connection: FastPathConnection) -> None:
        """It is alive, with these bytes so far."""
        sides = self._live.get(connection.cookie)
        if sides is None:
            sides = self._live[connection.cookie] = self._open(connection)
        for side in sides:
            side.count(connection.sent, connection.received)

    def ended_all(self, connections: Iterable[tuple[FastPathConnection, MeshError | None]]) -> None:
        """These are over; each is told once. No task may run in between, so what many have in common is found once."""
        self._alike.clear()
        for connection, error in connections:
            self.ended(connection, error)
        self._alike.clear()

    def ended(self, connection: FastPathConnection, error: MeshError | None) -> None:
        """It is over; called once for each."""
        sides = self._live.pop(connection.cookie, None) or self._open_again(connection)
        seconds = (connection.closed_at - connection.opened_at) / 1e9
        for side in sides:
            side.count(connection.sent, connection.received)
            if error is not None:
                side.handles.failed(error.response_flag)
            side.handles.closed()
            self._metrics.sockets_open[_REPORTERS[side.record.direction]] -= 1
            self._access_log.record(side.record, seconds, error, side.between)

    def end_lost(self, alive: Set[int]) -> None:
        """End what is alive no more and left no record since this was last called: the kernel had no room for it."""
        missing = self._live.keys() - alive
        for cookie in missing & self._missing:
            for side in self._live.pop(cookie):
                side.handles.closed()
                self._metrics.sockets_open[_REPORTERS[side.record.direction]] -= 1
        self._missing = missing

    def _open_again(self, connection: FastPathConnection) -> tuple[_Side, _Side]:
        """Open what is over already: most connections are not seen alive, and many are alike."""
        key = connection.source_netns, connection.destination_netns, connection.destination, connection.dialled
        sides = self._alike.get(key)
        if sides is None:
            sides = self._alike[key] = self._open(connection)
            for side in sides:
                side.between = self._access_log.between(side.record)
            return sides
        for side in sides:
            side.begin_again(connection.source)
            self._metrics.sockets_open[_REPORTERS[side.record.direction]] += 1
            self._access_log.opened(side.record)
        return sides

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
