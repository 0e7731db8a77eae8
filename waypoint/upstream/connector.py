"""Connections to endpoints through their tunnels: a stream of a tunnel from this waypoint to the endpoint's node."""

from __future__ import annotations

from collections.abc import Callable

from mesh.errors import MeshError
from mesh.hbone.codec import encode_connect, new_traceparent
from mesh.identity import SpiffeId
from mesh.relay.failures import unexpected
from mesh.relay.owned_tasks import OwnedTasks
from mesh.relay.pool import PoolKey, TunnelPool
from mesh.relay.tunnel import Tunnel
from waypoint.wire.contract import Wire
from waypoint.wire.dialling import Connector, Dial
from waypoint.wire.stream_wire import StreamWire

Report = Callable[[Wire | None, MeshError | None], None]


class TunnelConnector(Connector):
    """Dials one application through the tunnel of its workload."""

    __slots__ = ("_authority", "_baggage", "_key", "_pool", "_tasks")

    def __init__(self, pool: TunnelPool, tasks: OwnedTasks, key: PoolKey, authority: str, baggage: str) -> None:
        """Prepare.

        Args:
            pool: this waypoint's tunnels.
            tasks: where a tunnel that is not there yet is waited for.
            key: which tunnels lead there.
            authority: the application's address, for the CONNECT.
            baggage: what is said of this waypoint.
        """
        super().__init__()
        self._pool = pool
        self._tasks = tasks
        self._key = key
        self._authority = authority
        self._baggage = baggage

    def connect(self, report: Report) -> Dial:
        """See :class:`Connector`."""
        dial = _StreamDial(report)
        tunnel = self._pool.ready(self._key)
        if tunnel is None:
            self._tasks.start(self._connect_later, dial)
        else:
            self._open(tunnel, dial)
        return dial

    async def _connect_later(self, dial: _StreamDial) -> None:
        try:
            tunnel = await self._pool.checkout(self._key)
        except MeshError as error:
            dial.failed(error)
        except Exception as error:
            dial.failed(unexpected(error))
        else:
            if dial.report is not None:
                self._open(tunnel, dial)

    def _open(self, tunnel: Tunnel, dial: _StreamDial) -> None:
        proven = tunnel.peer_identity
        if proven != self.peer_identity:  # else the same object, by which metrics know it
            self.peer_identity = proven if isinstance(proven, SpiffeId) else None
        dial.wire = wire = StreamWire(tunnel)
        block = encode_connect(self._authority, baggage=self._baggage, traceparent=new_traceparent())
        wire.open(block, dial.answered)
        tunnel.output_ready()


class _StreamDial(Dial):
    """A stream that is being opened, or waits for its tunnel."""

    __slots__ = ("report", "wire")

    def __init__(self, report: Report) -> None:
        self.report: Report | None = report
        """None once it was told, or is not to be told any more."""
        self.wire: StreamWire | None = None

    def answered(self, error: MeshError | None) -> None:
        """The CONNECT was answered."""
        if error is not None:
            self.failed(error)
            return
        report, self.report = self.report, None
        if report is not None:
            report(self.wire, None)

    def failed(self, error: MeshError) -> None:
        """There will be no connection."""
        report, self.report = self.report, None
        if report is not None:
            report(None, error)

    def cancel(self) -> None:
        """See :class:`Dial`."""
        self.report = None
        if self.wire is not None:
            self.wire.reset()
