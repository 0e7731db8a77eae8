"""Metrics: what the mesh counts, and how it is shown to Prometheus.

Theory of operation. The counters of connections are touched for every connection and every batch of bytes, on one
thread. prometheus_client's counters are floats behind a lock: 0.4 microseconds a step once the child is at hand, and 2
to find it by its labels. So a connection holds a ``ConnectionHandles``: plain integers, found once by their label set,
which a collector reads when somebody scrapes. One registry per process carries these and everything else.

Cardinality is bounded. A label set whose connections have all closed is dropped after a while without change (its
workload has probably gone), and the least recently used idle one at once when there are too many; Prometheus takes the
restart from zero as a counter's reset. Should all be in use, further connections share a set of ``unknown`` labels, so
no total is ever short.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Final, Literal, NamedTuple

import trio
from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from mesh.errors import ResponseFlag
from mesh.identity import SpiffeId
from mesh.model.service import Service
from mesh.model.workload import Workload
from mesh.telemetry.exposition import CONTENT_TYPE, PreparedFamily, Row, label_text, render
from mesh.telemetry.http_endpoint import Handler, HttpRequest, HttpResponse

UNKNOWN: Final = "unknown"

Reporter = Literal["source", "destination"]
"""Which end of the connection counts: the client's ztunnel or the server's."""


class WorkloadLabels(NamedTuple):
    """One end of a connection."""

    workload: str = UNKNOWN
    canonical_service: str = UNKNOWN
    canonical_revision: str = UNKNOWN
    workload_namespace: str = UNKNOWN
    principal: str = UNKNOWN
    cluster: str = UNKNOWN
    region: str = UNKNOWN
    zone: str = UNKNOWN

    @staticmethod
    def of(workload: Workload | None, principal: SpiffeId | None) -> WorkloadLabels:
        """Labels of a workload, if known, and of its identity, if it was proven by mutual TLS."""
        proven = UNKNOWN if principal is None else str(principal)
        if workload is None:
            return WorkloadLabels(principal=proven)
        locality = workload.locality
        return WorkloadLabels(
            workload.workload_name or UNKNOWN,
            workload.canonical_name or UNKNOWN,
            workload.canonical_revision or UNKNOWN,
            workload.namespace or UNKNOWN,
            proven,
            workload.cluster_id or UNKNOWN,
            locality.region or UNKNOWN,
            locality.zone or UNKNOWN,
        )


class ServiceLabels(NamedTuple):
    """The service by whose address the connection was made."""

    hostname: str = UNKNOWN
    namespace: str = UNKNOWN
    name: str = UNKNOWN

    @staticmethod
    def of(service: Service | None) -> ServiceLabels:
        """Labels of a service, if one was dialled."""
        return NO_SERVICE if service is None else ServiceLabels(service.hostname, service.namespace, service.name)


NO_SERVICE: Final = ServiceLabels()
NO_WORKLOAD: Final = WorkloadLabels()


class L4Labels(NamedTuple):
    """What tells one series of connections from another."""

    reporter: Reporter
    source: WorkloadLabels = NO_WORKLOAD
    destination: WorkloadLabels = NO_WORKLOAD
    service: ServiceLabels = NO_SERVICE
    mutual_tls: bool = False

    def values(self) -> tuple[str, ...]:
        """The values of ``L4_LABELS``, all but the last, ``response_flags``."""
        source, destination, service = self.source, self.destination, self.service
        return (
            self.reporter,
            source.workload,
            source.canonical_service,
            source.canonical_revision,
            source.workload_namespace,
            source.principal,
            source.canonical_service,
            source.canonical_revision,
            source.cluster,
            source.region,
            source.zone,
            service.hostname,
            service.namespace,
            service.name,
            destination.workload,
            destination.canonical_service,
            destination.canonical_revision,
            destination.workload_namespace,
            destination.principal,
            destination.canonical_service,
            destination.canonical_revision,
            destination.cluster,
            destination.region,
            destination.zone,
            "tcp",
            "mutual_tls" if self.mutual_tls else UNKNOWN,
        )


_END: Final = (
    *("workload", "canonical_service", "canonical_revision", "workload_namespace", "principal"),
    *("app", "version", "cluster", "region", "zone"),
)
L4_LABELS: Final = (
    "reporter",
    *(f"source_{name}" for name in _END),
    "destination_service",
    "destination_service_namespace",
    "destination_service_name",
    *(f"destination_{name}" for name in _END),
    "request_protocol",
    "connection_security_policy",
    "response_flags",
)


class ConnectionHandles:
    """The counters of one label set; one thread writes them.

    The relay engine may add to ``sent_bytes`` and ``received_bytes`` itself. Bytes are named as Istio names them:
    *sent* by the server, that is the response, and *received* by it.
    """

    __slots__ = ("closed_count", "failures", "opened_count", "received_bytes", "sent_bytes")

    def __init__(self) -> None:
        self.opened_count = 0
        self.closed_count = 0
        self.sent_bytes = 0
        self.received_bytes = 0
        self.failures: dict[ResponseFlag, int] | None = None

    def opened(self) -> None:
        """An application's connection was accepted."""
        self.opened_count += 1

    def closed(self) -> None:
        """It is over, however it ended."""
        self.closed_count += 1

    def failed(self, flag: ResponseFlag = ResponseFlag.NONE) -> None:
        """It ended badly; ``closed`` is called besides."""
        if self.failures is None:
            self.failures = {}
        self.failures[flag] = self.failures.get(flag, 0) + 1

    def sent(self, count: int) -> None:
        """Bytes of response."""
        self.sent_bytes += count

    def received(self, count: int) -> None:
        """Bytes of request."""
        self.received_bytes += count


class _Series:
    """A label set's handles, and since when nothing has happened to them."""

    __slots__ = ("_texts", "_values", "handles", "idle_since", "seen")

    def __init__(self, labels: L4Labels) -> None:
        self.handles = ConnectionHandles()
        self._values = labels.values()
        self._texts: dict[ResponseFlag, str] = {}
        self.seen = (0, 0)
        self.idle_since: float | None = None

    def in_use(self) -> bool:
        return self.handles.opened_count != self.handles.closed_count

    def row(self, flag: ResponseFlag, value: int) -> Row:
        """A sample of this series."""
        values = (*self._values, flag.value)
        text = self._texts.get(flag)
        if text is None:
            text = self._texts[flag] = label_text(L4_LABELS, values)
        return Row(text, values, value)


_EVICTION_TRIES: Final = 32


class L4Metrics(Collector):
    """The families ``istio_tcp_*``.

    Args:
        registry: the process's registry.
        max_series: label sets kept at most.
        expiry_seconds: an idle label set is dropped by the first scrape after this time without a change.
        monotonic: seconds on a clock that never goes back.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        max_series: int = 10_000,
        expiry_seconds: float = 900.0,
        monotonic: Callable[[], float] = trio.current_time,
    ) -> None:
        self._series: OrderedDict[L4Labels, _Series] = OrderedDict()
        self._max_series = max_series
        self._expiry_seconds = expiry_seconds
        self._monotonic = monotonic
        self.sockets_open: dict[Reporter, int] = {"source": 0, "destination": 0}
        """Open sockets of applications and peers; whoever owns a socket counts it up and down."""
        registry.register(self)

    def handles(self, labels: L4Labels) -> ConnectionHandles:
        """The counters of a label set. Call ``opened`` before the next await, or the set may be taken for idle."""
        series = self._series.get(labels)
        if series is None:
            series = self._add(labels)
        else:
            self._series.move_to_end(labels)
        return series.handles

    def _add(self, labels: L4Labels) -> _Series:
        if len(self._series) >= self._max_series and not self._evict_one():
            labels = L4Labels(labels.reporter, mutual_tls=labels.mutual_tls)
        series = self._series.get(labels)
        if series is None:
            series = self._series[labels] = _Series(labels)
        return series

    def _evict_one(self) -> bool:
        """Drop the least recently used series that is idle, looking at a bounded number."""
        for labels in list(islice(self._series, _EVICTION_TRIES)):
            if not self._series[labels].in_use():
                del self._series[labels]
                return True
        return False

    def _expire(self) -> None:
        now = self._monotonic()
        for labels, series in list(self._series.items()):
            handles = series.handles
            # Every connection that ends changes this sum, and only idle series are looked at.
            seen = (handles.opened_count, handles.closed_count)
            if series.in_use() or seen != series.seen:
                series.seen = seen
                series.idle_since = None
            elif series.idle_since is None:
                series.idle_since = now
            elif now - series.idle_since >= self._expiry_seconds:
                del self._series[labels]

    def series(self) -> Iterator[tuple[L4Labels, ConnectionHandles]]:
        """All label sets and their counters, for whoever adds several processes up; idle ones are dropped first."""
        self._expire()
        for labels, series in self._series.items():
            yield labels, series.handles

    def describe(self) -> Iterable[Metric]:
        """Nothing ahead of time: the registry then does not collect in order to learn the names."""
        return []

    def collect(self) -> Iterable[Metric]:
        """The state of all series, for one scrape."""
        self._expire()
        well = ResponseFlag.NONE
        opened, closed, failed, sent, received = [], [], [], [], []
        for series in self._series.values():
            handles = series.handles
            opened.append(series.row(well, handles.opened_count))
            closed.append(series.row(well, handles.closed_count))
            sent.append(series.row(well, handles.sent_bytes))
            received.append(series.row(well, handles.received_bytes))
            failed += [series.row(flag, count) for flag, count in (handles.failures or {}).items()]
        sockets = GaugeMetricFamily("istio_tcp_sockets_open", "Sockets open now.", labels=["reporter"])
        for reporter, count in self.sockets_open.items():
            sockets.add_metric([reporter], count)
        return [
            PreparedFamily("istio_tcp_connections_opened", "TCP connections opened.", L4_LABELS, opened),
            PreparedFamily("istio_tcp_connections_closed", "TCP connections closed.", L4_LABELS, closed),
            PreparedFamily("istio_tcp_connections_failed", "TCP connections failed, by flag.", L4_LABELS, failed),
            PreparedFamily("istio_tcp_sent_bytes", "Bytes of responses.", L4_LABELS, sent),
            PreparedFamily("istio_tcp_received_bytes", "Bytes of requests.", L4_LABELS, received),
            sockets,
        ]


class XdsMetrics:
    """The families ``istio_xds_*`` of a client of the control plane."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._terminations = Counter(
            "istio_xds_connection_terminations", "Streams to the control plane ended.", ["reason"], registry=registry
        )
        self._messages = Counter("istio_xds_message", "Responses received.", ["url"], registry=registry)
        self._bytes = Counter("istio_xds_message_bytes", "Bytes of responses received.", ["url"], registry=registry)

    def received(self, type_url: str, size: int) -> None:
        """A response of ``size`` bytes arrived."""
        self._messages.labels(type_url).inc()
        self._bytes.labels(type_url).inc(size)

    def terminated(self, reason: Literal["ConnectionError", "Error", "Reconnect", "Complete"]) -> None:
        """A stream ended."""
        self._terminations.labels(reason).inc()


class WorkloadManagerMetrics:
    """The families ``workload_manager_*``: pods that ztunnel proxies."""

    def __init__(self, registry: CollectorRegistry) -> None:
        prefix = "workload_manager_"
        self.active = Gauge(f"{prefix}active_proxy_count", "Pods being proxied.", registry=registry)
        self.pending = Gauge(f"{prefix}pending_proxy_count", "Pods whose proxy could not start yet.", registry=registry)
        self.started = Counter(f"{prefix}proxies_started", "Proxies started for pods.", registry=registry)
        self.stopped = Counter(f"{prefix}proxies_stopped", "Proxies stopped.", registry=registry)


def new_registry(component: str, version: str) -> CollectorRegistry:
    """The registry of one process, with ``istio_build`` and the kernel's view of the process (``process_*``)."""
    registry = CollectorRegistry()
    build = Gauge("istio_build", "What is running.", ["component", "tag"], registry=registry)
    build.labels(component, version).set(1)
    ProcessCollector(registry=registry)
    return registry


def metrics_page(registry: CollectorRegistry) -> Handler:
    """The handler of ``/metrics``."""

    async def handler(request: HttpRequest) -> HttpResponse:
        return HttpResponse(200, await render(registry), CONTENT_TYPE)

    return handler
