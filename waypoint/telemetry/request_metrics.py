"""Metrics of requests: ``istio_requests_total`` and its histograms, as a waypoint reports them.

Theory of operation. As ``mesh.telemetry.metrics`` does for connections: plain integers found once for their labels,
read by a collector when somebody scrapes. A request is counted when it is over, by one look-up whose key is the
identity of the objects that its labels come from (a workload is hashed in more time than the whole counting takes) and
the numbers that tell answers apart; the key's objects are kept beside the counters, so that the identities stay theirs.

Telemetry objects switch families off and leave labels empty, which to Prometheus is as if they were not there; a
:class:`MetricsPlan` says so for the requests of one destination.

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

from mesh.model.waypoint import Metric as Family
from mesh.model.waypoint import Telemetry
from mesh.telemetry.exposition import HistogramRow, PreparedFamily, PreparedHistogram, Row, label_text
from mesh.telemetry.metrics import L4_LABELS, NO_SERVICE, UNKNOWN, L4Labels, ServiceLabels, WorkloadLabels
from waypoint.telemetry.flags import flags_text
from waypoint.telemetry.record import RequestRecord

LABELS: Final[tuple[str, ...]] = (*L4_LABELS[:-1], "route", "response_code", "grpc_response_status", "response_flags")
BOUNDS: Final[tuple[float, ...]] = (
    *(0.5, 1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10_000.0),
    *(30_000.0, 60_000.0, 300_000.0, 600_000.0, 1_800_000.0, 3_600_000.0),
)
"""Of all histograms, milliseconds or bytes: Envoy's."""


_OF_REQUESTS: Final = frozenset(
    {
        *(Family.REQUEST_COUNT, Family.REQUEST_DURATION, Family.REQUEST_SIZE, Family.RESPONSE_SIZE),
        *(Family.GRPC_REQUEST_MESSAGES, Family.GRPC_RESPONSE_MESSAGES),
    }
)


class MetricsPlan:
    """What is counted of one destination's requests."""

    __slots__ = ("blank", "off", "problems")

    def __init__(self, telemetry: Telemetry) -> None:
        """Prepare as a destination's Telemetry says."""
        self.off = frozenset(telemetry.metrics_off)
        """Families without a sample of these requests."""
        self.blank = tuple(LABELS.index(label) for label in telemetry.labels_off if label in LABELS)
        """Labels that stay empty, by their place."""
        unknown = [label for label in telemetry.labels_off if label not in LABELS]
        self.problems = tuple(f"metrics have no label {label[:64]!r} that could be removed" for label in unknown)

    @property
    def nothing(self) -> bool:
        """No family has these requests."""
        return self.off >= _OF_REQUESTS


class _Series:
    """The counters of one label set."""

    __slots__ = (
        "count",
        "duration_counts",
        "duration_total",
        "grpc",
        "idle_since",
        "off",
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

    def __init__(self, values: tuple[str, ...], *, grpc: bool) -> None:
        self.values = values
        self.grpc = grpc
        self.text = label_text(LABELS, values)
        self.off: frozenset[Family] = frozenset()
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

    def count(self, record: RequestRecord, plan: MetricsPlan) -> None:
        """A request is over."""
        client = record.client
        key = (
            id(client.workload),
            id(client.identity),
            id(record.endpoint),
            id(record.peer_identity),
            record.destination,
            record.upstream_service,
            record.route,
            id(plan),
            record.status,
            record.flags,
            record.grpc_status,
            record.grpc,
        )
        found = self._found.get(key)
        series = self._find(record, key, plan) if found is None else found[0]
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

    def _find(self, record: RequestRecord, key: tuple[object, ...], plan: MetricsPlan) -> _Series:
        values = _blanked(label_values(record), plan)
        series = self._series.get(values)
        if series is None:
            if len(self._series) >= self._max_series:
                values = _blanked(_overflow(record), plan)
                series = self._series.get(values)
            if series is None:
                series = self._series[values] = _Series(values, grpc=record.grpc)
        if len(self._found) >= 2 * self._max_series:
            self._found.clear()
        # The same labels may have been counted by an earlier plan.
        series.off = plan.off
        client = record.client
        self._found[key] = (series, (client.workload, client.identity, record.endpoint, record.peer_identity, plan))
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
        grpc = [series for series in everything if series.grpc]

        def counter(name: str, text: str, family: Family, of: list[_Series], value: Callable[[_Series], int]) -> Metric:
            return PreparedFamily(
                name, text, LABELS, [Row(one.text, one.values, value(one)) for one in of if family not in one.off]
            )

        def histogram(
            name: str, text: str, family: Family, value: Callable[[_Series], tuple[list[int], float]]
        ) -> Metric:
            rows = [HistogramRow(one.text, one.values, *value(one)) for one in everything if family not in one.off]
            return PreparedHistogram(name, text, LABELS, BOUNDS, rows)

        return [
            counter("istio_requests", "Requests.", Family.REQUEST_COUNT, everything, lambda one: one.count),
            histogram(
                "istio_request_duration_milliseconds",
                "From a request's head to the end of its answer.",
                Family.REQUEST_DURATION,
                lambda one: (one.duration_counts, one.duration_total),
            ),
            histogram(
                "istio_request_bytes",
                "Bytes of requests' bodies.",
                Family.REQUEST_SIZE,
                lambda one: (one.request_counts, one.request_total),
            ),
            histogram(
                "istio_response_bytes",
                "Bytes of answers' bodies.",
                Family.RESPONSE_SIZE,
                lambda one: (one.response_counts, one.response_total),
            ),
            counter(
                "istio_request_messages",
                "gRPC messages of requests.",
                Family.GRPC_REQUEST_MESSAGES,
                grpc,
                lambda one: one.request_messages,
            ),
            counter(
                "istio_response_messages",
                "gRPC messages of answers.",
                Family.GRPC_RESPONSE_MESSAGES,
                grpc,
                lambda one: one.response_messages,
            ),
        ]


def label_values(record: RequestRecord) -> tuple[str, ...]:
    """The values of ``LABELS`` for a request."""
    client = record.client
    labels = L4Labels(
        "waypoint",
        WorkloadLabels.of(client.workload, client.identity),
        WorkloadLabels.of(record.endpoint, record.peer_identity),
        service_labels(record.upstream_service or record.destination),
        client.identity is not None,
    )
    return _completed(labels, record)


def _overflow(record: RequestRecord) -> tuple[str, ...]:
    return _completed(L4Labels("waypoint", mutual_tls=record.client.identity is not None), record)


def _completed(labels: L4Labels, record: RequestRecord) -> tuple[str, ...]:
    *values, _, security = labels.values()
    grpc_status = str(record.grpc_status) if record.grpc and record.grpc_status >= 0 else ""
    protocol = "grpc" if record.grpc else "http"
    route = record.route or UNKNOWN
    return (*values, protocol, security, route, str(record.status), grpc_status, flags_text(record.flags))


def _blanked(values: tuple[str, ...], plan: MetricsPlan) -> tuple[str, ...]:
    if not plan.blank:
        return values
    return tuple("" if index in plan.blank else value for index, value in enumerate(values))


def service_labels(key: str) -> ServiceLabels:
    """Labels from ``namespace/hostname``; a workload's uid names no service."""
    namespace, _, hostname = key.partition("/")
    if not hostname or "/" in hostname:
        return NO_SERVICE
    return ServiceLabels(hostname, namespace, hostname.partition(".")[0])
