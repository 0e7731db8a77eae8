"""External authorizers: what they are told, what they may change, and what happens when they fail."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio
import trio.testing

from mesh.addresses import PeerAddress, SocketAddress, parse_ip
from mesh.errors import InvalidMessage
from mesh.grpc.driver import CallContext, GrpcError, StatusCode, unary
from mesh.identity import SpiffeId
from mesh.model.request_policy import ExternalAuthorizer
from mesh.testing.grpc import serving
from mesh.wire import external_authorization_pb2 as wire
from waypoint.client import Client
from waypoint.http.message import Headers, RequestHead
from waypoint.security.external_authorization_codec import (
    METHOD,
    Consent,
    Refusal,
    decode_check,
    decode_http_check,
    encode_check,
    http_check_headers,
)
from waypoint.security.external_authorizer_driver import ExternalAuthorizers
from waypoint.telemetry.record import HttpVersion

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
    payload = encode_check(_head(), CLIENT, SpiffeId("td", "ns", "waypoint"), HttpVersion.HTTP_2, b"id", GRPC, b"hello")
    asked = wire.CheckRequest.FromString(payload).attributes
    assert asked.source.principal == "spiffe://td/ns/ns/sa/client"
    assert asked.source.address.socket_address.address == "10.0.0.1"
    assert asked.destination.address.socket_address.port_value == 80
    http = asked.request.http
    assert (http.method, http.path, http.host, http.size, http.raw_body) == ("PUT", "/p?q", "echo", 5, b"hello")
    assert dict(http.headers) == {"x-team": "a,b", "cookie": "c", "content-length": "5"}
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


def test_the_http_form() -> None:
    assert http_check_headers(_head(), HTTP) == [(b"x-team", b"a"), (b"x-team", b"b"), (b"x-forwarded-host", b"echo")]
    authorizer = replace(HTTP, headers_to_upstream=("x-user",), headers_to_downstream=("x-why",))
    answer = [(b"X-User", b"u"), (b"x-why", b"w"), (b"location", b"/login"), (b"server", b"s")]
    assert decode_http_check(200, answer, b"", authorizer) == Consent(set=((b"x-user", b"u"),))
    refusal = decode_http_check(302, answer, b"go", authorizer)
    assert refusal == Refusal(status=302, headers=((b"x-why", b"w"), (b"location", b"/login")), body=b"go")
    assert decode_http_check(503, answer, b"", authorizer) is None


# -- asking ------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _asking(
    handler: Callable[[CallContext, bytes], Awaitable[bytes]],
) -> AsyncIterator[tuple[ExternalAuthorizers, list[int]]]:
    """Authorizers whose one server is ``handler``; and the connections made, as they are made."""
    connections: list[int] = []
    async with serving({METHOD: unary(handler)}) as port, trio.open_nursery() as nursery:

        async def connect(authorizer: ExternalAuthorizer) -> trio.SocketStream:
            connections.append(authorizer.port)
            return await trio.open_tcp_stream("127.0.0.1", port)

        authorizers = ExternalAuthorizers(connect, SpiffeId("td", "ns", "waypoint"))
        nursery.start_soon(authorizers.run)
        yield authorizers, connections
        nursery.cancel_scope.cancel()


async def _by_method(context: CallContext, request: bytes) -> bytes:
    response = wire.CheckResponse()
    if wire.CheckRequest.FromString(request).attributes.request.http.method != "PUT":
        response.status.code = 7
    return response.SerializeToString()


async def test_questions_share_one_connection() -> None:
    async with _asking(_by_method) as (authorizers, connections):
        put, get = _head(), replace(_head(), method=b"GET")
        for _ in range(3):
            assert await authorizers.ask(GRPC, put, CLIENT, HttpVersion.HTTP_2) == Consent()
            assert await authorizers.ask(GRPC, get, CLIENT, HttpVersion.HTTP_2) == Refusal(status=403)
        assert connections == [9000]
        assert authorizers.failures == 0


async def _crash(context: CallContext, request: bytes) -> bytes:
    raise GrpcError(StatusCode.INTERNAL, "out of order")


async def _nonsense(context: CallContext, request: bytes) -> bytes:
    return b"\xff\xff\xff"


async def _sleepy(context: CallContext, request: bytes) -> bytes:
    await trio.sleep_forever()
    raise AssertionError


@pytest.mark.parametrize("handler", [_crash, _nonsense, _sleepy])
async def test_a_failing_authorizer(handler: Callable[[CallContext, bytes], Awaitable[bytes]]) -> None:
    async with _asking(handler) as (authorizers, _):
        closed = replace(GRPC, timeout_seconds=0.2, status_on_error=503)
        opened = replace(closed, fail_open=True)
        assert await authorizers.ask(closed, _head(), CLIENT, HttpVersion.HTTP_2) == Refusal(status=503)
        assert await authorizers.ask(opened, _head(), CLIENT, HttpVersion.HTTP_2) == Consent()
        assert authorizers.failures == 2


async def test_an_authorizer_that_is_away_is_asked_again_later(autojump_clock: trio.testing.MockClock) -> None:
    attempts = []

    async def connect(authorizer: ExternalAuthorizer) -> trio.SocketStream:
        attempts.append(trio.current_time())
        raise OSError("connection refused")

    authorizers = ExternalAuthorizers(connect, None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(authorizers.run)
        for _ in range(50):
            answer = await authorizers.ask(GRPC, _head(), CLIENT, HttpVersion.HTTP_2)
            assert answer == Refusal(status=403)
            await trio.sleep(0.1)
        nursery.cancel_scope.cancel()
    assert 3 <= len(attempts) <= 6


async def test_asking_over_http() -> None:
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    seen: list[bytes] = []

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            seen.append(await stream.receive_some())
            status = b"200 OK" if b"x-team: a" in seen[-1].lower() else b"503 Away"
            await stream.send_all(b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\n\r\n")

    async def connect(authorizer: ExternalAuthorizer) -> trio.SocketStream:
        return await trio.open_tcp_stream(*listener.socket.getsockname()[:2])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        authorizers = ExternalAuthorizers(connect, None)
        assert await authorizers.ask(HTTP, _head(), CLIENT, HttpVersion.HTTP_1_1) == Consent()
        assert seen[0].startswith(b"PUT /check/p?q HTTP/1.1\r\n")
        assert b"judge.ns:9000" in seen[0]
        bare = replace(_head(), headers=[])
        assert await authorizers.ask(HTTP, bare, CLIENT, HttpVersion.HTTP_1_1) == Refusal(status=403)
        nursery.cancel_scope.cancel()
