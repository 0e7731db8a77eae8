"""A client's HTTP/1.1 connection: answers in order, keep-alive, refusals, deadlines, other protocols."""

from __future__ import annotations

from waypoint.exchange.decision import Answer, Decision, Forward
from waypoint.http.h1_server_machine import H1ServerMachine
from waypoint.http.limits import HttpLimits
from waypoint.http.message import RequestHead
from waypoint.testing.exchanges import Stage
from waypoint.testing.wires import MemoryWire

GET = b"GET /a HTTP/1.1\r\nhost: h\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


def test_a_request_is_one_write_each_way() -> None:
    stage = Stage()
    client = stage.client(b"GET /a?b HTTP/1.1\r\nHost: h\r\nUser-Agent: t\r\n\r\n")
    upstream = stage.upstreams[0]
    assert upstream.take() == b"GET /a?b HTTP/1.1\r\nhost: h\r\nuser-agent: t\r\n\r\n"
    upstream.feed(OK)
    assert client.take() == b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
    assert (client.writes, upstream.writes) == (1, 1)
    assert stage.observer.summary == [(200, "")]
    machine = stage.connections[0].machine
    assert isinstance(machine, H1ServerMachine)
    assert machine.requests == 1


def test_pipelined_requests_are_answered_in_order_and_none_is_sent_ahead() -> None:
    stage = Stage()
    client = stage.client(b"".join(b"GET /%d HTTP/1.1\r\nhost: h\r\n\r\n" % number for number in range(5)))
    upstream = stage.upstreams[0]
    for number in range(5):
        assert client.paused == (number < 4)
        assert upstream.take().startswith(b"GET /%d " % number)
        upstream.feed(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n%d" % number)
    assert [part[-1:] for part in client.take().split(b"HTTP/1.1 ")[1:]] == [b"0", b"1", b"2", b"3", b"4"]
    assert len(stage.upstreams) == 1
    assert not client.paused


def test_many_pipelined_requests_answered_at_once_do_not_nest() -> None:
    stage = Stage(decision=lambda _: Answer(204, []))
    client = stage.client(GET * 2000)
    assert client.take().count(b"HTTP/1.1 204") == 2000


def test_a_body_streams_and_is_framed_as_it_came() -> None:
    stage = Stage()
    client = stage.client(b"POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n")
    upstream = stage.upstreams[0]
    assert upstream.take().endswith(b"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n")
    client.feed(b"1\r\nd\r\n0\r\nx-t: 1\r\n\r\n")
    assert upstream.take() == b"1\r\nd\r\n0\r\nx-t: 1\r\n\r\n"
    upstream.feed(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n")
    assert client.take().endswith(b"transfer-encoding: chunked\r\n\r\n2\r\nok\r\n")
    upstream.feed(b"0\r\nx-u: 2\r\n\r\n")
    assert client.take() == b"0\r\nx-u: 2\r\n\r\n"
    facts = stage.observer.facts[0]
    assert (facts.received, facts.sent, facts.response_trailers) == (4, 2, [(b"x-u", b"2")])


def test_answers_without_body() -> None:
    stage = Stage()
    client = stage.client(b"HEAD /a HTTP/1.1\r\nhost: h\r\n\r\n")
    upstream = stage.upstreams[0]
    upstream.feed(b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n")
    assert client.take() == b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n"
    for status in (b"204 No Content", b"304 Not Modified"):
        client.feed(GET)
        upstream.take()
        upstream.feed(b"HTTP/1.1 " + status + b"\r\netag: x\r\n\r\n")
        assert client.take() == b"HTTP/1.1 " + status + b"\r\netag: x\r\n\r\n"
    client.feed(b"HEAD /a HTTP/1.1\r\nhost: h\r\n\r\n")
    upstream.feed(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    assert client.take() == b"HTTP/1.1 200 OK\r\n\r\n"
    assert len(stage.upstreams) == 1, "the connection was of use all the time"


def test_http10_gets_no_chunks_and_closes_unless_asked_not_to() -> None:
    stage = Stage()
    client = stage.client(b"GET /a HTTP/1.0\r\nconnection: keep-alive\r\n\r\n")
    upstream = stage.upstreams[0]
    assert upstream.take() == b"GET /a HTTP/1.1\r\nhost: \r\n\r\n"
    upstream.feed(OK)
    assert client.take() == b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: keep-alive\r\n\r\nok"
    client.feed(b"GET /a HTTP/1.0\r\nconnection: keep-alive\r\n\r\n")
    upstream.feed(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")
    assert client.take() == b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nok"
    assert client.closed
    assert len(stage.ended) == 1


def test_connection_close_is_kept() -> None:
    stage = Stage()
    client = stage.client(b"GET /a HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")
    stage.upstreams[0].feed(OK)
    assert client.take() == b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok"
    assert client.closed


def test_what_is_no_http_is_answered_and_the_connection_ends() -> None:
    stage = Stage()
    client = stage.client(GET + b"GET / HTTP/1.1\r\nhost: h\r\ntransfer-encoding : chunked\r\n\r\n" + GET)
    assert client.take() == b"", "the request before it comes first"
    stage.upstreams[0].feed(OK)
    answered = client.take()
    assert answered.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"ok" + b"HTTP/1.1 400 Bad Request\r\n" in answered
    assert client.finished
    client.feed(GET)
    assert client.take() == b""
    client.hang_up()
    assert client.closed
    assert stage.observer.summary == [(200, ""), (400, "DPE")]


def test_a_broken_body_is_told_to_both_sides() -> None:
    stage = Stage()
    client = stage.client(b"POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n")
    assert client.take().startswith(b"HTTP/1.1 400 ")
    assert stage.upstreams[0].was_reset
    assert stage.observer.summary == [(0, "DPE")]


def test_a_client_that_goes_cancels_its_request() -> None:
    for end in (MemoryWire.hang_up, MemoryWire.lose):
        stage = Stage()
        client = stage.client(GET)
        end(client)
        assert stage.upstreams[0].was_reset
        assert stage.observer.summary == [(0, "DC")]
        assert len(stage.ended) == 1


def test_an_early_answer_ends_the_connection_without_losing_it() -> None:
    stage = Stage()
    client = stage.client(b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 1000\r\n\r\nabc")
    stage.upstreams[0].feed(b"HTTP/1.1 413 Payload Too Large\r\ncontent-length: 0\r\n\r\n")
    assert client.take().startswith(b"HTTP/1.1 413 ")
    assert client.finished
    assert not client.closed, "closing now would take the answer back"
    client.feed(b"d" * 500)
    stage.clock.advance(2)
    assert client.closed
    assert stage.upstreams[0].closed, "the rest of the body will never come"
    assert stage.observer.summary == [(413, "")]


def test_an_answer_from_here_to_a_body_that_has_arrived_keeps_the_connection() -> None:
    stage = Stage(decision=lambda _: Answer(403, [], b"no"))
    client = stage.client(b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 3\r\n\r\nabc" * 2)
    assert client.take().count(b"HTTP/1.1 403 Forbidden") == 2
    assert not client.finished


def test_continue_is_passed_on() -> None:
    stage = Stage()
    client = stage.client(b"PUT / HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
    upstream = stage.upstreams[0]
    assert b"expect: 100-continue\r\n" in upstream.take()
    upstream.feed(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert client.take() == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.feed(b"ab")
    assert upstream.take() == b"ab"
    upstream.feed(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + OK)
    assert client.take() == b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + OK


WEBSOCKET = b"GET /ws HTTP/1.1\r\nhost: h\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-key: k\r\n\r\n"


def test_websockets_become_plain_bytes_and_end_one_way_at_a_time() -> None:
    stage = Stage()
    client = stage.client(WEBSOCKET + b"early")
    upstream = stage.upstreams[0]
    assert b"connection: upgrade\r\nupgrade: websocket\r\n" in upstream.take()
    upstream.feed(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nhi")
    told = client.take()
    assert told.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
    assert b"upgrade: websocket\r\nconnection: upgrade\r\n\r\nhi" in told
    assert upstream.take() == b"early"
    client.feed(b"GET / HTTP/1.1\r\n\r\n")
    assert upstream.take() == b"GET / HTTP/1.1\r\n\r\n"
    upstream.feed(b"\x00\xff")
    assert client.take() == b"\x00\xff"
    client.hang_up()
    assert upstream.finished
    upstream.feed(b"bye")
    assert client.take() == b"bye"
    upstream.hang_up()
    assert client.closed
    assert upstream.closed
    facts = stage.observer.facts[0]
    assert (facts.status, facts.flags, facts.received, facts.sent) == (101, "", 23, 7)


def test_an_offer_can_be_declined() -> None:
    stage = Stage()
    client = stage.client(WEBSOCKET + GET)
    upstream = stage.upstreams[0]
    upstream.take()
    upstream.feed(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n")
    assert client.take() == b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n"
    assert upstream.take() == b"GET /a HTTP/1.1\r\nhost: h\r\n\r\n"


def test_connect_needs_a_route_of_its_own() -> None:
    stage = Stage()
    client = stage.client(b"CONNECT b:1 HTTP/1.1\r\nhost: b:1\r\n\r\n")
    assert client.take().startswith(b"HTTP/1.1 405 ")
    stage = Stage(connect=True)
    client = stage.client(b"CONNECT b:1 HTTP/1.1\r\nhost: b:1\r\n\r\nxy")
    upstream = stage.upstreams[0]
    assert upstream.take() == b"CONNECT b:1 HTTP/1.1\r\nhost: b:1\r\n\r\n"
    upstream.feed(b"HTTP/1.1 200 OK\r\n\r\nz")
    assert client.take() == b"HTTP/1.1 200 OK\r\n\r\nz"
    assert upstream.take() == b"xy"
    client.hang_up()
    assert upstream.finished
    upstream.feed(b"bye")
    assert client.take() == b"bye"
    upstream.hang_up()
    assert client.closed
    assert upstream.closed


def test_a_slow_head_is_answered_in_time() -> None:
    stage = Stage(limits=HttpLimits(head_seconds=10))
    client = stage.client()
    for byte in b"GET / HTT":
        client.feed(bytes([byte]))
        stage.clock.advance(1)
    assert client.take() == b""
    stage.clock.advance(2)
    assert client.take().startswith(b"HTTP/1.1 408 ")
    assert client.finished
    stage.clock.advance(2)
    assert client.closed
    assert len(stage.clock.timers) == 0


def test_an_idle_connection_is_closed_and_a_busy_one_is_not() -> None:
    stage = Stage(limits=HttpLimits(idle_seconds=100, stall_seconds=30))
    idle, busy = stage.client(), stage.client()
    for _ in range(6):
        stage.clock.advance(20)
        busy.feed(GET)
        stage.connectors[0].wires[-1].feed(OK)
    assert idle.closed
    assert not busy.finished


def test_a_request_in_which_nothing_moves_is_ended() -> None:
    stage = Stage(limits=HttpLimits(stall_seconds=30))
    client = stage.client(GET)
    stage.clock.advance(100)
    assert client.take().startswith(b"HTTP/1.1 504 ")
    assert stage.observer.summary == [(504, "SI")]
    assert stage.upstreams[0].was_reset
    client = stage.client(b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 5\r\n\r\n")
    stage.clock.advance(100)
    assert client.take().startswith(b"HTTP/1.1 408 ")


def test_draining_ends_connections_with_an_answer_that_says_so() -> None:
    stage = Stage()
    new, idle, late, busy = stage.client(), stage.client(GET), stage.client(GET), stage.client(GET)
    stage.upstreams[0].feed(OK)
    stage.upstreams[0].feed(b"")
    stage.upstreams[1].feed(OK)
    for wire in (idle, late):
        wire.take()
    for connection in stage.connections:
        connection.drain()
    assert not any(wire.finished or wire.closed for wire in (new, idle, late, busy)), "a request may be on its way"
    late.feed(GET)
    new.feed(GET)
    for upstream in stage.upstreams:
        upstream.feed(OK)
    for wire in (late, new, busy):
        assert b"connection: close\r\n" in wire.take()
        assert wire.closed
    assert not idle.finished
    stage.clock.advance(stage.limits.farewell_seconds + 0.1)
    assert idle.finished


def test_an_answer_that_had_begun_when_draining_did_is_not_the_last() -> None:
    stage = Stage()
    client = stage.client(GET)
    stage.upstreams[0].feed(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nab")
    stage.connections[0].drain()
    stage.upstreams[0].feed(b"cd")
    assert b"connection: close" not in client.take()
    assert not client.finished
    client.feed(GET)
    stage.upstreams[0].feed(OK)
    assert b"connection: close" in client.take()
    assert client.closed


def test_a_slow_client_holds_its_upstream_back() -> None:
    stage = Stage()
    client = stage.client(GET)
    upstream = stage.upstreams[0]
    client.stuck = True
    upstream.feed(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n" + b"a" * 1000)
    assert upstream.paused
    sent = 1000
    while sent < 1000000:
        upstream.feed(b"a" * 1000)
        sent += 1000
    assert client.waiting < 3000, "nothing is taken from a paused wire"
    client.unstick()
    assert not upstream.paused
    upstream.deliver()
    assert len(client.take()) > 1000000
    assert stage.observer.facts[0].sent == 1000000


def test_a_client_that_never_takes_its_answer_is_let_go() -> None:
    stage = Stage(limits=HttpLimits(head_seconds=10))
    client = stage.client(b"GET /a HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")
    client.stuck = True
    stage.upstreams[0].feed(OK)
    assert not client.closed, "what was written shall arrive"
    stage.clock.advance(11)
    assert client.was_reset
    client = stage.client(b"GET /a HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")
    client.stuck = True
    stage.upstreams[-1].feed(OK)
    client.unstick()
    assert client.closed
    stage.clock.advance(11)
    assert not client.was_reset


def test_a_slow_upstream_holds_its_client_back() -> None:
    stage = Stage()
    client = stage.client(b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 5000\r\n\r\n")
    upstream = stage.upstreams[0]
    upstream.stuck = True
    client.feed(b"a" * 1000)
    assert client.paused
    client.feed(b"a" * 4000)
    assert upstream.waiting == 1000
    upstream.unstick()
    assert not client.paused
    client.deliver()
    assert upstream.take().count(b"a") == 5000


def test_the_decision_of_a_request_is_kept_and_the_next_gets_a_new_one() -> None:
    stage = Stage(endpoints=2)
    routes = [Forward(stage.backend, route="old"), Forward(stage.backend, route="new")]

    def decide(head: RequestHead) -> Decision:
        return routes[len(stage.decider.heads) - 1]

    stage.decider.decision = decide
    client = stage.client(GET)
    stage.upstreams[0].feed(OK)
    client.feed(GET)
    stage.connectors[1].wires[0].feed(OK)
    assert [facts.route for facts in stage.observer.facts] == ["old", "new"]
