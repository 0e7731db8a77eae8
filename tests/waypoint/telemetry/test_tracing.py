"""Trace contexts, decisions, request ids, and spans that arrive at a collector."""

from __future__ import annotations

import gzip
import random
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from mesh.model.waypoint import Telemetry
from waypoint.http.message import Headers, RequestHead
from waypoint.telemetry.otlp_driver import MAX_WAITING, SpanExporter
from waypoint.telemetry.record import RequestRecord
from waypoint.telemetry.trace_codec import MAX_STATE_BYTES, extract, inject
from waypoint.telemetry.tracing import REQUEST_ID, Span, Tracer, request_id, span_attributes

TRACE, SPAN, OURS = b"0af7651916cd43dd8448eb211c80319c", b"b7ad6b7169203331", b"00f067aa0ba902b7"
PARENT = b"00-" + TRACE + b"-" + SPAN + b"-01"
Make = Callable[..., RequestRecord]

# -- contexts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "sampled"),
    [
        ([(b"traceparent", PARENT)], True),
        ([(b"traceparent", PARENT[:-1] + b"0")], False),
        ([(b"traceparent", b"cc" + PARENT[2:] + b"-what-the-future-brings")], True),
        ([(b"b3", TRACE + b"-" + SPAN)], None),
        ([(b"b3", TRACE + b"-" + SPAN + b"-1")], True),
        ([(b"b3", TRACE + b"-" + SPAN + b"-d-" + OURS)], True),
        ([(b"b3", TRACE + b"-" + SPAN + b"-0")], False),
        ([(b"x-b3-traceid", TRACE.upper()), (b"x-b3-spanid", SPAN), (b"x-b3-sampled", b"true")], True),
        ([(b"x-b3-traceid", TRACE), (b"x-b3-spanid", SPAN), (b"x-b3-sampled", b"0")], False),
        ([(b"x-b3-traceid", TRACE), (b"x-b3-spanid", SPAN), (b"x-b3-flags", b"1")], True),
        ([(b"x-b3-traceid", TRACE), (b"x-b3-spanid", SPAN)], None),
        ([(b"traceparent", b"bad"), (b"b3", TRACE + b"-" + SPAN + b"-1")], True),
        ([(b"b3", b"0"), (b"traceparent", PARENT)], True),
    ],
)
def test_contexts_are_read(headers: Headers, sampled: bool | None) -> None:
    context = extract(headers)
    assert context is not None
    assert (context.trace_id, context.span_id, context.sampled) == (TRACE, SPAN, sampled)


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"traceparent", b"")],
        [(b"traceparent", PARENT + b"-x")],
        [(b"traceparent", b"ff" + PARENT[2:])],
        [(b"traceparent", PARENT.upper())],
        [(b"traceparent", b"00-" + b"0" * 32 + b"-" + SPAN + b"-01")],
        [(b"traceparent", b"00-" + TRACE + b"-" + b"0" * 16 + b"-01")],
        [(b"traceparent", PARENT), (b"traceparent", PARENT)],
        [(b"traceparent", PARENT.replace(b"-", b"_"))],
        [(b"b3", b"1")],
        [(b"b3", b"d")],
        [(b"b3", TRACE + b"-" + SPAN + b"-x")],
        [(b"b3", TRACE + b"-" + SPAN + b"-1-" + OURS + b"-more")],
        [(b"x-b3-traceid", TRACE)],
        [(b"x-b3-spanid", SPAN)],
        [(b"x-b3-traceid", b"xyz"), (b"x-b3-spanid", SPAN)],
    ],
)
def test_what_cannot_be_read_was_not_sent(headers: Headers) -> None:
    assert extract(headers) is None


def test_short_b3_ids_are_lengthened() -> None:
    context = extract([(b"b3", SPAN + b"-" + SPAN)])
    assert context is not None
    assert context.trace_id == b"0" * 16 + SPAN


def test_a_context_goes_on_in_the_forms_in_which_it_came() -> None:
    headers: Headers = [(b"a", b"b"), (b"traceparent", PARENT), (b"tracestate", b"x=1"), (b"tracestate", b"y=2")]
    headers += [(b"b3", TRACE + b"-" + SPAN + b"-1")]
    context = extract(headers)
    assert context is not None
    inject(headers, context, OURS, True)
    assert headers == [
        *((b"a", b"b"), (b"traceparent", b"00-" + TRACE + b"-" + OURS + b"-01"), (b"tracestate", b"x=1,y=2")),
        (b"b3", TRACE + b"-" + OURS + b"-1-" + SPAN),
    ]
    multi: Headers = [(b"x-b3-traceid", TRACE), (b"x-b3-spanid", SPAN), (b"x-b3-flags", b"1")]
    context = extract(multi)
    assert context is not None
    inject(multi, context, OURS, False)
    assert dict(multi) == {
        b"x-b3-traceid": TRACE,
        b"x-b3-spanid": OURS,
        b"x-b3-parentspanid": SPAN,
        b"x-b3-sampled": b"0",
    }


def test_a_huge_state_is_dropped() -> None:
    context = extract([(b"traceparent", PARENT), (b"tracestate", b"x" * (MAX_STATE_BYTES + 1))])
    assert context is not None
    assert context.state == b""


@given(st.binary(max_size=80))
def test_garbage_never_raises(value: bytes) -> None:
    for name in (b"traceparent", b"b3", b"x-b3-traceid"):
        extract([(name, value), (b"x-b3-spanid", value)])


# -- decisions ---------------------------------------------------------------------------------------------------------


def _head(*headers: tuple[bytes, bytes]) -> RequestHead:
    return RequestHead(method=b"GET", path=b"/", authority=b"echo", headers=list(headers))


def _tracer(percent: float, chance: float = 0.5) -> Tracer:
    return Tracer(Telemetry(sampling_percent=percent), lambda: chance, random.Random(1).getrandbits)


def test_the_clients_decision_is_kept() -> None:
    head = _head((b"traceparent", PARENT))
    span = _tracer(0.0).begin(head)
    assert span is not None
    assert (span.trace_id, span.parent_id) == (TRACE, SPAN)
    assert head.headers == [(b"traceparent", b"00-" + TRACE + b"-" + span.span_id + b"-01")]
    unsampled = _head((b"traceparent", PARENT[:-1] + b"0"))
    assert _tracer(100.0).begin(unsampled) is None
    assert unsampled.headers == [(b"traceparent", PARENT[:-1] + b"0")]


def test_a_trace_is_begun_by_share() -> None:
    for percent, chance, begun in [(0.0, 0.0, False), (1.0, 0.009, True), (1.0, 0.01, False), (100.0, 0.999, True)]:
        for headers in ([], [(b"b3", TRACE + b"-" + SPAN)]):
            head = _head(*headers)
            span = _tracer(percent, chance).begin(head)
            assert (span is not None) is begun
            if span is None:
                assert head.headers == headers
            elif not headers:
                assert span.parent_id == b""
                assert re.fullmatch(rb"00-[0-9a-f]{32}-[0-9a-f]{16}-01", head.headers[0][1])


def test_request_ids() -> None:
    headers: Headers = []
    made = request_id(headers, random.Random(1).getrandbits)
    assert re.fullmatch(rb"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", made)
    assert headers == [(REQUEST_ID, made)]
    assert request_id(headers, lambda count: 0) == made
    for bad in (b"", b"x" * 257, b"a\x7f", b"\xff"):
        headers = [(REQUEST_ID, bad)]
        assert len(request_id(headers, random.Random(1).getrandbits)) == 36
        assert len(headers) == 1


def test_a_spans_attributes(finished: Make) -> None:
    attributes = span_attributes(finished(grpc_status=0, request_id=b"i"), (("team", "shop"),))
    assert attributes["http.response.status_code"] == 200
    assert attributes["url.path"] == "/a"
    assert attributes["team"] == "shop"
    assert attributes["rpc.grpc.status_code"] == 0


# -- a collector -------------------------------------------------------------------------------------------------------


class _Collector(HTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.received: list[ExportTraceServiceRequest] = []
        self.arrived = threading.Event()


class _Handler(BaseHTTPRequestHandler):
    server: _Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        self.server.received.append(ExportTraceServiceRequest.FromString(body))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()
        self.server.arrived.set()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[_Collector]:
    with _Collector() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


async def test_spans_arrive_at_a_collector(collector: _Collector, finished: Make) -> None:
    exporter = SpanExporter(f"http://127.0.0.1:{collector.server_port}/v1/traces", {"service.name": "waypoint"})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(exporter.run)
        exporter.finished(Span(TRACE, OURS, SPAN), finished(status=503), (("team", "shop"),))
        with trio.fail_after(20):
            await trio.to_thread.run_sync(collector.arrived.wait, 20)
        nursery.cancel_scope.cancel()
    [resource] = collector.received[0].resource_spans
    assert resource.resource.attributes[0].value.string_value == "waypoint"
    [span] = resource.scope_spans[0].spans
    assert (span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex()) == (
        TRACE.decode(),
        OURS.decode(),
        SPAN.decode(),
    )
    assert span.end_time_unix_nano - span.start_time_unix_nano == pytest.approx(20_000_000, abs=1000)
    assert span.status.code == span.status.STATUS_CODE_ERROR
    assert exporter.dropped == 0


async def test_waiting_spans_are_bounded(finished: Make) -> None:
    exporter = SpanExporter("http://127.0.0.1:1/v1/traces", {})
    record = finished()
    for _ in range(MAX_WAITING + 3):
        exporter.finished(Span(TRACE, OURS, b""), record)
    assert exporter.dropped == 3
