"""Metrics: names and labels of contracts, bounded cardinality, and a page other tools can read."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from mesh.errors import ResponseFlag
from mesh.model.service import Service
from mesh.model.workload import Locality, Workload
from mesh.telemetry.exposition import render
from mesh.telemetry.http_endpoint import HttpRequest
from mesh.telemetry.metrics import (
    L4Labels,
    L4Metrics,
    ServiceLabels,
    WorkloadLabels,
    WorkloadManagerMetrics,
    XdsMetrics,
    metrics_page,
    new_registry,
)

CLIENT = Workload(
    uid="c",
    name="client-1",
    namespace="default",
    service_account="client",
    workload_name="client",
    canonical_name="client-app",
    canonical_revision="v1",
    cluster_id="Kubernetes",
    locality=Locality("europe", "b"),
)
SERVICE = Service(name="echo", namespace="shop", hostname="echo.shop.svc.cluster.local")


class FakeClock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def samples(page: bytes) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
    }


def make(max_series: int = 100) -> tuple[CollectorRegistry, L4Metrics, FakeClock]:
    registry, clock = CollectorRegistry(), FakeClock()
    return registry, L4Metrics(registry, max_series=max_series, expiry_seconds=60, monotonic=clock), clock


def labels(name: str) -> L4Labels:
    return L4Labels("source", WorkloadLabels(workload=name))


async def names(registry: CollectorRegistry) -> set[str]:
    return {
        dict(pairs)["source_workload"]
        for (name, pairs) in samples(await render(registry))
        if name == "istio_tcp_connections_opened_total"
    }


async def test_the_whole_label_set() -> None:
    registry, metrics, _ = make()
    handles = metrics.handles(
        L4Labels(
            "destination",
            WorkloadLabels.of(CLIENT, CLIENT.identity),
            WorkloadLabels.of(None, None),
            ServiceLabels.of(SERVICE),
            mutual_tls=True,
        )
    )
    handles.opened()
    expected = {
        "reporter": "destination",
        "source_workload": "client",
        "source_canonical_service": "client-app",
        "source_canonical_revision": "v1",
        "source_workload_namespace": "default",
        "source_principal": "spiffe://cluster.local/ns/default/sa/client",
        "source_app": "client-app",
        "source_version": "v1",
        "source_cluster": "Kubernetes",
        "source_region": "europe",
        "source_zone": "b",
        "destination_service": "echo.shop.svc.cluster.local",
        "destination_service_namespace": "shop",
        "destination_service_name": "echo",
        "destination_workload": "unknown",
        "destination_canonical_service": "unknown",
        "destination_canonical_revision": "unknown",
        "destination_workload_namespace": "unknown",
        "destination_principal": "unknown",
        "destination_app": "unknown",
        "destination_version": "unknown",
        "destination_cluster": "unknown",
        "destination_region": "unknown",
        "destination_zone": "unknown",
        "request_protocol": "tcp",
        "response_flags": "-",
        "connection_security_policy": "mutual_tls",
    }
    found = samples(await render(registry))
    assert found["istio_tcp_connections_opened_total", frozenset(expected.items())] == 1


async def test_every_step_is_counted() -> None:
    registry, metrics, _ = make()
    handles = metrics.handles(labels("a"))
    handles.opened()
    handles.opened()
    handles.sent(5)
    handles.sent(7)
    handles.received(100)
    handles.failed(ResponseFlag.DENY)
    handles.failed(ResponseFlag.DENY)
    handles.failed(ResponseFlag.CONNECT)
    handles.closed()
    metrics.sockets_open["source"] += 3
    found = samples(await render(registry))
    counted = {
        (name, label): value
        for (name, pairs), value in found.items()
        for key, label in pairs
        if key == "response_flags" or (name == "istio_tcp_sockets_open" and key == "reporter")
    }
    assert counted == {
        ("istio_tcp_connections_opened_total", "-"): 2,
        ("istio_tcp_connections_closed_total", "-"): 1,
        ("istio_tcp_sent_bytes_total", "-"): 12,
        ("istio_tcp_received_bytes_total", "-"): 100,
        ("istio_tcp_connections_failed_total", "DENY"): 2,
        ("istio_tcp_connections_failed_total", "CONNECT"): 1,
        ("istio_tcp_sockets_open", "source"): 3,
        ("istio_tcp_sockets_open", "destination"): 0,
    }


async def test_our_writer_says_what_prometheus_clients_does() -> None:
    registry, metrics, _ = make(max_series=5000)
    for number in range(600):  # more than one slice
        handles = metrics.handles(labels(f'odd "{number}" \\ \n name'))
        handles.opened()
        handles.sent(number)
        handles.failed(ResponseFlag.TLS_FAILURE)
    Counter("other", "Another family.", ["x"], registry=registry).labels("y").inc()
    ours = samples(await render(registry))
    assert ours == samples(generate_latest(registry))
    assert len(ours) > 3000


def test_the_same_labels_share_handles() -> None:
    _, metrics, _ = make()
    assert metrics.handles(labels("a")) is metrics.handles(labels("a"))
    assert metrics.handles(labels("a")) is not metrics.handles(labels("b"))


async def test_series_without_change_expire() -> None:
    registry, metrics, clock = make()
    gone, live, busy = (metrics.handles(labels(name)) for name in ("gone", "live", "busy"))
    for handles in (gone, live, busy):
        handles.opened()
        handles.closed()
    live.opened()  # and stays open
    assert await names(registry) == {"gone", "live", "busy"}
    await names(registry)
    for _ in range(3):
        clock.now += 30
        busy.opened()
        busy.closed()
        await names(registry)
    assert await names(registry) == {"live", "busy"}
    again = metrics.handles(labels("gone"))
    assert again is not gone
    assert again.opened_count == 0


def test_series_are_listed_for_whoever_adds_processes_up_and_idle_ones_dropped() -> None:
    _, metrics, clock = make()
    kept, gone = metrics.handles(labels("kept")), metrics.handles(labels("gone"))
    for handles in (kept, gone):
        handles.opened()
    gone.closed()
    assert dict(metrics.series()) == {labels("kept"): kept, labels("gone"): gone}
    assert len(dict(metrics.series())) == 2
    clock.now += 10_000
    assert dict(metrics.series()) == {labels("kept"): kept}


async def test_the_least_recent_idle_series_makes_room() -> None:
    registry, metrics, _ = make(max_series=3)
    for name in ("open", "old", "new"):
        handles = metrics.handles(labels(name))
        handles.opened()
        if name != "open":
            handles.closed()
    metrics.handles(labels("more")).opened()
    assert await names(registry) == {"open", "new", "more"}


async def test_without_room_connections_are_counted_as_unknown() -> None:
    registry, metrics, _ = make(max_series=50)
    for number in range(200):
        metrics.handles(labels(str(number))).opened()
    found = samples(await render(registry))
    opened = {pairs: value for (name, pairs), value in found.items() if name == "istio_tcp_connections_opened_total"}
    assert len(opened) == 51
    assert sum(opened.values()) == 200
    (unknown,) = (value for pairs, value in opened.items() if ("source_workload", "unknown") in pairs)
    assert unknown == 150


async def test_a_large_page_lets_others_run() -> None:
    registry, metrics, _ = make(max_series=5000)
    for number in range(2000):
        metrics.handles(labels(str(number))).opened()
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        await render(registry)
        nursery.cancel_scope.cancel()
    assert turns >= 10


@pytest.mark.parametrize(
    ("use", "expected"),
    [
        (
            lambda registry: XdsMetrics(registry).received("type.x/Address", 512),
            {
                ("istio_xds_message_total", "type.x/Address"): 1.0,
                ("istio_xds_message_bytes_total", "type.x/Address"): 512.0,
            },
        ),
        (
            lambda registry: XdsMetrics(registry).terminated("Reconnect"),
            {("istio_xds_connection_terminations_total", "Reconnect"): 1.0},
        ),
        (
            lambda registry: WorkloadManagerMetrics(registry).started.inc(),
            {
                ("workload_manager_active_proxy_count", ""): 0.0,
                ("workload_manager_pending_proxy_count", ""): 0.0,
                ("workload_manager_proxies_started_total", ""): 1.0,
                ("workload_manager_proxies_stopped_total", ""): 0.0,
            },
        ),
    ],
)
async def test_the_other_families(
    use: Callable[[CollectorRegistry], None], expected: dict[tuple[str, str], float]
) -> None:
    registry = CollectorRegistry()
    use(registry)
    found = {
        (name, "".join(value for _, value in pairs)): value
        for (name, pairs), value in samples(await render(registry)).items()
        if not name.endswith("_created")
    }
    assert found == expected


async def test_the_page_names_the_build_and_the_process() -> None:
    registry = new_registry("ztunnel", "0.1.0")
    request = HttpRequest(method="GET", path="/metrics", query={}, headers={}, body=b"")
    response = await metrics_page(registry)(request)
    assert response.content_type.startswith("text/plain; version=0.0.4")
    found = samples(response.body)
    assert found["istio_build", frozenset({("component", "ztunnel"), ("tag", "0.1.0")})] == 1
    assert found["process_resident_memory_bytes", frozenset()] > 1_000_000
