"""Trace contexts, decisions and request ids."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.model.waypoint import Telemetry
from waypoint.http.message import Headers, RequestHead
from waypoint.telemetry.trace_codec import MAX_STATE_BYTES, declined, extract, inject
from waypoint.telemetry.tracing import MAX_ATTEMPTS, REQUEST_ID, Tracer, request_id

TRACE, SPAN, OURS = b"0af7651916cd43dd8448eb211c80319c", b"b7ad6b7169203331", b"00f067aa0ba902b7"
PARENT = b"00-" + TRACE + b"-" + SPAN + b"-01"

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
    multi: Headers = [(b"x-b3-traceid", TRACE), (b"x-b3-spanid", SPAN), (b"x-b3-sampled", b"1")]
    context = extract(multi)
    assert context is not None
    inject(multi, context, OURS, False)
    assert dict(multi) == {
        b"x-b3-traceid": TRACE,
        b"x-b3-spanid": OURS,
        b"x-b3-parentspanid": SPAN,
        b"x-b3-sampled": b"0",
    }


def test_debugging_goes_on() -> None:
    for brought, goes_on in [
        ([(b"x-b3-traceid", TRACE), (b"x-b3-spanid", SPAN), (b"x-b3-flags", b"1")], (b"x-b3-flags", b"1")),
        ([(b"b3", TRACE + b"-" + SPAN + b"-d")], (b"b3", TRACE + b"-" + OURS + b"-d-" + SPAN)),
    ]:
        headers: Headers = list(brought)
        context = extract(headers)
        assert context is not None
        inject(headers, context, OURS, True)
        assert goes_on in headers
        assert b"x-b3-sampled" not in dict(headers)


def test_a_lone_decision_against_it_counts() -> None:
    for headers in ([(b"b3", b"0")], [(b"x-b3-sampled", b"0")], [(b"x-b3-sampled", b"False")]):
        assert declined(headers)
        head = _head(*headers)
        assert _tracer(100.0).begin(head) is None
        assert head.headers == headers
    assert not declined([(b"b3", b"1"), (b"x-b3-sampled", b"1")])


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
    trace = _tracer(0.0).begin(head)
    assert trace is not None
    assert (trace.trace_id, trace.parent_id) == (TRACE, SPAN)
    assert head.headers == [(b"traceparent", b"00-" + TRACE + b"-" + trace.span_id + b"-01")]
    unsampled = _head((b"traceparent", PARENT[:-1] + b"0"))
    assert _tracer(100.0).begin(unsampled) is None
    assert unsampled.headers == [(b"traceparent", PARENT[:-1] + b"0")]


def test_a_trace_is_begun_by_share() -> None:
    for percent, chance, begun in [(0.0, 0.0, False), (1.0, 0.009, True), (1.0, 0.01, False), (100.0, 0.999, True)]:
        for headers in ([], [(b"b3", TRACE + b"-" + SPAN)]):
            head = _head(*headers)
            trace = _tracer(percent, chance).begin(head)
            assert (trace is not None) is begun
            if trace is None:
                assert head.headers == headers
            elif not headers:
                assert trace.parent_id == b""
                assert re.fullmatch(rb"00-[0-9a-f]{32}-[0-9a-f]{16}-01", head.headers[0][1])


def test_each_attempt_is_sent_a_context_of_its_own() -> None:
    head = _head((b"b3", TRACE + b"-" + SPAN + b"-1"), (b"traceparent", PARENT))
    trace = _tracer(0.0).begin(head)
    assert trace is not None
    seen = {trace.span_id}
    for number in range(MAX_ATTEMPTS + 2):
        trace.attempt(head, "10.0.0.1:80", float(number))
        span_id = trace.attempts[-1].span_id
        headers = dict(head.headers)
        assert len(headers) == len(head.headers)
        assert headers[b"traceparent"] == b"00-" + TRACE + b"-" + span_id + b"-01"
        assert headers[b"b3"] == TRACE + b"-" + span_id + b"-1-" + trace.span_id
        seen.add(span_id)
        trace.attempt_over(503, "", number + 0.5)
        trace.attempt_over(0, "told too late", number + 0.7)
    assert len(seen) == len(trace.attempts) + 1 == MAX_ATTEMPTS + 1
    assert {(notes.status, notes.failure, notes.ended - notes.began) for notes in trace.attempts} == {(503, "", 0.5)}


def test_request_ids() -> None:
    headers: Headers = []
    made = request_id(headers, random.Random(1).getrandbits, trusted=True)
    assert re.fullmatch(rb"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", made)
    assert headers == [(REQUEST_ID, made)]
    assert request_id(headers, lambda count: 0, trusted=True) == made
    for trusted, given_id in ((True, b""), (True, b"x" * 257), (True, b"a\x7f"), (True, b"\xff"), (False, b"mine")):
        headers = [(REQUEST_ID, given_id)]
        anew = request_id(headers, random.Random(2).getrandbits, trusted=trusted)
        assert len(anew) == 36
        assert headers == [(REQUEST_ID, anew)]
