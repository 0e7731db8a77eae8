"""A request's life: decisions that wait, delays, deadlines, mirrors, failures, and one record for each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from waypoint.exchange.decision import Answer, Decision, Forward, Mirror, Resume
from waypoint.exchange.exchange import Exchange
from waypoint.http.message import RequestHead, ResponseHead
from waypoint.testing.exchanges import FixedBackend, Stage
from waypoint.testing.wires import MemoryWire

GET = b"GET /a HTTP/1.1\r\nhost: h\r\n\r\n"
POST = b"POST /a HTTP/1.1\r\nhost: h\r\ncontent-length: 5\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Authorizer:
    """Somebody else who is asked."""

    def __init__(self, body_bytes: int = 0) -> None:
        self.body_bytes = body_bytes
        self.resume: Resume | None = None
        self.shown: tuple[bytes, bool] | None = None
        self.cancelled = False

    def start(self, resume: Resume, body: bytes, *, whole: bool) -> None:
        self.resume = resume
        self.shown = (body, whole)

    def cancel(self) -> None:
        self.cancelled = True


def test_the_facts_of_a_request() -> None:
    stage = Stage(route="demo/route/0")
    client = stage.client(b"GET /a?b=c HTTP/1.1\r\nhost: h:8080\r\n\r\n")
    stage.clock.advance(0.25)
    stage.upstreams[0].feed(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nabc")
    stage.clock.advance(0.5)
    stage.upstreams[0].feed(b"def")
    assert client.take().endswith(b"abcdef")
    (facts,) = stage.observer.facts
    assert (facts.method, facts.authority, facts.path, facts.version) == (b"GET", b"h:8080", b"/a?b=c", "1.1")
    assert (facts.status, facts.flags, facts.route, facts.endpoint) == (200, "", "demo/route/0", "endpoint-0")
    assert (facts.received, facts.sent, facts.attempts) == (0, 6, 1)
    assert isinstance(facts, Exchange), "no second object is made for the record"
    assert facts.upstream_service_time == pytest.approx(0.25)
    assert facts.ended_at - facts.started_at == pytest.approx(0.75)
    assert stage.backend.outcomes == [("endpoint-0", 200, None)]


def test_a_waiting_decision_holds_the_body_back() -> None:
    authorizer = Authorizer()
    stage = Stage(decision=lambda _: authorizer)
    client = stage.client(POST + b"ab")
    assert client.paused
    assert stage.upstreams == []
    assert authorizer.resume is not None
    authorizer.resume(Forward(stage.backend))
    assert stage.upstreams[0].take().endswith(b"\r\n\r\nab")
    assert not client.paused
    client.feed(b"cde")
    assert stage.upstreams[0].take() == b"cde"
    stage.upstreams[0].feed(OK)
    assert client.take() == OK
    assert not authorizer.cancelled


def test_a_waiting_decision_can_deny_or_be_left() -> None:
    authorizer = Authorizer()
    stage = Stage(decision=lambda _: authorizer)
    client = stage.client(GET)
    assert authorizer.resume is not None
    authorizer.resume(Answer(403, [], b"denied", flag="UAEX"))
    assert client.take() == (b"HTTP/1.1 403 Forbidden\r\ncontent-type: text/plain\r\ncontent-length: 6\r\n\r\ndenied")
    client.feed(GET)
    client.lose()
    assert authorizer.cancelled
    authorizer.resume(Forward(stage.backend))
    assert stage.upstreams == [], "too late"
    assert stage.observer.summary == [(403, "UAEX"), (0, "DC")]


def test_who_wants_to_see_the_body_is_asked_once_it_is_there() -> None:
    authorizer = Authorizer(body_bytes=4)
    stage = Stage(decision=lambda _: authorizer)
    client = stage.client(POST + b"ab")
    assert not client.paused
    client.feed(b"cd")
    assert authorizer.shown is None, "there may be more"
    client.feed(b"e")
    assert authorizer.shown == (b"abcde", False), "its end has not come yet"
    assert authorizer.resume is not None
    authorizer.resume(Forward(stage.backend))
    assert stage.upstreams[0].take().endswith(b"\r\n\r\nabcde")
    stage.upstreams[0].feed(OK)
    assert client.take() == OK
    whole = Authorizer(body_bytes=100)
    stage.decider.decision = lambda _: whole
    client.feed(b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\nexpect: 100-continue\r\n\r\n")
    assert client.take() == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.feed(b"x")
    assert whole.shown is None
    client.feed(b"y")
    assert whole.shown == (b"xy", True)
    nothing = Authorizer(body_bytes=100)
    stage = Stage(decision=lambda _: nothing)
    stage.client(GET)
    assert nothing.shown == (b"", True)


def test_a_body_that_is_to_be_seen_and_does_not_come() -> None:
    authorizer = Authorizer(body_bytes=4)
    stage = Stage(decision=lambda _: authorizer)
    client = stage.client(POST + b"ab")
    stage.clock.advance(stage.limits.idle_seconds + 1)
    assert client.take().startswith(b"HTTP/1.1 408 ")
    assert authorizer.cancelled
    gone = Authorizer(body_bytes=4)
    stage = Stage(decision=lambda _: gone)
    stage.client(POST + b"ab").lose()
    assert gone.cancelled
    assert stage.observer.summary == [(0, "DC")]


def test_one_wait_may_follow_another() -> None:
    one, other = Authorizer(), Authorizer(body_bytes=100)
    stage = Stage(decision=lambda _: one)
    client = stage.client(POST + b"ab")
    assert client.paused
    assert one.resume is not None
    one.resume(other)
    assert not client.paused
    client.feed(b"cde")
    assert other.shown == (b"abcde", True)
    assert other.resume is not None
    other.resume(Forward(stage.backend))
    assert stage.upstreams[0].take().endswith(b"\r\n\r\nabcde")


def test_a_fault_delays() -> None:
    stage = Stage(delay=1.0, flag="DI")
    client = stage.client(POST + b"abcde")
    stage.clock.advance(0.9)
    assert stage.upstreams == []
    stage.clock.advance(0.2)
    assert stage.upstreams[0].take().endswith(b"\r\n\r\nabcde")
    stage.upstreams[0].feed(OK)
    assert client.take() == OK
    assert stage.observer.summary == [(200, "DI")]


def test_a_request_has_its_time_delay_included() -> None:
    stage = Stage(timeout=2.0, delay=1.5)
    client = stage.client(GET)
    stage.clock.advance(1.9)
    assert not stage.upstreams[0].closed
    stage.clock.advance(0.2)
    assert client.take().startswith(b"HTTP/1.1 504 ")
    assert stage.upstreams[0].was_reset
    assert stage.observer.summary == [(504, "UT")]
    assert stage.backend.outcomes == [("endpoint-0", 504, None)]
    client.feed(GET)
    stage.clock.advance(1.6)
    stage.upstreams[1].feed(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc")
    stage.clock.advance(1)
    assert client.was_reset, "an answer that was begun cannot be taken back"
    assert stage.observer.summary[1:] == [(200, "UT")]


def test_timers_of_ended_requests_are_gone() -> None:
    stage = Stage(timeout=5.0, try_timeout=3.0)
    client = stage.client(GET)
    before = len(stage.clock.timers)
    stage.upstreams[0].feed(OK)
    assert len(stage.clock.timers) == before - 2 + 1, "less two deadlines, and the pool's own"
    stage.clock.advance(10)
    assert client.take() == OK


FAILURES: dict[str, tuple[Callable[[MemoryWire], None], int, str]] = {
    "closed": (MemoryWire.hang_up, 503, "UC"),
    "lost": (MemoryWire.lose, 503, "UC"),
    "no HTTP": (lambda wire: wire.feed(b"SSH-2.0-OpenSSH\r\n"), 502, "UPE"),
    "two lengths": (
        lambda wire: wire.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
        502,
        "UPE",
    ),
    "a coding": (lambda wire: wire.feed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nab"), 502, "UPE"),
    "unasked": (lambda wire: wire.feed(b"HTTP/1.1 101 OK\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"), 502, "UPE"),
    "headers": (lambda wire: wire.feed(b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200 + b"\r\n"), 502, "UPE"),
    "a large head": (lambda wire: wire.feed(b"HTTP/1.1 200 OK\r\na: " + b"b" * 70000), 502, "UPE"),
}


@pytest.mark.parametrize("kind", FAILURES)
def test_an_endpoint_fails_before_it_answers(kind: str) -> None:
    fail, status, flag = FAILURES[kind]
    stage = Stage()
    client = stage.client(GET)
    fail(stage.upstreams[0])
    assert client.take().startswith(b"HTTP/1.1 %d " % status)
    assert stage.observer.summary == [(status, flag)]
    assert stage.observer.facts[0].upstream_failure
    (outcome,) = stage.backend.outcomes
    assert outcome[2] is not None
    assert stage.upstreams[0].closed
    assert stage.pools[0].active == 0
    assert not client.closed


def test_an_endpoint_fails_in_the_midst_of_its_answer() -> None:
    stage = Stage()
    client = stage.client(GET)
    stage.upstreams[0].feed(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab")
    stage.upstreams[0].hang_up()
    assert client.was_reset
    assert stage.observer.summary == [(200, "UC")]


def test_an_answer_that_ends_with_its_connection() -> None:
    stage = Stage()
    client = stage.client(GET)
    stage.upstreams[0].feed(b"HTTP/1.0 200 OK\r\n\r\nab")
    stage.upstreams[0].feed(b"cd")
    stage.upstreams[0].hang_up()
    assert client.take() == (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n2\r\ncd\r\n0\r\n\r\n")
    assert stage.observer.summary == [(200, "")]


def test_no_endpoint() -> None:
    stage = Stage(endpoints=0)
    assert stage.client(GET).take().startswith(b"HTTP/1.1 503 ")
    assert stage.observer.summary == [(503, "UH")]


def test_grpc_clients_are_answered_in_their_own_terms() -> None:
    stage = Stage(endpoints=0)
    client = stage.client(b"POST /s/m HTTP/1.1\r\nhost: h\r\ncontent-type: application/grpc+proto\r\n\r\n")
    assert client.take() == (
        b"HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ngrpc-status: 14\r\n"
        b"grpc-message: no healthy upstream\r\ncontent-length: 0\r\n\r\n"
    )
    assert stage.observer.facts[0].grpc_status == b"14"


def test_a_decision_that_fails_costs_its_request(capsys: Any) -> None:
    def decide(head: RequestHead) -> Decision:
        raise ValueError("a bug")

    stage = Stage(decision=decide)
    client = stage.client(GET + GET)
    assert client.take().count(b"HTTP/1.1 500 ") == 2
    assert not client.closed
    assert "a bug" in capsys.readouterr().out


def test_the_answer_of_a_head_request_has_no_body() -> None:
    stage = Stage(decision=lambda _: Answer(404, [], b"nothing here"))
    client = stage.client(b"HEAD / HTTP/1.1\r\nhost: h\r\n\r\n")
    assert client.take().endswith(b"content-length: 12\r\n\r\n")
    assert stage.observer.facts[0].sent == 0


def test_answers_are_changed_and_so_are_those_made_here() -> None:
    def mark(head: ResponseHead) -> None:
        head.headers.append((b"x-by", b"route"))

    stage = Stage(on_response=mark)
    client = stage.client(GET)
    stage.upstreams[0].feed(OK)
    assert b"\r\nx-by: route\r\n" in client.take()
    client.feed(GET)
    stage.upstreams[0].feed(b"?\r\n")
    assert b"\r\nx-by: route\r\n" in client.take()


def test_a_kept_alive_connection_that_ends_as_it_is_used_costs_nothing() -> None:
    stage = Stage()
    client = stage.client(GET)
    stage.upstreams[0].feed(OK)
    client.take()
    client.feed(GET)
    stage.upstreams[0].hang_up()
    stage.upstreams[1].feed(OK)
    assert client.take() == OK
    assert stage.observer.summary == [(200, ""), (200, "")]
    client.feed(GET)
    stage.upstreams[1].hang_up()
    stage.upstreams[2].lose()
    assert client.take().startswith(b"HTTP/1.1 503 "), "a fresh connection that fails tells of the endpoint"


def test_a_request_that_changes_something_is_not_sent_twice_unasked() -> None:
    stage = Stage()
    client = stage.client(GET)
    stage.upstreams[0].feed(OK)
    client.take()
    client.feed(POST + b"abcde")
    stage.upstreams[0].hang_up()
    assert client.take().startswith(b"HTTP/1.1 503 ")
    assert len(stage.upstreams) == 1


def test_mirrors_get_a_copy_and_nobody_waits_for_them() -> None:
    shadow = Stage()

    def decide(head: RequestHead) -> Decision:
        copy = RequestHead(method=head.method, path=b"/shadow", authority=b"h-shadow", headers=list(head.headers))
        return Forward(stage.backend, mirrors=(Mirror(FixedBackend(*shadow.pools), copy, 5.0),))

    stage = Stage(decision=decide)
    shadow.clock = stage.clock
    client = stage.client(POST + b"ab")
    assert shadow.upstreams == []
    client.feed(b"cde")
    mirrored = shadow.upstreams[0]
    assert mirrored.take() == b"POST /shadow HTTP/1.1\r\nhost: h-shadow\r\ncontent-length: 5\r\n\r\nabcde"
    stage.upstreams[0].feed(OK)
    assert client.take() == OK
    mirrored.feed(b"HTTP/1.1 500 No\r\ncontent-length: 2\r\n\r\nno")
    assert shadow.pools[0].idle == 1
    client.feed(GET)
    stage.upstreams[0].feed(OK)
    assert client.take() == OK
    assert mirrored.take().startswith(b"GET /shadow ")
    stage.clock.advance(10)
    assert mirrored.was_reset
    assert len(stage.observer.facts) == 2


def test_a_body_beyond_the_limit_is_not_mirrored() -> None:
    shadow = Stage()
    stage = Stage()
    mirror = Mirror(FixedBackend(*shadow.pools), RequestHead(method=b"POST", path=b"/", authority=b"h"))
    stage.decider.decision = Forward(stage.backend, mirrors=(mirror,), body_limit=4)
    stage.client(POST + b"abcde")
    assert stage.upstreams[0].take().endswith(b"abcde")
    assert shadow.upstreams == []
