"""Spans sent to a collector: OTLP over HTTP, by opentelemetry-sdk's exporter (the optional extra ``tracing``).

Requests put finished spans into a bounded queue; a task sends them in batches from a thread, because the exporter
blocks. A collector that is slow or away costs spans, which are counted, never a request's time. The SDK's own batch
processor is not used: it would run a thread whose end nobody owns.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, Never

import structlog
import trio

from mesh.errors import ConfigurationError
from waypoint.telemetry.record import RequestRecord
from waypoint.telemetry.tracing import Span, span_attributes

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

_log = structlog.get_logger()

MAX_WAITING: Final = 8192
BATCH: Final = 512
FLUSH_SECONDS: Final = 2.0
_EXPORT_SECONDS: Final = 5.0


class SpanExporter:
    """The way to one collector."""

    def __init__(self, endpoint: str, resource: Mapping[str, str]) -> None:
        """Prepare; nothing is sent yet.

        Args:
            endpoint: the collector's address for traces, such as ``http://collector:4318/v1/traces``.
            resource: who we are: ``service.name`` and the like.

        Raises:
            ConfigurationError: the extra is not installed.
        """
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
        except ImportError as error:
            raise ConfigurationError(
                "tracing needs opentelemetry-sdk and its OTLP exporter: install ambimesh[tracing]"
            ) from error
        self._exporter = OTLPSpanExporter(endpoint=endpoint, timeout=_EXPORT_SECONDS)
        self._resource = Resource(dict(resource))
        self._waiting: deque[ReadableSpan] = deque()
        self._full = trio.Event()
        self.dropped = 0
        """Spans lost, in all."""

    def finished(self, span: Span, record: RequestRecord, tags: tuple[tuple[str, str], ...] = ()) -> None:
        """A recorded request is over."""
        if len(self._waiting) >= MAX_WAITING:
            self.dropped += 1
            return
        self._waiting.append(self._made(span, record, tags))
        if len(self._waiting) >= BATCH:
            self._full.set()

    async def run(self) -> Never:
        """Send until cancelled; what waits then is lost, the next but one second of it at most."""
        try:
            while True:
                with trio.move_on_after(FLUSH_SECONDS):
                    await self._full.wait()
                self._full = trio.Event()
                while self._waiting:
                    await self._send()
        finally:
            self._exporter.shutdown()  # type: ignore[no-untyped-call]

    async def _send(self) -> None:
        from opentelemetry.sdk.trace.export import SpanExportResult

        batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
        result = await trio.to_thread.run_sync(self._export, batch, abandon_on_cancel=True)
        if result is not SpanExportResult.SUCCESS:
            self.dropped += len(batch)
            _log.warning("spans not taken by the collector", spans=len(batch), dropped=self.dropped)

    def _export(self, batch: Sequence[ReadableSpan]) -> object:
        return self._exporter.export(batch)

    def _made(self, span: Span, record: RequestRecord, tags: tuple[tuple[str, str], ...]) -> ReadableSpan:
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.trace import SpanContext, SpanKind, TraceFlags
        from opentelemetry.trace.status import Status, StatusCode

        trace_id = int(span.trace_id, 16)
        flags = TraceFlags(TraceFlags.SAMPLED)
        parent = SpanContext(trace_id, int(span.parent_id, 16), True, flags) if span.parent_id else None
        began = int(record.started_wall * 1e9)
        failed = record.status == 0 or record.status >= 500
        return ReadableSpan(
            name=record.route or record.destination or "unknown",
            context=SpanContext(trace_id, int(span.span_id, 16), False, flags),
            parent=parent,
            resource=self._resource,
            attributes=dict(span_attributes(record, tags)),
            kind=SpanKind.SERVER,
            status=Status(StatusCode.ERROR if failed else StatusCode.UNSET),
            start_time=began,
            end_time=began + int((record.ended - record.started) * 1e9),
        )
