"""External authorizers: what they are told, what they may change, and what happens when they fail."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import structlog
import structlog.testing
from prometheus_client import CollectorRegistry

from mesh.addresses import PeerAddress, SocketAddress, parse_ip
from mesh.errors import InvalidMessage
from mesh.identity import SpiffeId
from mesh.model.request_policy import ExternalAuthorizer
from mesh.model.service import LoadBalancing
from mesh.model.upstream_policy import TrafficPolicy
from mesh.state.service_index import route_to
from mesh.testing.model import make_workload
from mesh.wire import external_authorization_pb2 as wire
from waypoint.client import Client
from waypoint.http.limits import HttpLimits
from waypoint.http.message import Headers, RequestHead
from waypoint.security.external_authorization_codec import (
    MAX_ANSWER_BYTES,
    NO_BODY,
    Consent,
    Refusal,
    ShownBody,
    decode_check,
    decode_http_check,
    encode_check,
    encode_http_check,
)
from waypoint.security.external_authorizers import ExternalAuthorizers, read_answer
from waypoint.telemetry.record import HttpVersion
from waypoint.testing.wires import ManualClock, MemoryConnector
from waypoint.upstream.backend import Place, ServiceBackend
from waypoint.upstream.cluster import Cluster
from waypoint.upstream.endpoint import Endpoint
from waypoint.upstream.inquiry import InquiryAnswer
from waypoint.upstream.pool_contract import Unavailable

GRPC = ExternalAuthorizer(name="judge", service="ns/judge.ns", port=9000, grpc=True, timeout_seconds=2.0)
HTTP = replace(GRPC, grpc=False, path_prefix="/check", include_headers=("X-Team",))
CLIENT = Client(
    identity=SpiffeId("td", "ns", "client"),
    address=PeerAddress(SocketAddress(parse_ip("10.0.0.1"), 4000)),
    destination=SocketAddress(parse_ip("10.0.0.2"), 80),
)


def _head() -> RequestHead:
    headers = [(b"x-team", b"a"), (b"x-team", b"b"), (b"cookie", b"c"), (b"content-length", b"5")]
    return RequestHead(method=b"PUT", path=b"/p?q", authority=b"echo", headers=headers)


# -- the codec ---------------------------------------------------------------------------------------------------------


def test_what_an_authorizer_is_told() -> None:
    waypoint, hello = SpiffeId("td", "ns", "waypoint"), ShownBody(data=b"hello")
    payload = encode_check(_head(), CLIENT, waypoint, HttpVersion.HTTP_2, b"id", GRPC, hello)
    asked = wire.CheckRequest.FromString(payload).attributes
    assert asked.source.principal == "spiffe://td/ns/ns/sa/client"
    assert asked.source.address.socket_address.address == "10.0.0.1"
    assert asked.destination.address.socket_address.port_value == 80
    http = asked.request.http
    assert (http.method, http.path, http.host, http.size, http.body) == ("PUT", "/p?q", "echo", 5, "hello")
    assert dict(http.headers) == {"x-team": "a,b", "cookie": "c", "content-length": "5"}
    as_bytes = replace(GRPC, body_as_bytes=True, max_body_bytes=10)
    shown = ShownBody(data=b"\xff", partial=True)
    http = wire.CheckRequest.FromString(
        encode_check(_head(), CLIENT, None, HttpVersion.HTTP_2, b"", as_bytes, shown)
    ).attributes.request.http
    assert (http.raw_body, http.body, http.headers["x-envoy-auth-partial-body"]) == (b"\xff", "", "true")
    only = encode_check(_head(), CLIENT, None, HttpVersion.HTTP_2, b"", replace(GRPC, include_headers=("X-Team",)))
    assert dict(wire.CheckRequest.FromString(only).attributes.request.http.headers) == {"x-team": "a,b"}


def _option(name: str, value: str, **fields: object) -> wire.HeaderValueOption:
    option = wire.HeaderValueOption(**fields)  # type: ignore[arg-type]
    option.header.key, option.header.value = name, value
    return option


def test_consent_changes_headers() -> None:
    response = wire.CheckResponse()
    added = _option("X-Add", "2")
    added.append.value = True
    ok = response.ok_response
    absent = [_option(name, "new", append_action=1) for name in ("x-team", "x-new")]
    ok.headers.extend([_option("X-Set", "1"), added, *absent])
    ok.headers_to_remove.append("Cookie")
    ok.response_headers_to_add.append(_option("x-answer", "a"))
    consent = decode_check(response.SerializeToString())
    assert isinstance(consent, Consent)
    headers: Headers = [*_head().headers, (b"x-set", b"0"), (b"x-add", b"1")]
    consent.apply(headers)
    assert headers == [
        *((b"x-team", b"a"), (b"x-team", b"b"), (b"content-length", b"5")),
        *((b"x-add", b"1"), (b"x-set", b"1"), (b"x-add", b"2"), (b"x-new", b"new")),
    ]
    assert consent.response_add == ((b"x-answer", b"a"),)


def test_an_authorizer_cannot_break_the_message() -> None:
    response = wire.CheckResponse()
    bad = [("content-length", "1"), ("Transfer-Encoding", "chunked"), ("host", "x"), (":path", "/"), ("a b", "c")]
    response.ok_response.headers.extend([_option(name, value) for name, value in [*bad, ("x", "a\r\nevil: 1")]])
    response.ok_response.headers_to_remove.append("content-length")
    consent = decode_check(response.SerializeToString())
    assert isinstance(consent, Consent)
    headers = _head().headers
    consent.apply(headers)
    assert headers == _head().headers


def test_refusals() -> None:
    response = wire.CheckResponse()
    response.status.code = 7
    assert decode_check(response.SerializeToString()) == Refusal(status=403)
    response.denied_response.status.code = 429
    response.denied_response.body = "no"
    response.denied_response.headers.append(_option("x-why", "because"))
    refusal = Refusal(status=429, headers=((b"x-why", b"because"),), body=b"no")
    assert decode_check(response.SerializeToString()) == refusal
    response.denied_response.status.code = 99
    assert decode_check(response.SerializeToString()).status == 403  # type: ignore[union-attr]
    with pytest.raises(InvalidMessage):
        decode_check(b"\xff\xff\xff")


def test_the_question_in_the_http_form() -> None:
    asked = encode_http_check(_head(), replace(HTTP, additional_headers=(("x-mesh", "m"), ("bad name", "x"))))
    assert (asked.method, asked.path, asked.authority) == (b"PUT", b"/check/p?q", b"echo")
    team = [(b"x-team", b"a"), (b"x-team", b"b")]
    assert asked.headers == [*team, (b"x-mesh", b"m"), (b"content-length", b"0")]
    every = encode_http_check(_head(), replace(HTTP, include_headers=("x-te*", "*kie", "content-length")))
    assert every.headers == [*team, (b"cookie", b"c"), (b"content-length", b"0")]
    shown = encode_http_check(_head(), replace(HTTP, max_body_bytes=3), ShownBody(data=b"hel", partial=True))
    assert shown.headers[-2:] == [(b"x-envoy-auth-partial-body", b"true"), (b"content-length", b"3")]


def test_the_answer_in_the_http_form() -> None:
    authorizer = replace(HTTP, headers_to_upstream=("x-user",), headers_to_downstream=("x-why",))
    answer = [(b"X-User", b"u"), (b"x-why", b"w"), (b"location", b"/login"), (b"server", b"s"), (b"te", b"x")]
    assert decode_http_check(200, answer, b"", authorizer) == Consent(set=((b"x-user", b"u"),))
    told = replace(authorizer, headers_to_downstream_on_allow=("x-w*",))
    assert decode_http_check(200, answer, b"", told) == Consent(
        set=((b"x-user", b"u"),), response_set=((b"x-why", b"w"),)
    )
    refusal = decode_http_check(302, answer, b"go", authorizer)
    assert refusal == Refusal(status=302, headers=((b"x-why", b"w"), (b"location", b"/login")), body=b"go")
    everything = decode_http_check(302, answer, b"", HTTP)
    assert isinstance(everything, Refusal)
    assert [name for name, _ in everything.headers] == [b"x-user", b"x-why", b"location", b"server"]
    assert decode_http_check(503, answer, b"", authorizer) is None


# -- asking ------------------------------------------------------------------------------------------------------------


class Nowhere:
    """Finds no service."""

    def backend(self, *_which: Any, **_how: Any) -> Unavailable:
        return Unavailable("NC", "no such service")


def _asking(backends: Any) -> tuple[ExternalAuthorizers, ManualClock, CollectorRegistry]:
    clock, registry = ManualClock(), CollectorRegistry()
    return ExternalAuthorizers(clock.timers, backends, SpiffeId("td", "ns", "waypoint"), registry), clock, registry


def _failures(registry: CollectorRegistry) -> float | None:
    labels = {"authorizer": "judge", "answer": "failed"}
    return registry.get_sample_value("ambimesh_waypoint_authorizer_answers_total", labels)


def test_every_failure_is_counted_and_few_are_logged() -> None:
    authorizers, clock, registry = _asking(Nowhere())
    answers: list[tuple[Consent | Refusal, bool]] = []
    with structlog.testing.capture_logs() as lines:
        for _ in range(100):
            asked = authorizers.ask(
                replace(GRPC, status_on_error=503), _head(), CLIENT, "2", NO_BODY, lambda *told: answers.append(told)
            )
            assert asked is None
        clock.advance(6)
        opened = replace(GRPC, fail_open=True)
        authorizers.ask(opened, _head(), CLIENT, "2", NO_BODY, lambda *told: answers.append(told))
    assert answers == [(Refusal(status=503), True)] * 100 + [(Consent(), True)]
    assert _failures(registry) == 101
    assert [line["not_logged"] for line in lines] == [0, 99]


class Memory:
    """One backend over memory wires, in the version that is asked for."""

    def __init__(self) -> None:
        self.clock: ManualClock
        self.connector = MemoryConnector()
        self.asked_http2: list[bool] = []

    def backend(self, place: Place, policies: Any, *, http2: bool) -> ServiceBackend:
        self.asked_http2.append(http2)
        cluster = Cluster(TrafficPolicy(), make_workload("waypoint", "10.0.0.9"), lambda: 0.5)
        workload = make_workload("judge", "10.0.0.7")
        route = route_to(workload, workload.addresses[0], 9000, place.service)

        def refresh(cluster: Cluster) -> list[Endpoint]:
            return cluster.update([route], LoadBalancing(), 0.0)

        return ServiceBackend(
            place.service, cluster, refresh, lambda _to: self.connector, self.clock.timers, HttpLimits(), http2=http2
        )


def _memory() -> tuple[ExternalAuthorizers, Memory, CollectorRegistry]:
    memory = Memory()
    authorizers, memory.clock, registry = _asking(memory)
    return authorizers, memory, registry


def test_the_http_form_is_one_request() -> None:
    authorizers, memory, _ = _memory()
    answers: list[Consent | Refusal] = []
    authorizers.ask(HTTP, _head(), CLIENT, "1.1", NO_BODY, lambda answer, _: answers.append(answer))
    [wire] = memory.connector.wires
    asked = wire.take()
    assert asked.startswith(b"PUT /check/p?q HTTP/1.1\r\n")
    assert b"host: echo\r\n" in asked.lower()
    wire.feed(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
    assert answers == [Consent()]
    assert memory.asked_http2 == [False]


@pytest.mark.parametrize("size", [MAX_ANSWER_BYTES + 1, 1 << 30])
def test_an_answer_without_end_is_a_failure(size: int) -> None:
    authorizers, memory, registry = _memory()
    answers: list[Consent | Refusal] = []
    authorizers.ask(HTTP, _head(), CLIENT, "1.1", NO_BODY, lambda answer, _: answers.append(answer))
    wire = memory.connector.wires[0]
    wire.feed(b"HTTP/1.1 403 No\r\ncontent-length: %d\r\n\r\n" % size)
    wire.feed(b"x" * (MAX_ANSWER_BYTES + 1))
    assert answers == [Refusal(status=403)]
    assert _failures(registry) == 1


def test_who_is_not_wanted_any_more_is_told_nothing() -> None:
    authorizers, memory, registry = _memory()
    answers: list[Consent | Refusal] = []
    asked = authorizers.ask(GRPC, _head(), CLIENT, "2", NO_BODY, lambda answer, _: answers.append(answer))
    assert asked is not None
    asked.cancel()
    memory.clock.advance(60)
    assert answers == []
    assert _failures(registry) is None
    assert memory.asked_http2 == [True]


@pytest.mark.parametrize(
    ("status", "body", "trailers"),
    [
        (404, b"", []),
        (200, b"", []),
        (200, b"", [(b"grpc-status", b"14")]),
        (200, b"", [(b"grpc-status", b"0")]),
        (200, b"\1\0\0\0\0", [(b"grpc-status", b"0")]),
        (200, b"\0\0\0\0\3\xff\xff\xff", [(b"grpc-status", b"0")]),
        (200, b"\0\0\0\0\0\0\0\0\0\0", [(b"grpc-status", b"0")]),
    ],
)
def test_what_is_no_grpc_answer_is_a_failure(status: int, body: bytes, trailers: Headers) -> None:
    answer, error = read_answer(GRPC, InquiryAnswer(status, [], body, trailers))
    assert answer is None
    assert error


def test_an_empty_grpc_answer_is_consent() -> None:
    whole = InquiryAnswer(200, [], b"\0\0\0\0\0", [(b"grpc-status", b"0")])
    assert read_answer(GRPC, whole) == (Consent(), "")
