"""Metrics of requests: ``istio_requests_total`` and its histograms, as a waypoint reports them.

Theory of operation. As ``mesh.telemetry.metrics`` does for connections: plain integers found once for their labels,
read by a collector when somebody scrapes. A request is counted when it is over, by one look-up whose key is the
identity of the objects that its labels come from (a workload is hashed in more time than the whole counting takes) and
the numbers that tell answers apart; the key's objects are kept beside the counters, so that the identities stay theirs.

Cardinality is bounded: label sets without a request for a while are dropped at a scrape, and when there are too many,
further ones are counted under ``unknown`` labels, so no total is short. What clients choose freely, such as hosts and
paths, is no label.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from typing import Final

import trio
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from mesh.telemetry.exposition import HistogramRow, PreparedFamily, PreparedHistogram, Row, label_text
from mesh.telemetry.metrics import L4_LABELS, NO_SERVICE, L4Labels, ServiceLabels, WorkloadLabels
from waypoint.telemetry.flags import flags_text
from waypoint.telemetry.record import RequestRecord

LABELS: Final[tuple[str, ...]] = (*L4_LABELS[:-1], "response_code", "grpc_response_status", "response_flags")
BOUNDS: Final[tuple[float, ...]] = (
    *(0.5, 1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10_000.0),
    *(30_000.0, 60_000.0, 300_000.0, 600_000.0, 1_800_000.0, 3_600_000.0),
)
"""Of all histograms, milliseconds or bytes: Envoy's."""


class _Series:
    """The counters of one label set."""

    __slots__ = (
        "count",
        "duration_counts",
        "duration_total",
        "idle_since",
        "request_counts",
        "request_messages",
        "request_total",
        "response_counts",
        "response_messages",
        "response_total",
        "seen",
        "text",
        "values",
    )

    def __init__(self, values: tuple[str, ...]) -> None:
        self.values = values
        self.text = label_text(LABELS, values)
        self.count = 0
        self.duration_counts = [0] * (len(BOUNDS) + 1)
        self.duration_total = 0.0
        self.request_counts = [0] * (len(BOUNDS) + 1)
        self.request_total = 0
        self.response_counts = [0] * (len(BOUNDS) + 1)
        self.response_total = 0
        self.request_messages = 0
        self.response_messages = 0
        self.seen = 0
        self.idle_since: float | None = None


class RequestMetrics(Collector):
    """The families of one waypoint.

    Args:
        registry: the process's registry.
        max_series: label sets kept at most.
        expiry_seconds: a label set is dropped by the first scrape after this time without a request.
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
        self._series: dict[tuple[str, ...], _Series] = {}
        # By the identity of what labels are made of; the objects are held, so that nobody else gets their identity.
        self._found: dict[tuple[object, ...], tuple[_Series, tuple[object, ...]]] = {}
        self._max_series = max_series
        self._expiry_seconds = expiry_seconds
        self._monotonic = monotonic
        registry.register(self)

    def count(self, record: RequestRecord) -> None:
        """A request is over."""
        client = record.client
        key = (
            id(client.workload),
            id(client.identity),
            id(record.endpoint),
            id(record.peer_identity),
            record.destination,
            record.upstream_service,
            record.status,
            record.flags,
            record.grpc_status,
            record.grpc,
        )
        found = self._found.get(key)
        series = self._find(record, key) if found is None else found[0]
        series.count += 1
        duration = (record.ended - record.started) * 1000.0
        series.duration_counts[bisect_left(BOUNDS, duration)] += 1
        series.duration_total += duration
        size = record.request_bytes
        series.request_counts[bisect_left(BOUNDS, size)] += 1
        series.request_total += size
        size = record.response_bytes
        series.response_counts[bisect_left(BOUNDS, size)] += 1
        series.response_total += size
        if record.grpc:
            series.request_messages += record.request_messages
            series.response_messages += record.response_messages

    def _find(self, record: RequestRecord, key: tuple[object, ...]) -> _Series:
        values = label_values(record)
        series = self._series.get(values)
        if series is None:
            if len(self._series) >= self._max_series:
                values = _overflow(record)
                series = self._series.get(values)
            if series is None:
                series = self._series[values] = _Series(values)
        if len(self._found) >= 2 * self._max_series:
            self._found.clear()
        client = record.client
        self._found[key] = (series, (client.workload, client.identity, record.endpoint, record.peer_identity))
        return series

    def _expire(self) -> None:
        now = self._monotonic()
        gone = []
        for series in self._series.values():
            if series.count != series.seen:
                series.seen, series.idle_since = series.count, None
            elif series.idle_since is None:
                series.idle_since = now
            elif now - series.idle_since >= self._expiry_seconds:
                gone.append(series.values)
        if gone:
            for values in gone:
                del self._series[values]
            self._found.clear()

    def describe(self) -> Iterable[Metric]:
        """Nothing ahead of time: the registry then does not collect in order to learn the names."""
        return []

    def collect(self) -> Iterable[Metric]:
        """The state of all series, for one scrape."""
        self._expire()
        everything = list(self._series.values())
        grpc = [series for series in everything if series.values[_PROTOCOL] == "grpc"]

        def histogram(name: str, text: str, rows: list[HistogramRow]) -> PreparedHistogram:
            return PreparedHistogram(name, text, LABELS, BOUNDS, rows)

        return [
            PreparedFamily(
                "istio_requests", "Requests.", LABELS, [Row(one.text, one.values, one.count) for one in everything]
            ),
            histogram(
                "istio_request_duration_milliseconds",
                "From a request's head to the end of its answer.",
                [HistogramRow(one.text, one.values, one.duration_counts, one.duration_total) for one in everything],
            ),
            histogram(
                "istio_request_bytes",
                "Bytes of requests' bodies.",
                [HistogramRow(one.text, one.values, one.request_counts, one.request_total) for one in everything],
            ),
            histogram(
                "istio_response_bytes",
                "Bytes of answers' bodies.",
                [HistogramRow(one.text, one.values, one.response_counts, one.response_total) for one in everything],
            ),
            PreparedFamily(
                "istio_request_messages",
                "gRPC messages of requests.",
                LABELS,
                [Row(one.text, one.values, one.request_messages) for one in grpc],
            ),
            PreparedFamily(
                "istio_response_messages",
                "gRPC messages of answers.",
                LABELS,
                [Row(one.text, one.values, one.response_messages) for one in grpc],
            ),
        ]


_PROTOCOL: Final = LABELS.index("request_protocol")


def label_values(record: RequestRecord) -> tuple[str, ...]:
    """The values of ``LABELS`` for a request."""
    client = record.client
    labels = L4Labels(
        "waypoint",
        WorkloadLabels.of(client.workload, client.identity),
        WorkloadLabels.of(record.endpoint, record.peer_identity),
        _service(record.upstream_service or record.destination),
        client.identity is not None,
    )
    return _completed(labels, record)


def _overflow(record: RequestRecord) -> tuple[str, ...]:
    return _completed(L4Labels("waypoint", mutual_tls=record.client.identity is not None), record)


def _completed(labels: L4Labels, record: RequestRecord) -> tuple[str, ...]:
    *values, _, security = labels.values()
    grpc_status = str(record.grpc_status) if record.grpc and record.grpc_status >= 0 else ""
    protocol = "grpc" if record.grpc else "http"
    return (*values, protocol, security, str(record.status), grpc_status, flags_text(record.flags))


def _service(key: str) -> ServiceLabels:
    """From ``namespace/hostname``; a workload's uid names no service."""
    namespace, _, hostname = key.partition("/")
    if not hostname or "/" in hostname:
        return NO_SERVICE
    return ServiceLabels(hostname, namespace, hostname.partition(".")[0])
