"""Questions of the waypoint's own: answered whole and once, or not at all, within bounds."""

from __future__ import annotations

from typing import Any

import pytest

from waypoint.http.contract import FailureKind
from waypoint.http.message import RequestHead
from waypoint.testing.exchanges import FixedBackend
from waypoint.testing.wires import ManualClock, MemoryConnector
from waypoint.upstream.inquiry import Inquiry, InquiryAnswer, Outcome
from waypoint.upstream.pool_contract import PoolLimits
from waypoint.upstream.pool_h1 import H1Pool
from waypoint.upstream.pool_h2 import H2Pool


class Asking:
    """A pool without a network, and questions to it."""

    def __init__(self, kind: type[H1Pool] | type[H2Pool] = H1Pool, **limits: Any) -> None:
        self.clock = ManualClock()
        self.connector = MemoryConnector()
        self.pool = kind("endpoint", self.connector, self.clock.timers, PoolLimits(**limits))
        self.backend = FixedBackend(self.pool)
        self.outcomes: list[Outcome] = []

    def ask(self, body: bytes = b"", **fields: Any) -> Inquiry:
        headers = [(b"content-length", b"%d" % len(body))] if body else []
        head = RequestHead(method=b"POST", path=b"/q", authority=b"judge", headers=headers)
        bounds = {"timeout": 1.0, "max_body": 10, **fields}
        inquiry = Inquiry(self.clock.timers, self.backend, head, body, self.outcomes.append, **bounds)
        inquiry.start()
        return inquiry


def test_the_whole_answer_is_told_once() -> None:
    asking = Asking()
    asking.ask(b"body")
    wire = asking.connector.wires[0]
    assert wire.take().endswith(b"\r\n\r\nbody")
    wire.feed(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 401 No\r\nx-why: w\r\ncontent-length: 4\r\n\r\nno")
    assert asking.outcomes == []
    wire.feed(b"pe")
    [answer] = asking.outcomes
    assert isinstance(answer, InquiryAnswer)
    assert (answer.status, answer.body) == (401, b"nope")
    assert (b"x-why", b"w") in answer.headers
    assert asking.backend.outcomes == [("endpoint", 401, None)]
    asking.ask()
    assert len(asking.connector.wires) == 1, "the connection is used again"
    asking.clock.advance(5)
    assert asking.outcomes[1:] == ["no answer within 1 s"]


def test_who_does_not_answer_is_given_up_and_its_connection_with_it() -> None:
    asking = Asking()
    asking.ask()
    asking.clock.advance(1.1)
    assert asking.outcomes == ["no answer within 1 s"]
    assert asking.backend.outcomes == [("endpoint", 504, None)]
    assert asking.pool.active == 0
    assert asking.connector.wires[0].closed


def test_an_answer_has_a_greatest_size() -> None:
    asking = Asking()
    asking.ask()
    asking.connector.wires[0].feed(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n" + b"x" * 11)
    assert asking.outcomes == ["the answer has more than 10 bytes"]
    assert asking.connector.wires[0].closed


@pytest.mark.parametrize("kind", [H1Pool, H2Pool])
def test_nobody_is_told_of_what_was_cancelled(kind: type[H1Pool] | type[H2Pool]) -> None:
    asking = Asking(kind)
    inquiry = asking.ask()
    inquiry.cancel()
    inquiry.cancel()
    asking.clock.advance(5)
    assert asking.outcomes == []
    assert asking.pool.active == 0
    assert inquiry.over


def test_a_connection_that_had_just_ended_costs_nothing() -> None:
    asking = Asking()
    asking.ask()
    asking.connector.wires[0].feed(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
    asking.ask()
    asking.connector.wires[0].hang_up()
    assert len(asking.outcomes) == 1
    asking.connector.wires[1].feed(b"HTTP/1.1 204 OK\r\n\r\n")
    [_, answer] = asking.outcomes
    assert isinstance(answer, InquiryAnswer)
    assert answer.status == 204


def test_no_endpoint_and_a_failed_connection_are_told_in_words() -> None:
    asking = Asking()
    asking.backend.pools.clear()
    asking.ask()
    assert asking.outcomes == ["no healthy upstream"]
    asking = Asking()
    asking.ask()
    asking.connector.wires[0].hang_up()
    assert len(asking.outcomes) == 1
    assert isinstance(asking.outcomes[0], str)
    [(_, status, failure)] = asking.backend.outcomes
    assert (status, failure is not None and failure.kind) == (0, FailureKind.LOST)
