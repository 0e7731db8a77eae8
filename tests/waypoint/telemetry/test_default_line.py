"""The usual line is what its template says, whatever peers send."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mesh.addresses import PeerAddress, SocketAddress, parse_ip
from waypoint.client import Client
from waypoint.http.message import RequestHead
from waypoint.telemetry import flags
from waypoint.telemetry.default_line import DefaultLine
from waypoint.telemetry.log_format import DEFAULT_TEMPLATE, compile_template
from waypoint.telemetry.record import HttpVersion, RequestRecord

TEXT = st.binary(max_size=12) | st.sampled_from([b"curl/8", b'a"b', b"a\\b", b"a\nb", "é".encode(), b"\xff", b""])
NAMES = st.sampled_from([b"user-agent", b"x-forwarded-for", b"x-request-id", b"accept"])
ANSWERED = st.sampled_from([b"x-envoy-upstream-service-time", b"server"])
WORDS = st.sampled_from(["", "via_upstream", "route_not_found", "demo/echo/0", "a b", 'a"b', "é"])
TIMES = st.sampled_from([-1.0, 0.0, 0.25, 12.3456, 99.0])
CLIENTS = [
    Client(
        identity=None,
        address=PeerAddress(SocketAddress(parse_ip(f"10.0.0.{number}"), 4000 + number)),
        destination=SocketAddress(parse_ip("fd00::1"), 80),
    )
    for number in range(3)
]
UPSTREAMS = [None, *(SocketAddress(parse_ip("10.0.1.1"), port) for port in (80, 8080))]

line = DefaultLine()
by_template = compile_template(DEFAULT_TEMPLATE)


@st.composite
def records(draw: st.DrawFn) -> RequestRecord:
    head = RequestHead(method=draw(TEXT), path=draw(TEXT), authority=draw(TEXT))
    head.headers = draw(st.lists(st.tuples(NAMES, TEXT), max_size=5))
    client = draw(st.sampled_from(CLIENTS))
    record = RequestRecord(client, "demo/echo", head, HttpVersion.HTTP_1_1, 1.0, 1_800_000_000.25)
    record.version = draw(st.sampled_from(list(HttpVersion)))
    record.started_wall += draw(st.floats(0, 5))
    record.status = draw(st.sampled_from([0, 200, 503]))
    record.flags = draw(st.sampled_from([0, flags.NO_ROUTE, flags.NO_ROUTE | flags.RATE_LIMITED]))
    record.details, record.route, record.upstream_service = draw(WORDS), draw(WORDS), draw(WORDS)
    record.transport_failure = draw(WORDS)
    record.request_bytes = draw(st.sampled_from([0, 100, 2047, 2048, 10**10]))
    record.response_bytes = draw(st.integers(0, 10**6))
    record.started, record.ended = draw(TIMES), draw(TIMES)
    record.forwarded, record.first_answered = draw(TIMES), draw(TIMES)
    record.request_id = draw(st.sampled_from([b"", b"id-1"]))
    record.upstream_address = draw(st.sampled_from(UPSTREAMS))
    record.response_headers = draw(st.none() | st.lists(st.tuples(ANSWERED, TEXT), max_size=3))
    return record


@given(records())
def test_it_is_what_the_template_makes(record: RequestRecord) -> None:
    assert line(record) == by_template(record).encode(errors="backslashreplace")


@given(st.lists(records(), min_size=1, max_size=3))
def test_one_record_is_one_line(made: list[RequestRecord]) -> None:
    assert b"".join(map(line, made)).count(b"\n") == len(made)
