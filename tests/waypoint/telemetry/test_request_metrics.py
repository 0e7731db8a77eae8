"""Metrics of requests: labels, sums, bounded cardinality, and what Prometheus reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from mesh.addresses import PeerAddress, SocketAddress, parse_ip
from mesh.model.waypoint import Metric, Telemetry
from mesh.telemetry.exposition import render
from waypoint.client import Client
from waypoint.telemetry import flags
from waypoint.telemetry.record import RequestRecord
from waypoint.telemetry.request_metrics import BOUNDS, LABELS, MetricsPlan, RequestMetrics, label_values

Make = Callable[..., RequestRecord]
EVERYTHING = MetricsPlan(Telemetry())


def _metrics(now: list[float] | None = None, **fields: Any) -> tuple[CollectorRegistry, RequestMetrics]:
    registry = CollectorRegistry()
    clock = now or [0.0]
    return registry, RequestMetrics(registry, monotonic=lambda: clock[0], **fields)


def _samples(registry: CollectorRegistry, name: str) -> dict[tuple[str, ...], float]:
    """Values by response code, grpc status, flags, destination."""
    wanted = ("response_code", "grpc_response_status", "response_flags", "destination_workload")
    return {
        tuple(sample.labels[label] for label in wanted): sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name == name
    }


def test_the_labels_of_a_request(finished: Make) -> None:
    labels = dict(zip(LABELS, label_values(finished(flags=flags.RETRY_LIMIT_EXCEEDED)), strict=True))
    assert labels["reporter"] == "waypoint"
    assert labels["source_principal"] == "spiffe://cluster.local/ns/demo/sa/client"
    assert labels["source_workload"] == "client"
    assert labels["destination_workload"] == "echo"
    assert labels["destination_service"] == "echo.demo.svc"
    assert labels["destination_service_name"] == "echo"
    assert labels["destination_service_namespace"] == "demo"
    assert labels["request_protocol"] == "http"
    assert labels["response_code"] == "200"
    assert labels["grpc_response_status"] == ""
    assert labels["response_flags"] == "URX"
    assert labels["route"] == "demo/route/0"
    assert labels["connection_security_policy"] == "mutual_tls"


def test_a_request_that_reached_nobody(finished: Make) -> None:
    record = finished(status=404, flags=flags.NO_ROUTE, endpoint=None, peer_identity=None, upstream_service="")
    record.destination = "Kubernetes//Pod/demo/x"
    labels = dict(zip(LABELS, label_values(record), strict=True))
    assert labels["destination_workload"] == labels["destination_service"] == "unknown"
    assert labels["response_flags"] == "NR"


def test_requests_are_counted_by_answer(finished: Make) -> None:
    registry, metrics = _metrics()
    for record in [finished(), finished(), finished(status=503, flags=flags.UPSTREAM_OVERFLOW), finished(status=0)]:
        metrics.count(record, EVERYTHING)
    assert _samples(registry, "istio_requests_total") == {
        ("200", "", "-", "echo"): 2,
        ("503", "", "UO", "echo"): 1,
        ("0", "", "-", "echo"): 1,
    }
    assert _samples(registry, "istio_request_messages_total") == {}


def test_grpc_messages_are_counted(finished: Make) -> None:
    registry, metrics = _metrics()
    for status in (0, 0, 14):
        metrics.count(finished(grpc=True, grpc_status=status, request_messages=2, response_messages=5), EVERYTHING)
    assert _samples(registry, "istio_request_messages_total") == {
        ("200", "0", "-", "echo"): 4,
        ("200", "14", "-", "echo"): 2,
    }
    assert _samples(registry, "istio_response_messages_total")["200", "0", "-", "echo"] == 10


async def test_the_page_is_what_prometheus_reads(finished: Make) -> None:
    registry, metrics = _metrics()
    for milliseconds in (0.4, 0.9, 3, 29_999, 9e9):
        metrics.count(finished(ended=100.0 + milliseconds / 1000), EVERYTHING)
    page = (await render(registry)).decode()
    families = {family.name: family for family in text_string_to_metric_families(page)}
    duration = families["istio_request_duration_milliseconds"]
    assert duration.type == "histogram"
    buckets = {sample.labels["le"]: sample.value for sample in duration.samples if sample.name.endswith("_bucket")}
    assert len(buckets) == len(BOUNDS) + 1
    assert [buckets[bound] for bound in ("0.5", "1", "5", "10000", "30000", "3.6e+06", "+Inf")] == [1, 2, 3, 3, 4, 4, 5]
    values = {sample.name.rpartition("_")[2]: sample.value for sample in duration.samples}
    assert values["count"] == 5
    assert abs(values["sum"] - 9_000_030_003.3) < 1
    sizes = {sample.name: sample.value for sample in families["istio_response_bytes"].samples}
    assert sizes["istio_response_bytes_sum"] == 10_000
    # The text and the samples are made apart: they must say the same.
    direct = {(s.name, tuple(sorted(s.labels.items()))): s.value for f in registry.collect() for s in f.samples}
    read = {(s.name, tuple(sorted(s.labels.items()))): s.value for f in families.values() for s in f.samples}
    assert direct == read


def _other_client(number: int) -> Client:
    from mesh.identity import SpiffeId

    return Client(
        identity=SpiffeId("td", "ns", f"sa-{number}"),
        address=PeerAddress(SocketAddress(parse_ip("10.0.0.1"), 1)),
        destination=SocketAddress(parse_ip("10.0.0.2"), 80),
    )


def test_cardinality_is_bounded_and_no_total_is_short(finished: Make) -> None:
    registry, metrics = _metrics(max_series=10)
    for number in range(50):
        metrics.count(finished(client=_other_client(number)), EVERYTHING)
    samples = [sample for family in registry.collect() for sample in family.samples]
    values = [sample.value for sample in samples if sample.name == "istio_requests_total"]
    assert sum(values) == 50
    assert len(values) == 11


def test_idle_series_expire_and_begin_anew(finished: Make) -> None:
    now = [0.0]
    registry, metrics = _metrics(now, expiry_seconds=100.0)
    metrics.count(finished(), EVERYTHING)
    for moment, count in [(0.0, 1), (50.0, 1), (149.0, 1), (151.0, 0)]:
        now[0] = moment
        assert len(_samples(registry, "istio_requests_total")) == count
    metrics.count(finished(), EVERYTHING)
    assert list(_samples(registry, "istio_requests_total").values()) == [1]


def test_families_are_switched_off_for_some_requests(finished: Make) -> None:
    registry, metrics = _metrics()
    some = MetricsPlan(Telemetry(metrics_off=(Metric.GRPC_REQUEST_MESSAGES, Metric.REQUEST_SIZE)))
    fields = {"grpc": True, "grpc_status": 0, "request_messages": 2, "response_messages": 5}
    metrics.count(finished(**fields), some)
    metrics.count(finished(status=500, **fields), EVERYTHING)

    def codes(name: str) -> set[str]:
        return {key[0] for key in _samples(registry, name)}

    assert codes("istio_requests_total") == codes("istio_response_messages_total") == {"200", "500"}
    assert codes("istio_request_bytes_count") == codes("istio_request_messages_total") == {"500"}
    # Switched on again: the same labels go on, and stand there once.
    metrics.count(finished(**fields), EVERYTHING)
    assert _samples(registry, "istio_request_messages_total")["200", "0", "-", "echo"] == 4
    assert not some.nothing
    assert MetricsPlan(Telemetry(metrics_off=tuple(Metric))).nothing


async def test_labels_are_left_empty(finished: Make) -> None:
    registry, metrics = _metrics(max_series=1)
    plan = MetricsPlan(Telemetry(labels_off=("destination_workload", "request_host", "response_code")))
    assert plan.problems == ("metrics have no label 'request_host' that could be removed",)
    for status in (200, 404):
        metrics.count(finished(status=status), plan)
    assert _samples(registry, "istio_requests_total") == {("", "", "-", ""): 2}
    metrics.count(finished(client=_other_client(1)), plan)
    assert set(_samples(registry, "istio_requests_total")) == {("", "", "-", "")}
    page = (await render(registry)).decode()
    assert 'response_code=""' in page
