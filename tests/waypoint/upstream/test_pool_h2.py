"""HTTP/2 connections to an endpoint: one for all, more while it is full; limits, deadlines, draining."""

from __future__ import annotations

import struct

from waypoint.http.contract import Call, Failure, FailureKind, Unwanted
from waypoint.http.h2_header_codec import encode_fields
from waypoint.http.message import Headers, RequestHead, ResponseHead
from waypoint.testing.wires import ManualClock, MemoryConnector, MemoryWire
from waypoint.upstream.pool_contract import PoolLimits
from waypoint.upstream.pool_dial import Dialling
from waypoint.upstream.pool_h2 import H2Pool

GET = RequestHead(method=b"GET", path=b"/", authority=b"h")


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def settings(streams: int) -> bytes:
    return frame(4, 0, 0, struct.pack(">HI", 3, streams))


def answer(stream: int) -> bytes:
    return frame(1, 5, stream, encode_fields([(b":status", b"200")]))


class Caller(Unwanted):
    def __init__(self, pool: H2Pool) -> None:
        self.call: Call | None = None
        self.status = 0
        self.failure: Failure | None = None
        result = pool.open(self)
        if isinstance(result, Failure):
            self.failure = result
        elif result is not None:
            self.call_ready(result)

    def call_ready(self, call: Call) -> None:
        self.call = call
        call.send_head(GET, end=True)

    def response_head(self, head: ResponseHead, *, end: bool) -> None:
        assert end
        self.status = head.status

    def response_end(self, trailers: Headers | None) -> None:
        raise AssertionError("the head was the end")

    def call_failed(self, failure: Failure) -> None:
        self.failure = failure


def made(**limits: float) -> tuple[H2Pool, MemoryConnector, ManualClock]:
    clock, connector = ManualClock(), MemoryConnector()
    return H2Pool("e", connector, clock.timers, PoolLimits(**limits)), connector, clock  # type: ignore[arg-type]


def test_requests_share_a_connection_and_those_who_ask_early_wait_for_one_dial() -> None:
    pool, connector, _ = made()
    connector.at_once = False
    callers = [Caller(pool) for _ in range(3)]
    assert (len(connector.waiting), pool.pending, pool.active) == (1, 3, 3)
    connector.finish_one()
    (wire,) = connector.wires
    wire.feed(settings(100) + answer(1) + answer(3) + answer(5))
    assert [caller.status for caller in callers] == [200, 200, 200]
    assert (pool.active, pool.idle, pool.connections) == (0, 1, 1)


def test_another_connection_only_while_all_are_full() -> None:
    pool, connector, _ = made(connections=2, pending=1)
    Caller(pool)
    connector.wires[0].feed(settings(1))
    Caller(pool)
    connector.wires[1].feed(settings(1))
    third, fourth = Caller(pool), Caller(pool)
    assert (len(connector.wires), pool.pending) == (2, 1)
    assert fourth.failure is not None
    assert fourth.failure.kind is FailureKind.OVERFLOW
    connector.wires[0].feed(answer(1))
    assert third.call is not None
    connector.wires[0].feed(answer(3))
    assert third.status == 200


def test_a_peer_that_admits_more_is_used_at_once() -> None:
    pool, connector, _ = made(connections=1)
    Caller(pool)
    connector.wires[0].feed(settings(1))
    waiting = Caller(pool)
    assert waiting.call is None
    connector.wires[0].feed(settings(2))
    assert waiting.call is not None


def test_a_connection_that_cannot_be_made_or_not_in_time() -> None:
    pool, connector, clock = made(connect_seconds=3.0)
    connector.refuse = True
    refused = Caller(pool)
    assert refused.failure is not None
    assert refused.failure.kind is FailureKind.CONNECT
    connector.at_once = False
    late = Caller(pool)
    clock.advance(3.1)
    assert late.failure is not None
    assert late.failure.kind is FailureKind.CONNECT_TIMEOUT
    assert (pool.active, connector.cancelled) == (0, 1)


def test_one_who_does_not_wait_any_more() -> None:
    pool, connector, _ = made()
    connector.at_once = False
    caller = Caller(pool)
    pool.forget(caller)
    assert pool.active == 0
    connector.finish_one()
    assert caller.call is None
    assert pool.idle == 1


def test_going_away_keeps_what_is_under_way_and_takes_no_more() -> None:
    pool, connector, _ = made()
    first = Caller(pool)
    connector.wires[0].feed(settings(100) + frame(7, 0, 0, struct.pack(">II", 1, 0)))
    second = Caller(pool)
    assert len(connector.wires) == 2
    connector.wires[0].feed(answer(1))
    connector.wires[1].feed(settings(100) + answer(1))
    assert (first.status, second.status) == (200, 200)
    assert connector.wires[0].closed


def test_a_connection_carries_so_many_requests() -> None:
    pool, connector, _ = made(requests_per_connection=2)
    callers = [Caller(pool) for _ in range(3)]
    assert len(connector.wires) == 2
    connector.wires[0].feed(settings(100) + answer(1) + answer(3))
    assert [caller.status for caller in callers] == [200, 200, 0]
    assert connector.wires[0].closed


def test_draining() -> None:
    pool, connector, _ = made()
    caller = Caller(pool)
    pool.drain()
    assert not connector.wires[0].closed
    connector.wires[0].feed(settings(100) + answer(1))
    assert caller.status == 200
    assert connector.wires[0].closed


def test_a_wire_that_comes_too_late_is_reset() -> None:
    clock, connector = ManualClock(), MemoryConnector(at_once=False)
    told: list[object] = []

    class Pool:
        def dialled(self, dialling: Dialling, wire: object, failure: Failure | None) -> None:
            told.append(failure)

    dialling = Dialling(Pool())
    dialling.start(connector, clock.timers, 1.0)
    clock.advance(2)
    connector.finish_one()
    wire: MemoryWire = connector.wires[0]
    assert wire.was_reset
    assert len(told) == 1
