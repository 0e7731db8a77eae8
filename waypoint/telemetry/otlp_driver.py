"""Spans on their way to a collector: OTLP over HTTP, with opentelemetry-sdk's model and encoding (extra ``tracing``).

Theory of operation
-------------------
A request that is over puts its spans, plain values, into a bounded queue and goes on. A task takes them out in
batches; a thread turns a batch into the SDK's spans and these into bytes, the dear part; the bytes are posted the way
that requests go (``waypoint.upstream.inquiry``): to an endpoint of the collector's service, by mutual TLS if that is in
the mesh. Whoever encodes holds the interpreter, so that is done in slices that are shorter than Python's own turns.

A collector that is slow or away costs spans, which are counted, never a request's time: a batch is posted again a few
times, as the protocol wants it for statuses that pass; meanwhile the queue fills, and what finds it full is dropped.
The SDK's own batch processor and HTTP exporter are not used: they would run a thread whose end nobody owns, and reach
the collector past the mesh, by names that would have to be resolved.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Final, Never

import structlog
import trio
from prometheus_client import CollectorRegistry, Counter

from mesh.backoff import Backoff
from mesh.errors import ConfigurationError
from mesh.model.waypoint import SpanCollector
from waypoint.telemetry.spans import FinishedSpan

_log = structlog.get_logger("tracing")

Post = Callable[[SpanCollector, bytes], Awaitable[int | str]]
"""Sends a body to a collector; the status of its answer, or in words why there was none. Bounded in time."""

MAX_WAITING: Final = 4096
"""Spans of one collector."""
BATCH: Final = 128
"""Spans posted together."""
SLICE: Final = 16
"""Spans encoded in one turn: some milliseconds."""
FLUSH_SECONDS: Final = 1.0
"""How long a span waits for others."""
TRIES: Final = 4
"""Of a batch."""
_PASSING: Final = frozenset({429, 502, 503, 504})
"""Statuses after which a batch is to be sent again (OTLP specification, *Retryable Response Codes*)."""
_BACKOFF: Final = Backoff(initial=0.5, maximum=5.0)


class SpanMetrics:
    """Counts of all collectors."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.sent = Counter(
            "ambimesh_waypoint_spans_sent", "Spans that a collector has taken.", ("collector",), registry=registry
        )
        self.dropped = Counter(
            "ambimesh_waypoint_spans_dropped",
            "Spans that were lost: the queue was full, or the collector did not take them.",
            ("collector", "reason"),
            registry=registry,
        )


def require_sdk() -> None:
    """See that spans can be made, without loading anything: that would take longer than requests can wait.

    Raises:
        ConfigurationError: the extra is not installed.
    """
    try:
        found = find_spec("opentelemetry.sdk.trace") and find_spec("opentelemetry.exporter.otlp.proto.common")
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise ConfigurationError(
            "no spans are made: opentelemetry-sdk and its OTLP encoding are not there; install ambimesh[tracing]"
        )


class SpanQueue:
    """The way to one collector."""

    def __init__(
        self, collector: SpanCollector, resource: Mapping[str, str], post: Post, metrics: SpanMetrics
    ) -> None:
        """Prepare; nothing is sent before ``run``.

        Args:
            collector: who takes the spans.
            resource: who we are: ``service.name`` and the like.
            post: how to reach it.
            metrics: the process's.
        """
        self._collector = collector
        self._resource = resource
        self._post = post
        self._waiting: deque[FinishedSpan] = deque()
        self._wanted = trio.Event()
        self._under_way = 0
        self._finishing = False
        name = f"{collector.service}:{collector.port}"
        self._name = name
        self._sent = metrics.sent.labels(name)
        self._full = metrics.dropped.labels(name, "queue_full")
        self._lost = metrics.dropped.labels(name, "not_taken")

    @property
    def idle(self) -> bool:
        """Whether nothing waits or is under way."""
        return not self._waiting and not self._under_way

    def add(self, spans: Sequence[FinishedSpan]) -> None:
        """A recorded request is over."""
        waiting = self._waiting
        if len(waiting) + len(spans) > MAX_WAITING:
            self._full.inc(len(spans))
            return
        waiting.extend(spans)
        if len(waiting) >= BATCH:
            self._wanted.set()

    def finish(self) -> None:
        """The process ends: send at once what there is, and nothing twice."""
        self._finishing = True
        self._wanted.set()

    async def run(self) -> Never:
        """Send, until cancelled."""
        while True:
            with trio.move_on_after(FLUSH_SECONDS):
                await self._wanted.wait()
            self._wanted = trio.Event()
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
                self._under_way = len(batch)
                await self._send(batch)
                self._under_way = 0

    async def _send(self, batch: Sequence[FinishedSpan]) -> None:
        try:
            outcome = await self._posted(batch)
        except Exception:  # a span that cannot be encoded costs its batch, not all that come after it
            _log.exception("spans could not be sent", collector=self._name)
            outcome = "a bug of this proxy"
        if isinstance(outcome, int) and 200 <= outcome < 300:
            self._sent.inc(len(batch))
        else:
            self._lost.inc(len(batch))
            _log.warning("spans not taken", collector=self._name, spans=len(batch), outcome=outcome)

    async def _posted(self, batch: Sequence[FinishedSpan]) -> int | str:
        """What became of a batch in the end."""
        slices = [
            # In turns: who encodes holds the interpreter. Messages of protocol buffers join by standing side by side.
            await trio.to_thread.run_sync(encode, batch[at : at + SLICE], self._resource, abandon_on_cancel=True)
            for at in range(0, len(batch), SLICE)
        ]
        body = b"".join(slices)
        failures = 0
        while True:
            outcome = await self._post(self._collector, body)
            failures += 1
            if (isinstance(outcome, int) and outcome not in _PASSING) or failures == TRIES or self._finishing:
                return outcome
            await trio.sleep(_BACKOFF.delay(failures, random.random()))


class SpanQueues:
    """The ways to all collectors that destinations name; they are few, as the operator's configuration names them."""

    def __init__(
        self,
        resource: Mapping[str, str],
        post: Post,
        registry: CollectorRegistry,
        start: Callable[[Callable[[], Awaitable[None]]], None],
    ) -> None:
        """Prepare.

        Args:
            resource: who we are.
            post: how to reach a collector.
            registry: the process's.
            start: runs something until the process ends.
        """
        self._resource = resource
        self._post = post
        self._metrics = SpanMetrics(registry)
        self._start = start
        self._queues: dict[SpanCollector, SpanQueue] = {}

    def to(self, collector: SpanCollector) -> SpanQueue:
        """The way to a collector, the same each time.

        Raises:
            ConfigurationError: spans cannot be made.
        """
        queue = self._queues.get(collector)
        if queue is None:
            require_sdk()
            queue = self._queues[collector] = SpanQueue(collector, self._resource, self._post, self._metrics)
            self._start(queue.run)
        return queue

    async def finish(self) -> None:
        """Send what waits; to be called under a deadline, when no more requests are served."""
        for queue in self._queues.values():
            queue.finish()
        while not all(queue.idle for queue in self._queues.values()):  # noqa: ASYNC110 -- there is no event of this
            await trio.sleep(0.02)


def encode(spans: Sequence[FinishedSpan], resource: Mapping[str, str]) -> bytes:
    """The body of one post: ``ExportTraceServiceRequest``. Slow, and loads the SDK: for a thread."""
    from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import SpanContext, SpanKind, TraceFlags
    from opentelemetry.trace.status import Status, StatusCode

    about = Resource(dict(resource))
    scope = InstrumentationScope("ambimesh.waypoint")
    flags = TraceFlags(TraceFlags.SAMPLED)

    def made(span: FinishedSpan) -> ReadableSpan:
        trace_id = int(span.trace_id, 16)
        # Whose span a request's parent is we were told by others; an attempt's parent is ours.
        parent = SpanContext(trace_id, int(span.parent_id, 16), span.served, flags) if span.parent_id else None
        return ReadableSpan(
            name=span.name,
            context=SpanContext(trace_id, int(span.span_id, 16), False, flags),
            parent=parent,
            resource=about,
            instrumentation_scope=scope,
            attributes=span.attributes,
            kind=SpanKind.SERVER if span.served else SpanKind.CLIENT,
            status=Status(StatusCode.ERROR if span.failed else StatusCode.UNSET),
            # In whole microseconds: a float has no more of a date's.
            start_time=int(span.began * 1e6) * 1000,
            end_time=int(span.ended * 1e6) * 1000,
        )

    body: bytes = encode_spans([made(span) for span in spans]).SerializeToString()
    return body
