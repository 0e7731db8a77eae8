"""Answers made here, for HTTP and for gRPC; and the facts that are kept of a request."""

from __future__ import annotations

import pytest

from waypoint.exchange.facts import Facts
from waypoint.exchange.local_answer import is_grpc, local_answer
from waypoint.http.message import RequestHead, ResponseHead
from waypoint.testing.exchanges import CLIENT


@pytest.mark.parametrize(
    ("kind", "grpc"),
    [
        (b"application/grpc", True),
        (b"application/grpc+proto", True),
        (b"application/grpc;x=y", True),
        (b"application/grpc-web", False),
        (b"application/json", False),
        (None, False),
    ],
)
def test_who_speaks_grpc(kind: bytes | None, grpc: bool) -> None:
    headers = [] if kind is None else [(b"content-type", kind)]
    assert is_grpc(RequestHead(method=b"POST", path=b"/", authority=b"h", headers=headers)) is grpc


@pytest.mark.parametrize(
    ("status", "code"), [(400, b"13"), (401, b"16"), (403, b"7"), (404, b"12"), (429, b"14"), (503, b"14"), (500, b"2")]
)
def test_grpc_has_codes_of_its_own(status: int, code: bytes) -> None:
    answered, headers, body = local_answer(True, status, [], "50 % ü\n".encode())
    assert (answered, body) == (200, b"")
    assert dict(headers)[b"grpc-status"] == code
    assert dict(headers)[b"grpc-message"] == b"50 %25 %C3%BC%0A"


def test_http_has_a_length_and_a_type() -> None:
    assert local_answer(False, 403, [(b"x-a", b"b")], b"no") == (
        403,
        [(b"x-a", b"b"), (b"content-type", b"text/plain"), (b"content-length", b"2")],
        b"no",
    )
    assert local_answer(False, 302, [], b"")[1] == [(b"content-length", b"0")]
    assert local_answer(False, 200, [(b"content-type", b"text/html")], b"<")[1][0] == (b"content-type", b"text/html")


def test_facts() -> None:
    facts = Facts(RequestHead(method=b"GET", path=b"/", authority=b"h"), CLIENT, "1.1", 10.0)
    assert (facts.grpc_status, facts.upstream_service_time) == (None, 0.0)
    facts.response = ResponseHead(status=200, headers=[(b"grpc-status", b"5")])
    assert facts.grpc_status == b"5"
    facts.response_trailers = [(b"grpc-status", b"0")]
    assert facts.grpc_status == b"0"
    for flag in ("URX", "", "UF"):
        facts.add_flag(flag)
    assert facts.flags == "URX,UF"
    facts.sent_at, facts.answered_at = 10.5, 11.0
    assert facts.upstream_service_time == 0.5
