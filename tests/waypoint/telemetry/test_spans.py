"""What spans say of a request and its attempts."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mesh.model.waypoint import SpanTag, TagSource
from waypoint.http.message import RequestHead
from waypoint.telemetry import flags
from waypoint.telemetry.record import NOT_REACHED, RequestRecord
from waypoint.telemetry.spans import MAX_VALUE, FinishedSpan, SpanMaker
from waypoint.telemetry.trace_codec import TraceContext
from waypoint.telemetry.tracing import TIMED_OUT, RequestTrace

Make = Callable[..., RequestRecord]
TRACE, PARENT = b"0af7651916cd43dd8448eb211c80319c", b"b7ad6b7169203331"


def traced(*attempts: tuple[str, float, int, str, float]) -> RequestTrace:
    """With attempts: endpoint, beginning, status, failure, end (0: it is not over)."""
    numbers = iter(range(1, 100))
    trace = RequestTrace(TraceContext(TRACE, PARENT, True), lambda count: next(numbers))
    for endpoint, began, status, failure, ended in attempts:
        trace.attempt(RequestHead(method=b"GET", path=b"/", authority=b"echo"), endpoint, began)
        if ended:
            trace.attempt_over(status, failure, ended)
    return trace


def spans(record: RequestRecord, trace: RequestTrace, *tags: SpanTag) -> list[FinishedSpan]:
    return SpanMaker(tags, {"STAGE": "test"}).spans(trace, record)


def test_a_request_and_its_answered_attempt(finished: Make) -> None:
    record = finished(path=b"/a?token=secret", request_id=b"an-id")
    record.request.authority = b"echo.demo:8000"
    server, client = spans(record, traced(("10.0.0.2:8080", 100.001, 200, "", 100.015)))
    assert (server.name, server.served, server.failed) == ("GET demo/route/0", True, False)
    assert (server.trace_id, server.parent_id) == (TRACE, PARENT)
    assert (client.name, client.served, client.failed) == ("GET", False, False)
    assert (client.trace_id, client.parent_id) == (TRACE, server.span_id)
    assert server.attributes == {
        "http.request.method": "GET",
        "url.path": "/a",
        "url.scheme": "http",
        "server.address": "echo.demo",
        "server.port": 8000,
        "client.address": "10.0.0.1",
        "client.port": 40000,
        "network.protocol.name": "http",
        "network.protocol.version": "1.1",
        "http.response.status_code": 200,
        "http.request.body.size": 10,
        "http.response.body.size": 2000,
        "response_flags": "-",
        "response_code_details": "via_upstream",
        "ambimesh.route": "demo/route/0",
        "guid:x-request-id": "an-id",
        "upstream_cluster.name": "demo/echo.demo.svc",
        "ambimesh.source.principal": "spiffe://cluster.local/ns/demo/sa/client",
        "user_agent.original": "curl",
    }
    assert client.attributes == {
        "http.request.method": "GET",
        "url.full": "http://echo.demo:8000/a",
        "server.address": "echo.demo",
        "server.port": 8000,
        "network.peer.address": "10.0.0.2",
        "network.peer.port": 8080,
        "peer.service": "demo/echo.demo.svc",
        "http.response.status_code": 200,
    }
    assert server.began == pytest.approx(1_800_000_000.25)
    assert server.ended == pytest.approx(1_800_000_000.27)
    assert client.began == pytest.approx(1_800_000_000.251)
    assert client.ended == server.ended, "the answer came in until the end"


def test_retries_are_children_of_the_same_request(finished: Make) -> None:
    record = finished(status=504, first_answered=NOT_REACHED, flags=flags.UPSTREAM_REQUEST_TIMEOUT)
    made = spans(
        record,
        traced(
            ("10.0.0.2:80", 100.0, 503, "", 100.001),
            ("[fd00::2]:80", 100.002, 0, "connection refused", 100.003),
            ("10.0.0.2:80", 100.004, 0, TIMED_OUT, 100.019),
            ("10.0.0.2:80", 100.0195, 0, "", 0.0),
        ),
    )
    server, *attempts = made
    assert server.failed
    assert server.attributes["error.type"] == "504"
    assert len({span.span_id for span in made}) == 5
    assert {span.parent_id for span in attempts} == {server.span_id}
    assert [span.failed for span in attempts] == [True] * 4
    told = [
        tuple(
            span.attributes.get(name)
            for name in ("http.request.resend_count", "http.response.status_code", "error.type")
        )
        for span in attempts
    ]
    assert told == [(None, 503, "503"), (1, None, "connection"), (2, None, "timeout"), (3, None, "given_up")]
    assert attempts[1].attributes["network.peer.address"] == "fd00::2"
    assert attempts[1].attributes["upstream_transport_failure_reason"] == "connection refused"
    assert attempts[2].ended == pytest.approx(1_800_000_000.269)
    assert attempts[3].ended == server.ended


def test_an_answer_that_breaks_off_is_the_attempts_failure(finished: Make) -> None:
    record = finished(details="reset", transport_failure="reset", flags=flags.UPSTREAM_REMOTE_RESET)
    server, client = spans(record, traced(("10.0.0.2:80", 100.0, 200, "", 100.015)))
    assert not server.failed, "the client had its status"
    assert client.failed
    assert client.attributes["error.type"] == "connection"


def test_a_request_that_went_nowhere_has_one_span(finished: Make) -> None:
    record = finished(status=403, route="", upstream_service="", details="rbac_access_denied")
    [server] = spans(record, traced())
    assert (server.name, server.failed) == ("GET", False), "a refusal is the client's fault"
    assert {"upstream_cluster.name", "ambimesh.route", "error.type"}.isdisjoint(server.attributes)
    [gone] = spans(finished(status=0), traced())
    assert gone.failed
    assert gone.attributes["error.type"] == "client_gone"


@pytest.mark.parametrize(("status", "failed"), [(0, False), (5, False), (14, True), (13, True)])
def test_grpc(finished: Make, status: int, failed: bool) -> None:
    record = finished(path=b"/shop.Cart/Add", grpc=True, grpc_status=status)
    [server] = spans(record, traced())
    assert server.failed is failed
    assert {name: value for name, value in server.attributes.items() if name.startswith("rpc.")} == {
        "rpc.system": "grpc",
        "rpc.service": "shop.Cart",
        "rpc.method": "Add",
        "rpc.grpc.status_code": status,
    }


def test_tags_come_from_texts_variables_and_headers(finished: Make) -> None:
    record = finished()
    record.request.headers += [(b"x-tenant", b"a"), (b"x-tenant", b"b")]
    tags = (
        SpanTag(name="team", value="shop"),
        SpanTag(name="stage", source=TagSource.ENVIRONMENT, value="STAGE"),
        SpanTag(name="region", source=TagSource.ENVIRONMENT, value="REGION", default="nowhere"),
        SpanTag(name="tenant", source=TagSource.HEADER, value="x-tenant"),
        SpanTag(name="user", source=TagSource.HEADER, value="x-user", default="nobody"),
        SpanTag(name="absent", source=TagSource.HEADER, value="x-absent"),
    )
    server, client = spans(record, traced(("10.0.0.2:80", 100.0, 200, "", 100.01)), *tags)
    told = {name: server.attributes.get(name) for name in ("team", "stage", "region", "tenant", "user", "absent")}
    assert told == {
        "team": "shop", "stage": "test", "region": "nowhere", "tenant": "a,b", "user": "nobody", "absent": None
    }  # fmt: skip
    assert "team" not in client.attributes


def test_what_clients_choose_is_bounded(finished: Make) -> None:
    record = finished(path=b"/" + b"x" * 5000)
    record.request.method, record.request.authority = b"BREW" * 500, b'"' * 5000
    record.request.headers = [(b"user-agent", b"\xff" * 5000)]
    server, client = spans(record, traced(("10.0.0.2:80", 100.0, 200, "", 100.01)))
    assert server.name == "_OTHER demo/route/0"
    for span in (server, client):
        assert all(len(value) <= MAX_VALUE for value in span.attributes.values() if isinstance(value, str))
    assert server.attributes["http.request.method"] == "_OTHER"
