"""HTTP/2 to endpoints, with h2 as the server; and all four ways from one version to the other."""

from __future__ import annotations

from typing import Any

import pytest
from h2.errors import ErrorCodes

from mesh.model.http_route import Retry
from waypoint.exchange.retry import RetryPlan
from waypoint.http.contract import FailureKind
from waypoint.testing.exchanges import Stage
from waypoint.upstream.pool_contract import PoolLimits

GET = b"GET /a HTTP/1.1\r\nhost: h\r\n\r\n"


def test_http1_clients_share_a_connection(h2_peer: Any) -> None:
    stage = Stage(http2=True)
    clients = [stage.client(GET), stage.client(GET)]
    (wire,) = stage.upstreams
    endpoint = h2_peer(wire, client=False)
    assert endpoint.messages[1].heads == [
        [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"h"), (b":path", b"/a")]
    ]
    assert endpoint.messages[1].ended
    for stream in (3, 1):
        endpoint.respond(stream, (b"x-stream", b"%d" % stream))
    for number, client in enumerate(clients):
        assert client.take() == (
            b"HTTP/1.1 200 OK\r\nx-stream: %d\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
            % (number * 2 + 1)
        )
    assert stage.observer.summary == [(200, ""), (200, "")]
    assert stage.pools[0].active == 0


def test_bodies_and_trailers_from_http1(h2_peer: Any) -> None:
    stage = Stage(http2=True)
    client = stage.client(
        b"POST /a HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\nte: trailers\r\n\r\n"
        b"3\r\nabc\r\n0\r\nx-t: 1\r\n\r\n"
    )
    endpoint = h2_peer(stage.upstreams[0], client=False)
    assert (endpoint.messages[1].body, endpoint.messages[1].trailers) == (b"abc", [(b"x-t", b"1")])
    assert endpoint.messages[1].head[b"te"] == b"trailers"
    endpoint.connection.send_headers(1, [(b":status", b"200")])
    endpoint.data(1, b"ok")
    endpoint.trailers(1, (b"grpc-status", b"0"))
    assert client.take().endswith(b"2\r\nok\r\n0\r\ngrpc-status: 0\r\n\r\n")
    assert stage.observer.facts[0].grpc_status == b"0"


def test_grpc_all_the_way(h2_peer: Any) -> None:
    stage = Stage(http2=True)
    client = h2_peer(stage.client(), client=True)
    stream = client.request((b"content-type", b"application/grpc"), method=b"POST", path=b"/s/m", end=False)
    endpoint = h2_peer(stage.upstreams[0], client=False)
    client.data(stream, b"\0\0\0\0\1a")
    endpoint.sync()
    assert endpoint.messages[1].body == b"\0\0\0\0\1a"
    endpoint.connection.send_headers(1, [(b":status", b"200"), (b"content-type", b"application/grpc")])
    endpoint.data(1, b"\0\0\0\0\1b")
    client.sync()
    assert client.messages[stream].body == b"\0\0\0\0\1b"
    assert not client.messages[stream].ended
    client.data(stream, b"\0\0\0\0\1c", end=True)
    endpoint.sync()
    assert endpoint.messages[1].ended
    endpoint.trailers(1, (b"grpc-status", b"5"), (b"grpc-message", b"none"))
    client.sync()
    assert client.messages[stream].trailers == [(b"grpc-status", b"5"), (b"grpc-message", b"none")]
    assert stage.observer.facts[0].grpc_status == b"5"


def test_an_answer_that_is_all_trailers(h2_peer: Any) -> None:
    stage = Stage(http2=True)
    client = h2_peer(stage.client(), client=True)
    stream = client.request()
    endpoint = h2_peer(stage.upstreams[0], client=False)
    endpoint.respond(1, (b"grpc-status", b"12"), body=b"")
    client.sync()
    assert client.messages[stream].head[b"grpc-status"] == b"12"
    assert client.messages[stream].ended
    assert client.messages[stream].body == b""


def test_heads_longer_than_a_frame(h2_peer: Any) -> None:
    stage = Stage(http2=True)
    client = stage.client(
        b"GET / HTTP/1.1\r\nhost: h\r\n" + b"".join(b"x-%d: %s\r\n" % (n, b"a" * 1000) for n in range(50)) + b"\r\n"
    )
    endpoint = h2_peer(stage.upstreams[0], client=False)
    assert len(endpoint.messages[1].heads[0]) == 54
    endpoint.respond(1, *((b"y-%d" % n, b"b" * 1000) for n in range(50)))
    assert client.take().count(b"\r\ny-") == 50


def test_a_large_body_both_ways_within_windows(h2_peer: Any) -> None:
    stage = Stage(http2=True)
    client = stage.client(b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 500000\r\n\r\n")
    endpoint = h2_peer(stage.upstreams[0], client=False, acknowledge=False)
    for _ in range(5):
        client.feed(b"a" * 100000)
    endpoint.sync()
    assert len(endpoint.messages[1].body) == 65535
    assert client.paused
    endpoint.acknowledge = True
    endpoint.connection.acknowledge_received_data(65535, 1)
    endpoint.sync()
    client.deliver()
    endpoint.sync()
    assert len(endpoint.messages[1].body) == 500000
    assert endpoint.messages[1].ended
    assert not client.paused
    client.stuck = True
    endpoint.connection.send_headers(1, [(b":status", b"200"), (b"content-length", b"1000000")])
    sent = 0
    while sent < 1000000 and (window := endpoint.connection.local_flow_control_window(1)):
        endpoint.data(1, b"b" * min(window, 16384, 1000000 - sent), end=sent + min(window, 16384) >= 1000000)
        sent += min(window, 16384)
    assert sent < 600_000
    client.unstick()
    endpoint.sync()
    while sent < 1000000:
        size = min(endpoint.connection.local_flow_control_window(1), 16384, 1000000 - sent)
        sent += size
        endpoint.data(1, b"b" * size, end=sent >= 1000000)
    assert client.take().count(b"b") >= 1000000
    assert stage.observer.summary == [(200, "")]


@pytest.mark.parametrize(
    ("code", "status", "flag", "kind"),
    [
        (ErrorCodes.REFUSED_STREAM, 503, "UR", FailureKind.REFUSED),
        (ErrorCodes.INTERNAL_ERROR, 503, "UR", FailureKind.RESET),
    ],
)
def test_resets_by_the_endpoint(h2_peer: Any, code: ErrorCodes, status: int, flag: str, kind: FailureKind) -> None:
    stage = Stage(http2=True)
    client = stage.client(GET)
    endpoint = h2_peer(stage.upstreams[0], client=False)
    endpoint.connection.reset_stream(1, code)
    endpoint.sync()
    assert client.take().startswith(b"HTTP/1.1 %d " % status)
    assert stage.observer.summary == [(status, flag)]
    failure = stage.backend.outcomes[0][2]
    assert failure is not None
    assert failure.kind is kind
    assert not stage.upstreams[0].closed


def test_what_an_endpoint_has_not_looked_at_is_tried_elsewhere(h2_peer: Any) -> None:
    stage = Stage(http2=True, retry=RetryPlan(Retry(attempts=1, conditions=("refused-stream",))))
    client = stage.client(GET)
    endpoint = h2_peer(stage.upstreams[0], client=False)
    endpoint.connection.close_connection(last_stream_id=0)
    endpoint.sync()
    stage.clock.advance(1)
    again = h2_peer(stage.upstreams[1], client=False)
    again.respond(1)
    assert client.take().startswith(b"HTTP/1.1 200 ")
    assert stage.upstreams[0].closed


@pytest.mark.parametrize("fields", [[(b"x-a", b"a\r\nb: c")], [(b"connection", b"close")], [(b"X", b"1")]])
def test_malformed_answers(h2_peer: Any, fields: list[tuple[bytes, bytes]]) -> None:
    stage = Stage(http2=True)
    client = stage.client(GET)
    endpoint = h2_peer(stage.upstreams[0], client=False)
    endpoint.respond(1, *fields)
    assert client.take().startswith(b"HTTP/1.1 502 ")
    assert stage.observer.summary == [(502, "UPE")]
    assert stage.pools[0].active == 0


def test_a_short_answer_is_not_taken_for_whole(h2_peer: Any) -> None:
    stage = Stage(http2=True)
    client = stage.client(GET)
    endpoint = h2_peer(stage.upstreams[0], client=False)
    endpoint.respond(1, (b"content-length", b"5"), body=b"ab")
    assert client.was_reset
    assert stage.observer.summary == [(200, "UPE")]


def test_a_lost_connection_fails_all_its_requests(h2_peer: Any) -> None:
    stage = Stage(http2=True)
    clients = [stage.client(GET), stage.client(GET)]
    h2_peer(stage.upstreams[0], client=False)
    stage.upstreams[0].lose()
    assert [client.take()[:12] for client in clients] == [b"HTTP/1.1 503"] * 2
    assert stage.observer.summary == [(503, "UC")] * 2
    assert stage.pools[0].active == 0


def test_a_cancelled_request_is_reset_and_the_connection_goes_on(h2_peer: Any) -> None:
    stage = Stage(http2=True)
    stage.client(GET).lose()
    endpoint = h2_peer(stage.upstreams[0], client=False)
    assert endpoint.messages[1].reset == ErrorCodes.CANCEL
    client = stage.client(GET)
    endpoint.sync()
    endpoint.respond(3)
    assert client.take().startswith(b"HTTP/1.1 200 ")
    assert len(stage.upstreams) == 1


def test_an_early_answer_ends_the_call(h2_peer: Any) -> None:
    stage = Stage(http2=True)
    client = stage.client(b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 100\r\n\r\nabc")
    endpoint = h2_peer(stage.upstreams[0], client=False)
    endpoint.respond(1, status=b"413", body=b"")
    assert client.take().startswith(b"HTTP/1.1 413 ")
    assert endpoint.messages[1].reset == ErrorCodes.NO_ERROR
    assert not stage.upstreams[0].closed
    assert client.finished


def test_limits_of_streams_make_another_connection(h2_peer: Any) -> None:
    stage = Stage(http2=True, pool_limits=PoolLimits(connections=2))
    stage.client(GET)
    endpoint = h2_peer(stage.upstreams[0], client=False)
    endpoint.connection.update_settings({3: 1})
    endpoint.sync()
    second, third = stage.client(GET), stage.client(GET)
    other = h2_peer(stage.upstreams[1], client=False)
    assert len(stage.upstreams) == 2
    other.respond(1)
    other.respond(3)
    assert second.take().startswith(b"HTTP/1.1 200 ")
    assert third.take().startswith(b"HTTP/1.1 200 ")


def test_idle_connections_are_closed(h2_peer: Any) -> None:
    stage = Stage(http2=True, pool_limits=PoolLimits(idle_seconds=30))
    stage.client(GET)
    endpoint = h2_peer(stage.upstreams[0], client=False)
    stage.clock.advance(40)
    assert not stage.upstreams[0].closed
    endpoint.respond(1)
    stage.clock.advance(70)
    assert stage.upstreams[0].closed
    stage.client(GET)
    assert len(stage.upstreams) == 2
    stage.pools[0].drain()
    h2_peer(stage.upstreams[1], client=False).respond(1)
    assert stage.upstreams[1].closed
