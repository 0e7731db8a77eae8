"""A client's HTTP/2 connection, with h2 as the client: streams, windows, malformed requests, floods, going away."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from h2.errors import ErrorCodes

from waypoint.exchange.decision import Answer
from waypoint.http.limits import HttpLimits
from waypoint.testing.exchanges import Stage

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


SETTINGS = frame(4)


def test_requests_side_by_side_over_http1_endpoints(h2_peer: Any) -> None:
    stage = Stage()
    client = h2_peer(stage.client(), client=True)
    first, second = client.request((b"x-a", b"1")), client.request(path=b"/b?c")
    assert stage.upstreams[0].take() == b"GET /a HTTP/1.1\r\nhost: h\r\nx-a: 1\r\n\r\n"
    assert stage.upstreams[1].take() == b"GET /b?c HTTP/1.1\r\nhost: h\r\n\r\n"
    stage.upstreams[1].feed(OK)
    stage.upstreams[0].feed(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-t: 1\r\n\r\n")
    client.sync()
    assert client.messages[second].heads == [[(b":status", b"200"), (b"content-length", b"2")]]
    assert client.messages[second].body == b"ok"
    assert (client.messages[first].body, client.messages[first].trailers) == (b"abc", [(b"x-t", b"1")])
    assert all(client.messages[stream].ended for stream in (first, second))
    assert [facts.version for facts in stage.observer.facts] == ["2", "2"]


def test_a_body_with_trailers_streams_through(h2_peer: Any) -> None:
    stage = Stage()
    client = h2_peer(stage.client(), client=True)
    stream = client.request(method=b"POST", end=False)
    client.data(stream, b"abc")
    upstream = stage.upstreams[0]
    assert upstream.take() == b"POST /a HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n"
    client.trailers(stream, (b"x-t", b"1"))
    assert upstream.take() == b"0\r\nx-t: 1\r\n\r\n"
    upstream.feed(b"HTTP/1.1 100 Continue\r\n\r\n" + OK)
    client.sync()
    assert [head[0] for head in client.messages[stream].heads] == [(b":status", b"100"), (b":status", b"200")]
    assert stage.observer.facts[0].request_trailers == [(b"x-t", b"1")]


def test_an_answer_that_waits_for_the_first_window_comes_after_the_acknowledgement_that_opens_it() -> None:
    """h2spec's 6.9.2 on a machine where the answer is faster than the client's next frame."""
    stage = Stage()
    head = b"\x82\x86\x84\x41\x01h"  # GET http / of authority h
    client = stage.client(PREFACE + frame(4, payload=struct.pack(">HI", 4, 0)) + frame(1, 5, 1, head))
    client.take()
    stage.upstreams[0].feed(OK)
    answer = client.take()
    assert answer[3] == 1  # HEADERS, and nothing after it
    assert len(answer) == 9 + int.from_bytes(answer[:3], "big")
    client.feed(frame(4, payload=struct.pack(">HI", 4, 1)))
    assert client.take() == frame(4, 1) + frame(0, 0, 1, b"o")
    client.feed(frame(8, stream=1, payload=struct.pack(">I", 9)))
    assert client.take() == frame(0, 0, 1, b"k") + frame(0, 1, 1)


def test_a_slow_client_holds_back_only_its_own_stream(h2_peer: Any) -> None:
    stage = Stage()
    client = h2_peer(stage.client(), client=True, acknowledge=False)
    client.connection.increment_flow_control_window(10_000_000)
    slow = client.request()
    stage.upstreams[0].feed(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n")
    for _ in range(20):
        stage.upstreams[0].feed(b"a" * 50000)
        client.sync()
    assert stage.upstreams[0].paused
    assert len(client.messages[slow].body) == 65535
    other = client.request()
    stage.upstreams[1].feed(OK)
    client.sync()
    assert client.messages[other].body == b"ok"
    client.acknowledge = True
    client.connection.increment_flow_control_window(10_000_000, slow)
    client.sync()
    assert not stage.upstreams[0].paused
    stage.upstreams[0].deliver()
    client.sync()
    assert len(client.messages[slow].body) == 1000000
    assert client.messages[slow].ended


def test_a_slow_endpoint_holds_its_client_back(h2_peer: Any) -> None:
    stage = Stage()
    client = h2_peer(stage.client(), client=True)
    stream = client.request(method=b"POST", end=False)
    stage.upstreams[0].stuck = True
    sent = 0
    while (window := client.connection.local_flow_control_window(stream)) and sent < 5_000_000:
        client.data(stream, b"a" * min(window, 16384))
        sent += min(window, 16384)
    assert sent < 600_000, "the window is not given back while the endpoint takes nothing"
    stage.upstreams[0].unstick()
    client.sync()
    assert client.connection.local_flow_control_window(stream) > 100_000


MALFORMED: dict[str, list[tuple[bytes, bytes]]] = {
    "an upper-case name": [(b"X-A", b"1")],
    "a name with a space": [(b"x a", b"1")],
    "an empty name": [(b"", b"1")],
    "a line end": [(b"x-a", b"1\r\nx-b: 2")],
    "a bare line feed": [(b"x-a", b"1\n2")],
    "NUL": [(b"x-a", b"1\0")],
    "leading space": [(b"x-a", b" 1")],
    "connection": [(b"connection", b"close")],
    "transfer-encoding": [(b"transfer-encoding", b"chunked")],
    "upgrade": [(b"upgrade", b"websocket")],
    "keep-alive": [(b"keep-alive", b"1")],
    "te": [(b"te", b"gzip")],
    "a late pseudo-header": [(b"x-a", b"1"), (b":path", b"/b")],
    "a second path": [(b":path", b"/b")],
    "a status": [(b":status", b"200")],
    "an unknown pseudo-header": [(b":x", b"1")],
    "another host": [(b"host", b"other")],
    "a length that is none": [(b"content-length", b"+1")],
    "two lengths": [(b"content-length", b"0"), (b"content-length", b"0")],
    "a length without a body": [(b"content-length", b"5")],
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_malformed_requests_are_reset_and_others_unharmed(h2_peer: Any, kind: str) -> None:
    stage = Stage()
    client = h2_peer(stage.client(), client=True)
    bad = client.request(*MALFORMED[kind])
    good = client.request()
    assert client.messages[bad].reset == ErrorCodes.PROTOCOL_ERROR
    stage.upstreams[0].feed(OK)
    client.sync()
    assert client.messages[good].body == b"ok"
    assert stage.observer.summary == [(400, "DPE"), (200, "")]


@pytest.mark.parametrize(
    "fields",
    [
        [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/")],
        [(b":method", b"GET"), (b":authority", b"h"), (b":path", b"/")],
        [(b":scheme", b"http"), (b":authority", b"h"), (b":path", b"/")],
        [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"h")],
        [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"h"), (b":path", b"")],
        [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"h"), (b":path", b"a")],
        [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"h"), (b":path", b"/a b")],
        [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"h"), (b":path", b"/a#b")],
        [(b":method", b"GET /x HTTP/1.1"), (b":scheme", b"http"), (b":authority", b"h"), (b":path", b"/")],
        [(b":method", b"GET"), (b":scheme", b"ftp"), (b":authority", b"h"), (b":path", b"/")],
        [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"u@h"), (b":path", b"/")],
        [(b":method", b"CONNECT"), (b":authority", b"h:1"), (b":path", b"/")],
    ],
)
def test_pseudo_headers_must_be_whole(h2_peer: Any, fields: list[tuple[bytes, bytes]]) -> None:
    client = h2_peer(Stage().client(), client=True)
    client.connection.send_headers(1, fields, end_stream=True)
    client.sync()
    assert client.messages[1].reset == ErrorCodes.PROTOCOL_ERROR


def test_data_must_be_as_long_as_announced(h2_peer: Any) -> None:
    for data, ends in ((b"abcd", False), (b"ab", True)):
        stage = Stage()
        client = h2_peer(stage.client(), client=True)
        stream = client.request((b"content-length", b"3"), method=b"POST", end=False)
        client.data(stream, data, end=ends)
        assert client.messages[stream].reset == ErrorCodes.PROTOCOL_ERROR
        assert stage.upstreams[0].was_reset, "the endpoint must not take it for whole"
        assert stage.observer.summary == [(0, "DPE")]


def test_cookies_are_joined_and_hosts_taken_for_authority(h2_peer: Any) -> None:
    stage = Stage()
    client = h2_peer(stage.client(), client=True)
    client.request((b"cookie", b"a=1"), (b"host", b"h"), (b"cookie", b"b=2"), (b"te", b"trailers"))
    assert stage.upstreams[0].take() == (
        b"GET /a HTTP/1.1\r\nhost: h\r\nte: trailers\r\ncookie: a=1; b=2\r\nconnection: te\r\n\r\n"
    )


def test_heads_are_bounded(h2_peer: Any) -> None:
    stage = Stage(limits=HttpLimits(headers=20, target_bytes=100))
    client = h2_peer(stage.client(), client=True)
    many = client.request(*((b"x-%d" % number, b"1") for number in range(30)))
    long = client.request(path=b"/" + b"a" * 200)
    assert client.messages[many].head == {b":status": b"431"}
    assert client.messages[long].head == {b":status": b"414"}
    huge = h2_peer(Stage().client(), client=True)
    huge.request(*((b"x-%d" % number, b"a" * 1000) for number in range(90)))
    assert huge.goaway == ErrorCodes.ENHANCE_YOUR_CALM


def test_a_reset_cancels_its_request(h2_peer: Any) -> None:
    stage = Stage()
    client = h2_peer(stage.client(), client=True)
    stream = client.request()
    client.connection.reset_stream(stream, ErrorCodes.CANCEL)
    client.sync()
    assert stage.upstreams[0].was_reset
    assert stage.observer.summary == [(0, "DC")]


def test_an_early_answer_stops_the_request(h2_peer: Any) -> None:
    stage = Stage(decision=lambda _: Answer(403, [], b"no"))
    client = h2_peer(stage.client(), client=True)
    stream = client.request(method=b"POST", end=False)
    assert client.messages[stream].head[b":status"] == b"403"
    assert client.messages[stream].body == b"no"
    assert client.messages[stream].reset == ErrorCodes.NO_ERROR
    stage.decider.decision = lambda _: Answer(403, [], b"a" * 100_000)
    stream = client.request(method=b"POST", end=False)
    assert len(client.messages[stream].body) == 100_000
    assert client.messages[stream].reset == ErrorCodes.NO_ERROR


def test_an_answer_that_breaks_off_is_a_reset(h2_peer: Any) -> None:
    stage = Stage()
    client = h2_peer(stage.client(), client=True)
    stream = client.request()
    stage.upstreams[0].feed(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab")
    stage.upstreams[0].lose()
    client.sync()
    assert client.messages[stream].body == b"ab"
    assert client.messages[stream].reset == ErrorCodes.INTERNAL_ERROR


def test_rapid_resets_end_the_connection_and_leave_nothing_behind() -> None:
    stage = Stage()
    wire = stage.client(PREFACE + SETTINGS)
    block = b"\x82\x86\x84\x41\x01h"
    for stream in range(1, 20001, 2):
        wire.feed(frame(1, 5, stream, block) + frame(3, 0, stream, struct.pack(">I", 8)))
        if wire.closed:
            break
    assert wire.closed
    assert stream < 1000
    assert frame(7)[3:4] + b"\0" in wire.take(), "a GOAWAY says why"
    assert stage.pools[0].active == 0


@pytest.mark.parametrize(
    "flood",
    [
        frame(6, 0, 0, b"12345678"),
        frame(4, 0, 0, struct.pack(">HI", 1, 4096)),
        frame(0, 0, 1),
        frame(2, 0, 1, b"\0\0\0\0\x01"),
        frame(3, 0, 1, struct.pack(">I", 8)),
    ],
    ids=["ping", "settings", "empty data", "priority", "reset"],
)
def test_floods_end_the_connection(flood: bytes) -> None:
    stage = Stage()
    wire = stage.client(PREFACE + SETTINGS + frame(1, 4, 1, b"\x83\x86\x84\x41\x01h"))
    for _ in range(10000):
        wire.feed(flood)
        if wire.closed:
            break
    assert wire.closed
    assert len(wire.take()) < 100_000


def test_a_header_block_without_end_is_not_collected() -> None:
    stage = Stage()
    wire = stage.client(PREFACE + SETTINGS + frame(1, 0, 1, b"\x82\x86\x84\x41\x01h"))
    for _ in range(100):
        wire.feed(frame(9, 0, 1, b"\x00\x01a\x7f\x81\x01" + b"b" * 256))
        if wire.closed:
            break
    assert wire.closed
    assert stage.upstreams == []


def test_what_is_no_http2_after_the_preface() -> None:
    stage = Stage()
    wire = stage.client(PREFACE + b"GET / HTTP/1.1\r\n\r\n" * 10)
    assert wire.closed
    assert stage.observer.summary == [(400, "DPE")]


def kinds(data: bytes) -> list[tuple[int, int]]:
    """Kind and stream of each frame."""
    found = []
    while data:
        size = 9 + int.from_bytes(data[:3], "big")
        found.append((data[3], int.from_bytes(data[5:9], "big")))
        data = data[size:]
    return found


REQUEST = b"\x82\x86\x84\x41\x01h"


def test_streams_are_bounded() -> None:
    stage = Stage(limits=HttpLimits(streams=3))
    wire = stage.client(PREFACE + SETTINGS + b"".join(frame(1, 5, stream, REQUEST) for stream in (1, 3, 5, 7)))
    assert len(stage.upstreams) == 3
    assert [stream for kind, stream in kinds(wire.take()) if kind == 3] == [7]


def test_draining_lets_requests_end() -> None:
    stage = Stage()
    wire = stage.client(PREFACE + SETTINGS + frame(1, 5, 1, REQUEST))
    stage.connections[0].drain()
    wire.feed(frame(1, 5, 3, REQUEST))
    assert (7, 0) in kinds(wire.take())
    for upstream in stage.upstreams:
        upstream.feed(OK)
    assert [stream for kind, stream in kinds(wire.take()) if kind == 1] == [1, 3]
    assert not wire.closed
    stage.clock.advance(2)
    assert (7, 0) in kinds(wire.take())
    assert wire.closed
    assert len(stage.ended) == 1


def test_draining_waits_for_what_the_client_has_not_taken() -> None:
    stage = Stage()
    wire = stage.client(PREFACE + SETTINGS + frame(1, 5, 1, REQUEST) + frame(1, 5, 3, REQUEST))
    wire.take()
    wire.stuck = True
    stage.upstreams[0].feed(OK)
    wire.settle()
    stage.upstreams[1].feed(OK)
    wire.settle()
    stage.connections[0].drain()
    stage.clock.advance(2)
    assert not wire.closed
    wire.unstick()
    assert [stream for kind, stream in kinds(wire.take()) if kind == 1] == [1, 3]
    assert wire.closed


def test_deadlines(h2_peer: Any) -> None:
    slow = Stage(limits=HttpLimits(head_seconds=5))
    wire = slow.client(PREFACE + SETTINGS + frame(1, 0, 1, b"\x82"))
    slow.clock.advance(6)
    assert wire.closed
    idle = Stage(limits=HttpLimits(idle_seconds=50, stall_seconds=20))
    client = h2_peer(idle.client(), client=True)
    stream = client.request()
    idle.clock.advance(45)
    client.sync()
    assert client.messages[stream].head[b":status"] == b"504"
    assert not client.wire.closed
    idle.clock.advance(100)
    assert client.wire.closed
