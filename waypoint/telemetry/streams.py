"""What is told of connections that are no HTTP: ``istio_tcp_*`` and a line in the access log.

Counted as ztunnels count connections, with the reporter ``waypoint``, once it is known where a connection goes or that
it goes nowhere; bytes are brought up to date every second. The line is that of a request without a request in it: no
method, path or status, but the flags, the server name of TLS, and why it was refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mesh.clock import wall_seconds
from mesh.errors import MeshError, PolicyDenied, ResponseFlag
from mesh.identity import SpiffeId
from mesh.model.waypoint import Metric, Telemetry
from mesh.telemetry.metrics import ConnectionHandles, L4Labels, L4Metrics, WorkloadLabels
from waypoint.client import Client
from waypoint.http.message import RequestHead
from waypoint.telemetry.flags import DOWNSTREAM_CONNECTION_TERMINATION
from waypoint.telemetry.record import HttpVersion, RequestRecord
from waypoint.telemetry.request_log import RequestLog
from waypoint.telemetry.request_metrics import service_labels
from waypoint.upstream.endpoint import Endpoint

OF_STREAMS: Final = frozenset(
    {
        *(Metric.TCP_OPENED_CONNECTIONS, Metric.TCP_CLOSED_CONNECTIONS),
        *(Metric.TCP_SENT_BYTES, Metric.TCP_RECEIVED_BYTES),
    }
)


class StreamObserver:
    """Told of the connections to one destination."""

    def __init__(
        self,
        key: str,
        telemetry: Telemetry,
        metrics: L4Metrics,
        log: RequestLog | None,
        wall: Callable[[], float] = wall_seconds,
    ) -> None:
        """Prepare.

        Args:
            key: the destination's.
            telemetry: what it says.
            metrics: the process's.
            log: the destination's; None: nothing is logged.
            wall: seconds since 1970.
        """
        self.key = key
        self.metrics = None if set(telemetry.metrics_off) >= OF_STREAMS else metrics
        self.log = log
        self.wall = wall


class StreamNotes:
    """One connection, from its beginning to its end."""

    __slots__ = ("_client", "_endpoint", "_handles", "_name", "_observer", "_over", "_service", "_started")

    def __init__(self, observer: StreamObserver, client: Client, server_name: str | None, now: float) -> None:
        """``server_name`` is TLS's, None where there is no TLS; ``now`` is on the monotonic clock."""
        self._observer = observer
        self._client = client
        self._name = server_name or ""
        self._started = now
        self._service = ""
        self._endpoint: Endpoint | None = None
        self._handles: ConnectionHandles | None = None
        self._over = False

    def chosen(self, service: str, endpoint: Endpoint | None) -> None:
        """It is known where the connection goes: an endpoint of a service, or nowhere."""
        self._service, self._endpoint = service, endpoint
        metrics, client = self._observer.metrics, self._client
        if metrics is None:
            return
        workload = None if endpoint is None else endpoint.to.workload
        labels = L4Labels(
            "waypoint",
            WorkloadLabels.of(client.workload, client.identity),
            WorkloadLabels.of(workload, _proven(endpoint)),
            service_labels(service or self._observer.key),
            client.identity is not None,
        )
        self._handles = metrics.handles(labels)
        self._handles.opened()

    def moved(self, received: int, sent: int) -> None:
        """So many bytes more came from the client, and went to it."""
        if self._handles is not None:
            self._handles.received(received)
            self._handles.sent(sent)

    def over(
        self, now: float, received: int, sent: int, *, flag: int = 0, reason: str = "", error: MeshError | None = None
    ) -> None:
        """It has ended.

        Args:
            now: on the monotonic clock.
            received: bytes from the client, in all.
            sent: bytes to it.
            flag: bits of ``waypoint.telemetry.flags``.
            reason: why it was refused or cut; empty if it ended by itself.
            error: what broke it.
        """
        if self._over:
            return
        self._over = True
        if self._handles is None:
            self.chosen("", None)
        if self._handles is not None:
            self._handles.closed()
            if flag or reason or error is not None:
                self._handles.failed(error.response_flag if error is not None else ResponseFlag.CONNECT)
        log = self._observer.log
        if log is not None:
            log.write(self._record(now, received, sent, flag, reason or ("" if error is None else str(error)), error))

    def _record(
        self, now: float, received: int, sent: int, flag: int, reason: str, error: MeshError | None
    ) -> RequestRecord:
        nothing = RequestHead(method=b"", path=b"", authority=b"", scheme=b"")
        wall = self._observer.wall() - (now - self._started)
        record = RequestRecord(self._client, self._observer.key, nothing, HttpVersion.NONE, self._started, wall)
        record.ended, record.request_bytes, record.response_bytes, record.flags = now, received, sent, flag
        record.server_name, record.upstream_service = self._name, self._service
        if isinstance(error, PolicyDenied) or flag & DOWNSTREAM_CONNECTION_TERMINATION:
            record.termination = reason.replace(" ", "_")
        elif reason:
            record.transport_failure = reason
        endpoint = self._endpoint
        if endpoint is not None:
            record.endpoint, record.upstream_address = endpoint.to.workload, endpoint.to.target
            record.peer_identity = _proven(endpoint)
        return record


def _proven(endpoint: Endpoint | None) -> SpiffeId | None:
    """Who the endpoint is, where its tunnel is not used before the one identity that is admitted has been proven."""
    if endpoint is None or endpoint.to.tunnel is None or len(endpoint.to.expected_identities) != 1:
        return None
    return endpoint.to.workload.identity
