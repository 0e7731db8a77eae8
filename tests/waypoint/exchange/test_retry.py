"""Retries: by failure, by status, by time; bounded in number, by a budget and by what is kept of the body."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.model.http_route import Retry
from waypoint.exchange.retry import RetryPlan
from waypoint.http.contract import Failure, FailureKind
from waypoint.http.message import ResponseHead
from waypoint.testing.exchanges import Stage

GET = b"GET /a HTTP/1.1\r\nhost: h\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
DOWN = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\ndown"


def plan(*conditions: str, attempts: int = 2, **fields: object) -> RetryPlan:
    return RetryPlan(Retry(attempts=attempts, conditions=conditions, **fields))  # type: ignore[arg-type]


class Budget:
    def __init__(self, left: int) -> None:
        self.left = left

    def take(self) -> bool:
        if not self.left:
            return False
        self.left -= 1
        return True

    def give_back(self) -> None:
        self.left += 1


@pytest.mark.parametrize(
    ("condition", "kinds"),
    [
        ("connect-failure", {FailureKind.CONNECT, FailureKind.CONNECT_TIMEOUT}),
        ("refused-stream", {FailureKind.REFUSED}),
        ("reset-before-request", {FailureKind.CONNECT, FailureKind.CONNECT_TIMEOUT}),
        ("reset", set(FailureKind) - {FailureKind.OVERFLOW}),
        ("5xx", set(FailureKind) - {FailureKind.OVERFLOW}),
        ("gateway-error", set(FailureKind) - {FailureKind.OVERFLOW}),
        ("retriable-4xx", set()),
        ("unavailable", set()),
    ],
)
def test_failures_that_count(condition: str, kinds: set[FailureKind]) -> None:
    assert {kind for kind in FailureKind if plan(condition).for_failure(Failure(kind, ""))} == kinds


@pytest.mark.parametrize(
    ("made", "statuses"),
    [
        (plan("5xx"), {500, 502, 503, 504, 599}),
        (plan("gateway-error"), {502, 503, 504}),
        (plan("retriable-4xx"), {409}),
        (plan(statuses=(418,)), {418}),
        (plan("reset"), set()),
    ],
)
def test_statuses_that_count(made: RetryPlan, statuses: set[int]) -> None:
    looked_at = (200, 400, 409, 418, 500, 502, 503, 504, 599)
    assert {status for status in looked_at if made.for_answer(ResponseHead(status=status))} == statuses


def test_grpc_statuses_count() -> None:
    made = plan("unavailable", "cancelled")
    answered = {
        status: made.for_answer(ResponseHead(status=200, headers=[(b"grpc-status", status)]))
        for status in (b"0", b"1", b"4", b"14")
    }
    assert answered == {b"0": False, b"1": True, b"4": False, b"14": True}
    assert not made.for_answer(ResponseHead(status=200))


@given(retry=st.integers(1, 40), draw=st.floats(0, 1, exclude_max=True))
def test_backoff_grows_and_is_bounded(retry: int, draw: float) -> None:
    made = plan("5xx", backoff_seconds=0.025)
    assert 0 <= made.wait(retry, draw) <= 0.25
    assert made.wait(1, draw) <= made.wait(2, draw) <= made.wait(3, draw)


def test_a_status_is_tried_again_after_a_moment_elsewhere() -> None:
    stage = Stage(endpoints=2, retry=plan("5xx"))
    client = stage.client(GET)
    stage.upstreams[0].feed(DOWN)
    assert client.take() == b""
    assert stage.connectors[1].wires == []
    stage.clock.advance(0.1)
    stage.connectors[1].wires[0].feed(OK)
    assert client.take() == OK
    assert stage.observer.summary == [(200, "")]
    assert (stage.observer.facts[0].attempts, stage.observer.facts[0].endpoint) == (2, "endpoint-1")
    assert [outcome[:2] for outcome in stage.backend.outcomes] == [("endpoint-0", 503), ("endpoint-1", 200)]
    assert stage.pools[0].idle == 1, "the answer was here to its end, so its connection is of use"


def test_attempts_are_used_up_and_the_last_answer_counts() -> None:
    stage = Stage(retry=plan("5xx"))
    client = stage.client(GET)
    for number in range(3):
        assert client.take() == b""
        stage.upstreams[0].feed(DOWN)
        stage.clock.advance(1)
        assert len(stage.backend.outcomes) == number + 1
    assert client.take() == DOWN
    assert stage.observer.summary == [(503, "URX")]


def test_an_endpoint_that_refuses_connections() -> None:
    stage = Stage(endpoints=2, retry=plan("connect-failure"))
    stage.connectors[0].refuse = True
    client = stage.client(GET)
    stage.clock.advance(1)
    stage.connectors[1].wires[0].feed(OK)
    assert client.take() == OK
    stage.connectors[1].refuse = True
    stage.connectors[1].wires[0].hang_up()
    client.feed(GET)
    stage.clock.advance(5)
    assert client.take().startswith(b"HTTP/1.1 503 ")
    assert stage.observer.summary == [(200, ""), (503, "URX,UF")]


def test_a_body_is_sent_again_while_it_is_kept() -> None:
    stage = Stage(retry=plan("5xx"), body_limit=10)
    client = stage.client(b"POST /a HTTP/1.1\r\nhost: h\r\ncontent-length: 8\r\n\r\nabcd")
    client.feed(b"efgh")
    stage.upstreams[0].feed(DOWN)
    first = stage.upstreams[0].take()
    stage.clock.advance(1)
    assert stage.upstreams[-1].take() == first
    stage.upstreams[-1].feed(OK)
    assert client.take() == OK
    client.feed(b"POST /a HTTP/1.1\r\nhost: h\r\ncontent-length: 12\r\n\r\nabcdefgh")
    client.feed(b"ijkl")
    stage.upstreams[-1].feed(DOWN)
    assert client.take() == DOWN, "more than is kept"


def test_a_retry_while_the_body_is_still_coming() -> None:
    stage = Stage(retry=plan("5xx"))
    client = stage.client(b"POST /a HTTP/1.1\r\nhost: h\r\ncontent-length: 8\r\n\r\nabcd")
    stage.upstreams[0].feed(DOWN)
    assert client.paused
    stage.clock.advance(1)
    assert not client.paused
    client.feed(b"efgh")
    again = stage.upstreams[1]
    assert again.take().endswith(b"\r\n\r\nabcdefgh")
    again.feed(OK)
    assert client.take() == OK


def test_an_attempt_has_its_time() -> None:
    stage = Stage(endpoints=2, retry=plan("5xx", per_try_timeout_seconds=1.0), timeout=10.0)
    client = stage.client(GET)
    stage.clock.advance(1.1)
    assert stage.upstreams[0].was_reset
    stage.clock.advance(0.1)
    stage.connectors[1].wires[0].feed(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n")
    stage.clock.advance(5)
    stage.connectors[1].wires[0].feed(b"ok")
    assert client.take() == OK, "an answer that has begun may take longer"
    client.feed(GET)
    stage.clock.advance(9)
    assert client.take().startswith(b"HTTP/1.1 504 ")
    assert stage.observer.summary == [(200, ""), (504, "URX,UT")]
    assert ("endpoint-0", 504, None) in stage.backend.outcomes


def test_the_whole_request_has_its_time_retries_included() -> None:
    stage = Stage(retry=plan("5xx", attempts=100, backoff_seconds=1.0), timeout=3.0)
    client = stage.client(GET)
    for _ in range(10):
        stage.upstreams[0].feed(DOWN)
        stage.clock.advance(0.6)
    assert client.take().startswith(b"HTTP/1.1 504 ")
    assert stage.observer.summary == [(504, "UT")]


def test_a_budget_bounds_retries_of_all_requests_and_is_given_back() -> None:
    budget = Budget(1)
    stage = Stage(retry=RetryPlan(Retry(attempts=3, conditions=("5xx",)), budget))
    first, second = stage.client(GET), stage.client(GET)
    stage.upstreams[0].feed(DOWN)
    stage.upstreams[1].feed(DOWN)
    assert (first.take(), second.take()) == (b"", DOWN)
    stage.clock.advance(1)
    stage.upstreams[1].feed(OK)
    assert first.take() == OK
    assert budget.left == 1


def test_a_client_that_goes_during_backoff_ends_it() -> None:
    stage = Stage(retry=plan("5xx"))
    client = stage.client(GET)
    stage.upstreams[0].feed(DOWN)
    client.hang_up()
    stage.clock.advance(5)
    assert stage.observer.summary == [(0, "DC")]
    assert len(stage.backend.outcomes) == 1
