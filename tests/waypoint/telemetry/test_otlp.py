"""The way of spans to a collector: batches, losses, retries, and what goes over the wire."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client import CollectorRegistry

from mesh.errors import ConfigurationError
from mesh.model.waypoint import SpanCollector
from waypoint.telemetry import otlp_driver
from waypoint.telemetry.otlp_driver import BATCH, MAX_WAITING, TRIES, SpanMetrics, SpanQueue, SpanQueues, encode
from waypoint.telemetry.spans import FinishedSpan

COLLECTOR = SpanCollector(service="observe/collector.observe.svc", port=4318)
TRACE, SPAN, PARENT = b"0af7651916cd43dd8448eb211c80319c", b"00f067aa0ba902b7", b"b7ad6b7169203331"


def made(parent: bytes = PARENT, *, served: bool = True, failed: bool = False) -> FinishedSpan:
    return FinishedSpan(
        "GET shop", TRACE, SPAN, parent, 1_800_000_000.25, 1_800_000_000.5, {"url.path": "/a", "client.port": 5},
        served=served, failed=failed,
    )  # fmt: skip


class Collector:
    """Takes batches, answers as it was told."""

    def __init__(self, *outcomes: int | str) -> None:
        self.outcomes = list(outcomes)
        self.spans: list[int] = []
        self.answered = trio.Event()
        self.hang = False

    async def post(self, collector: SpanCollector, body: bytes) -> int | str:
        assert collector is COLLECTOR
        if self.hang:
            await trio.sleep_forever()
        request = ExportTraceServiceRequest.FromString(body)
        self.spans.append(sum(len(scope.spans) for each in request.resource_spans for scope in each.scope_spans))
        await trio.lowlevel.checkpoint()
        outcome = self.outcomes.pop(0) if self.outcomes else 200
        if not self.outcomes:
            self.answered.set()
        return outcome


def counted(registry: CollectorRegistry) -> dict[str, float]:
    return {
        sample.labels.get("reason", "sent"): sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name.endswith("_total") and sample.value
    }


def queue_to(collector: Collector) -> tuple[SpanQueue, CollectorRegistry]:
    registry = CollectorRegistry()
    return SpanQueue(COLLECTOR, {"service.name": "w"}, collector.post, SpanMetrics(registry)), registry


def test_what_goes_over_the_wire() -> None:
    body = encode([made(), made(b"", failed=True), made(served=False)], {"service.name": "w", "k8s.pod.name": "w-1"})
    [resource] = ExportTraceServiceRequest.FromString(body).resource_spans
    assert {each.key: each.value.string_value for each in resource.resource.attributes} == {
        "service.name": "w",
        "k8s.pod.name": "w-1",
    }
    [scope] = resource.scope_spans
    first, root, client = scope.spans
    assert (first.trace_id.hex(), first.span_id.hex(), first.parent_span_id.hex()) == (
        TRACE.decode(), SPAN.decode(), PARENT.decode()
    )  # fmt: skip
    assert root.parent_span_id == b""
    assert (first.kind, client.kind) == (first.SPAN_KIND_SERVER, first.SPAN_KIND_CLIENT)
    assert (first.status.code, root.status.code) == (first.status.STATUS_CODE_UNSET, first.status.STATUS_CODE_ERROR)
    assert first.end_time_unix_nano - first.start_time_unix_nano == 250_000_000
    assert {each.key: each.value.string_value or each.value.int_value for each in first.attributes} == {
        "url.path": "/a",
        "client.port": 5,
    }


async def test_spans_are_sent_in_batches(nursery: trio.Nursery) -> None:
    collector = Collector(200, 200, 200)
    queue, registry = queue_to(collector)
    for _ in range(BATCH + 3):
        queue.add([made(), made(served=False)])
    nursery.start_soon(queue.run)
    with trio.fail_after(20):
        await collector.answered.wait()
        while not queue.idle:  # noqa: ASYNC110 -- there is no event of this
            await trio.sleep(0.01)
    assert collector.spans == [BATCH, BATCH, 6]
    assert counted(registry) == {"sent": 2 * BATCH + 6}


async def test_a_full_queue_loses_whole_requests_and_counts(nursery: trio.Nursery) -> None:
    collector = Collector()
    collector.hang = True
    queue, registry = queue_to(collector)
    for _ in range(MAX_WAITING // 2 + 3):
        queue.add([made(), made(served=False)])
    assert counted(registry) == {"queue_full": 6}
    nursery.start_soon(queue.run)
    with trio.fail_after(20):
        while not queue._under_way:  # noqa: ASYNC110 -- there is no event of this
            await trio.sleep(0.01)
    # A collector that hangs holds one batch; meanwhile requests go on putting spans in.
    for _ in range(BATCH // 2 + 1):
        queue.add([made(), made(served=False)])
    assert counted(registry) == {"queue_full": 8}
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ([503, "no connection", 429, 202], {"sent": 2}),
        ([503] * TRIES, {"not_taken": 2}),
        ([400], {"not_taken": 2}),
        (["no such service"] * TRIES, {"not_taken": 2}),
    ],
)
async def test_a_batch_is_sent_again_where_that_may_help(
    outcomes: list[int | str],
    expected: dict[str, float],
    autojump_clock: trio.testing.MockClock,
    nursery: trio.Nursery,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trio.to_thread, "run_sync", _here)
    collector = Collector(*outcomes)
    queue, registry = queue_to(collector)
    queue.add([made(), made()])
    nursery.start_soon(queue.run)
    await collector.answered.wait()
    await trio.sleep(0.1)
    assert counted(registry) == expected
    assert len(collector.spans) == len(outcomes)


async def _here(function: Callable[..., object], *arguments: object, abandon_on_cancel: bool = False) -> object:
    # Threads and a clock that jumps do not go together.
    await trio.lowlevel.checkpoint()
    return function(*arguments)


async def test_a_span_that_cannot_be_encoded_costs_its_batch_only(nursery: trio.Nursery) -> None:
    collector = Collector()
    queue, registry = queue_to(collector)
    bad = made()
    bad.name = "\ud800"
    queue.add([bad])
    nursery.start_soon(queue.run)
    with trio.fail_after(20):
        while not counted(registry):  # noqa: ASYNC110 -- a counter tells nobody
            await trio.sleep(0.02)
    assert counted(registry) == {"not_taken": 1}
    queue.add([made()])
    with trio.fail_after(20):
        await collector.answered.wait()
    assert collector.spans == [1]


async def test_what_waits_at_the_end_is_sent_at_once(nursery: trio.Nursery) -> None:
    collector = Collector()
    started: list[Callable[[], Awaitable[None]]] = []

    def start(function: Callable[[], Awaitable[None]]) -> None:
        started.append(function)
        nursery.start_soon(function)

    registry = CollectorRegistry()
    queues = SpanQueues({}, collector.post, registry, start)
    queue = queues.to(COLLECTOR)
    assert queues.to(SpanCollector(service=COLLECTOR.service, port=COLLECTOR.port)) is queue
    assert len(started) == 1
    await trio.testing.wait_all_tasks_blocked()
    queue.add([made()])
    with trio.fail_after(20):
        await queues.finish()
    assert collector.spans == [1]
    assert counted(registry) == {"sent": 1}
    nursery.cancel_scope.cancel()


def test_without_the_sdk_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp_driver, "find_spec", lambda name: None)
    registry = CollectorRegistry()
    with pytest.raises(ConfigurationError, match=r"ambimesh\[tracing\]"):
        SpanQueues({}, Collector().post, registry, lambda function: None).to(COLLECTOR)
