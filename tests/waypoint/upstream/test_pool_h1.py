"""HTTP/1.1 connections to an endpoint: reuse, limits, deadlines, draining."""

from __future__ import annotations

from waypoint.http.contract import Call, Failure, FailureKind, Unwanted
from waypoint.http.message import Headers, RequestHead, ResponseHead
from waypoint.testing.wires import ManualClock, MemoryConnector
from waypoint.upstream.pool_contract import PoolLimits
from waypoint.upstream.pool_h1 import H1Pool

GET = RequestHead(method=b"GET", path=b"/", authority=b"h")
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"


class Caller(Unwanted):
    """Sends one GET as soon as it can."""

    def __init__(self, pool: H1Pool, *, fresh: bool = False) -> None:
        self.call: Call | None = None
        self.status = 0
        self.ended = False
        self.failure: Failure | None = None
        result = pool.open(self, fresh=fresh)
        if isinstance(result, Failure):
            self.failure = result
        elif result is not None:
            self.call_ready(result)

    def call_ready(self, call: Call) -> None:
        self.call = call
        call.send_head(GET, end=True)

    def response_head(self, head: ResponseHead, *, end: bool) -> None:
        self.status = head.status

    def response_end(self, trailers: Headers | None) -> None:
        self.ended = True

    def response_flush(self) -> None:
        pass

    def call_failed(self, failure: Failure) -> None:
        self.failure = failure


def made(**limits: float) -> tuple[H1Pool, MemoryConnector, ManualClock]:
    clock, connector = ManualClock(), MemoryConnector()
    return H1Pool("e", connector, clock.timers, PoolLimits(**limits)), connector, clock  # type: ignore[arg-type]


def test_a_connection_is_used_again_and_a_second_made_only_while_it_is_busy() -> None:
    pool, connector, _ = made()
    first = Caller(pool)
    connector.wires[0].feed(OK)
    assert first.ended
    second, third = Caller(pool), Caller(pool)
    assert len(connector.wires) == 2
    assert pool.active == 2
    for wire in connector.wires:
        wire.feed(OK)
    assert (second.ended, third.ended, pool.active, pool.idle, pool.connections) == (True, True, 0, 2, 2)


def test_limits_of_connections_and_of_those_who_wait() -> None:
    pool, connector, _ = made(connections=1, pending=1)
    first, second, third = Caller(pool), Caller(pool), Caller(pool)
    assert third.failure is not None
    assert third.failure.kind is FailureKind.OVERFLOW
    assert (len(connector.wires), pool.pending, pool.active) == (1, 1, 2)
    connector.wires[0].feed(OK)
    assert first.ended
    assert second.call is not None
    connector.wires[0].feed(OK)
    assert second.ended
    assert (pool.pending, pool.active) == (0, 0)


def test_a_lost_connection_makes_room_for_those_who_wait() -> None:
    pool, connector, _ = made(connections=1)
    first, second = Caller(pool), Caller(pool)
    connector.wires[0].lose()
    assert first.failure is not None
    assert (first.failure.kind, first.failure.stale) == (FailureKind.LOST, False)
    connector.wires[1].feed(OK)
    assert second.ended
    assert pool.active == 0


def test_a_connection_that_cannot_be_made() -> None:
    pool, connector, _ = made()
    connector.refuse = True
    caller = Caller(pool)
    assert caller.failure is not None
    assert caller.failure.kind is FailureKind.CONNECT
    assert (pool.active, pool.pending, pool.connections) == (0, 0, 0)


def test_a_connection_that_is_not_made_in_time() -> None:
    pool, connector, clock = made(connect_seconds=3.0)
    connector.at_once = False
    caller = Caller(pool)
    clock.advance(2.9)
    assert caller.failure is None
    clock.advance(0.2)
    assert caller.failure is not None
    assert caller.failure.kind is FailureKind.CONNECT_TIMEOUT
    assert connector.cancelled == 1
    connector.finish_one()
    assert connector.wires[0].was_reset, "it came too late"


def test_one_who_does_not_wait_any_more() -> None:
    pool, connector, _ = made()
    connector.at_once = False
    caller = Caller(pool)
    pool.forget(caller)
    assert pool.active == 0
    connector.finish_one()
    assert caller.call is None
    assert pool.idle == 1


def test_idle_connections_are_closed_in_time() -> None:
    pool, connector, clock = made(idle_seconds=10.0)
    callers = [Caller(pool), Caller(pool)]
    connector.wires[0].feed(OK)
    clock.advance(6)
    connector.wires[1].feed(OK)
    clock.advance(5)
    assert [wire.closed for wire in connector.wires] == [True, False]
    clock.advance(6)
    assert connector.wires[1].closed
    assert all(caller.ended for caller in callers)
    assert (pool.connections, pool.idle) == (0, 0)


def test_an_idle_connection_that_ends_or_says_something_is_forgotten() -> None:
    pool, connector, _ = made()
    for end in ("hang up", "speak", "lose"):
        Caller(pool)
        wire = connector.wires[-1]
        wire.feed(OK)
        assert pool.idle == 1
        if end == "hang up":
            wire.hang_up()
        elif end == "lose":
            wire.lose()
        else:
            wire.feed(b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n")
        assert (pool.idle, pool.connections, wire.closed) == (0, 0, True)


def test_a_second_answer_to_one_request_is_nobodys() -> None:
    pool, connector, _ = made()
    caller = Caller(pool)
    connector.wires[0].feed(OK + b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison")
    assert caller.ended
    assert connector.wires[0].closed
    assert pool.connections == 0


def test_a_second_answer_does_not_go_to_the_next_who_waits() -> None:
    pool, connector, _ = made(connections=1)
    first, second = Caller(pool), Caller(pool)
    connector.wires[0].feed(OK + b"HTTP/1.1 299 Poison\r\ncontent-length: 0\r\n\r\n")
    assert (first.status, second.status) == (200, 0)
    connector.wires[1].feed(OK)
    assert second.status == 200


def test_a_connection_carries_so_many_requests() -> None:
    pool, connector, _ = made(requests_per_connection=2)
    for _ in range(3):
        Caller(pool)
        connector.wires[-1].feed(OK)
    assert len(connector.wires) == 2
    assert connector.wires[0].closed


def test_a_connection_that_closes_after_its_answer_is_not_kept() -> None:
    pool, connector, _ = made()
    Caller(pool)
    connector.wires[0].feed(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
    assert pool.connections == 0
    assert connector.wires[0].closed


def test_draining_closes_what_is_idle_and_the_rest_as_it_ends() -> None:
    pool, connector, _ = made()
    busy, idle = Caller(pool), Caller(pool)
    connector.wires[1].feed(OK)
    assert idle.ended
    pool.drain()
    assert [wire.closed for wire in connector.wires] == [False, True]
    connector.wires[0].feed(OK)
    assert busy.ended
    assert connector.wires[0].closed
    assert pool.connections == 0


def test_a_fresh_connection_on_request() -> None:
    pool, connector, _ = made(connections=1)
    Caller(pool)
    connector.wires[0].feed(OK)
    Caller(pool, fresh=True)
    assert len(connector.wires) == 2
    assert connector.wires[0].closed, "it makes room"
