"""What an exchange notes of its attempts, and which context each of them is sent."""

from __future__ import annotations

import random
import re

from mesh.model.http_route import Retry
from mesh.model.waypoint import Telemetry
from waypoint.exchange.retry import RetryPlan
from waypoint.telemetry.tracing import TIMED_OUT, RequestTrace, Tracer
from waypoint.testing.exchanges import Stage
from waypoint.testing.wires import MemoryWire

GET = b"GET /a HTTP/1.1\r\nhost: web\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
BUSY = b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n"


def stage_of(**fields: object) -> Stage:
    stage = Stage(**fields)  # type: ignore[arg-type]
    generator = random.Random(1)
    stage.observer.tracer = Tracer(Telemetry(sampling_percent=100.0), generator.random, generator.getrandbits)
    return stage


def sent_context(wire: MemoryWire) -> bytes:
    [context] = re.findall(rb"traceparent: 00-[0-9a-f]{32}-([0-9a-f]{16})-01\r\n", wire.take())
    assert isinstance(context, bytes)
    return context


def trace_of(stage: Stage) -> RequestTrace:
    trace = stage.observer.facts[-1].trace
    assert trace is not None
    return trace


def test_an_attempt_is_the_endpoints_parent() -> None:
    stage = stage_of()
    client = stage.client(GET)
    parent = sent_context(stage.upstreams[0])
    stage.upstreams[0].feed(OK)
    assert client.take() == OK
    trace = trace_of(stage)
    [notes] = trace.attempts
    assert parent == notes.span_id != trace.span_id
    assert (notes.status, notes.failure, notes.endpoint) == (200, "", "endpoint-0")


def test_every_retry_is_an_attempt_of_its_own() -> None:
    plan = RetryPlan(Retry(attempts=2, statuses=(503,), backoff_seconds=0.1))
    stage = stage_of(endpoints=3, retry=plan)
    client = stage.client(GET)
    parents = [sent_context(stage.connectors[0].wires[0])]
    stage.connectors[0].wires[0].feed(BUSY)
    stage.clock.advance(1)
    parents.append(sent_context(stage.connectors[1].wires[0]))
    stage.connectors[1].wires[0].feed(BUSY)
    stage.clock.advance(1)
    parents.append(sent_context(stage.connectors[2].wires[0]))
    stage.connectors[2].wires[0].feed(OK)
    assert client.take() == OK
    trace = trace_of(stage)
    assert [notes.span_id for notes in trace.attempts] == parents
    assert [(notes.status, notes.endpoint) for notes in trace.attempts] == [
        (503, "endpoint-0"),
        (503, "endpoint-1"),
        (200, "endpoint-2"),
    ]


def test_attempts_that_fail_or_take_too_long() -> None:
    stage = stage_of()
    stage.client(GET)
    stage.upstreams[0].feed(b"nonsense\r\n\r\n")
    [failed] = trace_of(stage).attempts
    assert (failed.status, bool(failed.failure)) == (0, True)
    slow = stage_of(try_timeout=1.0)
    slow.client(GET)
    slow.clock.advance(1.5)
    [timed_out] = trace_of(slow).attempts
    assert (timed_out.status, timed_out.failure) == (0, TIMED_OUT)
    assert timed_out.ended > timed_out.began


def test_a_client_that_goes_leaves_an_attempt_given_up() -> None:
    stage = stage_of()
    client = stage.client(GET)
    client.lose()
    [notes] = trace_of(stage).attempts
    assert (notes.status, notes.failure) == (0, "")
    assert notes.ended >= notes.began


def test_without_a_tracer_nothing_is_added() -> None:
    stage = Stage()
    stage.client(GET)
    assert b"traceparent" not in stage.upstreams[0].take()
    stage.upstreams[0].feed(OK)
    assert stage.observer.facts[0].trace is None
