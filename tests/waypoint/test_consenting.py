"""Requests that external authorizers are asked about: the whole waypoint, and servers that answer as real ones do.

The gRPC authorizer is grpcio's server, the HTTP one h11's; the waypoint finds both as services of the mesh.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import h11
import pytest
import trio

from mesh.model.http_route import Backend, HeaderChange, HttpRoute
from mesh.model.request_policy import (
    Attribute,
    ExternalAuthorizer,
    RequestAction,
    RequestClause,
    RequestPolicy,
    RequestRule,
)
from mesh.model.waypoint import Destination, DestinationPort
from mesh.model.workload import TunnelProtocol
from mesh.testing.model import make_service, make_workload
from mesh.wire import external_authorization_pb2 as authorization
from waypoint.consenting import ConsentWait
from waypoint.testing.policies import condition, policy_of

WEB = "demo/web.demo.svc.cluster.local"
JUDGE = "demo/judge.demo.svc.cluster.local"
GRPC = ExternalAuthorizer(name="judge", service=JUDGE, port=9000, grpc=True, timeout_seconds=5.0)
HTTP = replace(GRPC, grpc=False, path_prefix="/check", include_headers=("x-user", "x-team-*"))

Answer = tuple[int, list[tuple[str, str]], bytes]
Handler = Callable[[h11.Request, bytes], Awaitable[Answer]]


class Server:
    """An HTTP server on loopback that keeps what it was asked."""

    def __init__(self, handler: Handler) -> None:
        self.port = 0
        self.handler = handler
        self.requests: list[tuple[h11.Request, bytes]] = []
        self.connections = 0

    async def serve(self, stream: trio.SocketStream) -> None:
        self.connections += 1
        connection = h11.Connection(h11.SERVER)
        async with stream:
            request: h11.Request | None = None
            body = b""
            while True:
                try:
                    event: Any = connection.next_event()
                except h11.RemoteProtocolError:
                    await stream.send_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
                    return
                if event is h11.NEED_DATA:
                    connection.receive_data(await stream.receive_some())
                elif isinstance(event, h11.Request):
                    request, body = event, b""
                elif isinstance(event, h11.Data):
                    body += event.data
                elif isinstance(event, h11.EndOfMessage):
                    assert request is not None
                    self.requests.append((request, body))
                    status, headers, answer = await self.handler(request, body)
                    fields = [*headers, ("content-length", str(len(answer)))]
                    sent = [h11.Response(status_code=status, headers=fields), h11.Data(data=answer), h11.EndOfMessage()]
                    await stream.send_all(b"".join(connection.send(each) or b"" for each in sent))
                    if connection.our_state is h11.MUST_CLOSE:
                        return
                    connection.start_next_cycle()
                else:
                    return


async def ok(_request: h11.Request, _body: bytes) -> Answer:
    return 200, [("x-from", "web"), ("x-said", "web")], b"web"


@asynccontextmanager
async def serving(host: str, handler: Handler) -> AsyncIterator[Server]:
    server = Server(handler)
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host=host)
        server.port = listener.socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, server.serve, [listener])
        yield server
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def asked(mesh: Any, authorizer: ExternalAuthorizer, port: int, **fields: Any) -> AsyncIterator[Server]:
    """A destination whose every request the authorizer is asked about; yields its application."""
    async with serving("127.0.0.2", ok) as web:
        mesh.offer(
            *service("web", "10.96.0.1", "127.0.0.2", 80, web.port),
            *service("judge", "10.96.0.9", "127.0.0.9", 9000, port),
        )
        everything = RequestRule(((RequestClause(),),))
        policy = RequestPolicy(key="demo/p", action=RequestAction.CUSTOM, rules=(everything,), authorizer="judge")
        made = Destination(
            key=WEB,
            waypoint="demo/waypoint",
            ports=fields.pop("ports", (DestinationPort(number=80),)),
            policies=(policy, *fields.pop("policies", ())),
            authorizers=(authorizer,),
            **fields,
        )
        mesh.offer(made)
        await mesh.served("10.96.0.1:80")
        yield web


def service(name: str, vip: str, ip: str, port: int, target: int) -> tuple[Any, Any]:
    key = f"demo/{name}.demo.svc.cluster.local"
    return (
        make_service(name, vip, ports={port: target}, namespace="demo"),
        make_workload(
            f"{name}-1", ip, namespace="demo", workload_name=name, services={key: {port: target}},
            tunnel_protocol=TunnelProtocol.NONE,
        ),
    )  # fmt: skip


async def post(mesh: Any, body: bytes, *headers: str, head: str = "POST / HTTP/1.1") -> tuple[int, bytes]:
    wire, received = await mesh.connect("10.96.0.1:80")
    lines = [head, "host: web", "connection: close", f"content-length: {len(body)}", *headers]
    wire.write("\r\n".join([*lines, "", ""]).encode() + body)
    answer = await received.until(lambda each: each.ended or each.lost)
    wire.reset()
    return int(answer[9:12]), answer


def said(mesh: Any) -> dict[str, float]:
    return {
        sample.labels["answer"]: sample.value
        for family in mesh.registry.collect()
        for sample in family.samples
        if sample.name == "ambimesh_waypoint_authorizer_answers_total"
    }


def flags(mesh: Any) -> dict[tuple[str, str], float]:
    return {
        (sample.labels["response_code"], sample.labels["response_flags"]): sample.value
        for family in mesh.registry.collect()
        for sample in family.samples
        if sample.name == "istio_requests_total"
    }


# -- gRPC --------------------------------------------------------------------------------------------------------------


def option(name: str, value: str) -> authorization.HeaderValueOption:
    made = authorization.HeaderValueOption()
    made.header.key, made.header.value = name, value
    return made


async def test_a_grpc_authorizer_admits_refuses_and_changes(own_mesh: Any, grpc_authorizer: Any) -> None:
    questions: list[authorization.CheckRequest] = []

    def judge(request: authorization.CheckRequest) -> authorization.CheckResponse:
        questions.append(request)
        response = authorization.CheckResponse()
        if request.attributes.request.http.headers.get("x-user") == "eve":
            response.status.code = 7
            response.denied_response.status.code = 402
            response.denied_response.body = "pay first"
            response.denied_response.headers.append(option("x-price", "1"))
        else:
            response.ok_response.headers.append(option("x-user", "verified"))
            response.ok_response.headers_to_remove.append("x-secret")
            response.ok_response.response_headers_to_add.append(option("x-judged", "yes"))
        return response

    async with asked(own_mesh, GRPC, grpc_authorizer(judge)) as web:
        status, answer = await own_mesh.get("10.96.0.1:80", "/p?q=1", "x-user: ann", "x-secret: s")
        assert (status, answer.endswith(b"web"), b"x-judged: yes" in answer) == (200, True, True)
        sent = dict(web.requests[0][0].headers)
        assert (sent[b"x-user"], b"x-secret" in sent) == (b"verified", False)
        attributes = questions[0].attributes
        assert attributes.source.principal == "spiffe://cluster.local/ns/demo/sa/client"
        assert attributes.destination.principal == "spiffe://cluster.local/ns/demo/sa/waypoint"
        http = attributes.request.http
        assert (http.method, http.path, http.protocol) == ("GET", "/p?q=1", "HTTP/1.1")
        status, answer = await own_mesh.get("10.96.0.1:80", "/", "x-user: eve")
        assert (status, answer.endswith(b"pay first"), b"x-price: 1" in answer) == (402, True, True)
        assert len(web.requests) == 1
        assert said(own_mesh) == {"allowed": 1, "denied": 1}
        assert flags(own_mesh)["402", "UAEX"] == 1


async def test_policies_see_what_the_authorizer_has_made_of_a_request(own_mesh: Any, grpc_authorizer: Any) -> None:
    def judge(request: authorization.CheckRequest) -> authorization.CheckResponse:
        response = authorization.CheckResponse()
        response.ok_response.headers.append(option("x-user", "banned"))
        return response

    banned = policy_of(RequestAction.DENY, condition(Attribute.HEADER, "banned", name="x-user"), key="demo/banned")
    async with asked(own_mesh, GRPC, grpc_authorizer(judge), policies=(banned,)) as web:
        assert (await own_mesh.get("10.96.0.1:80"))[0] == 403
        assert web.requests == []


@pytest.mark.parametrize(("fail_open", "status"), [(False, 503), (True, 200)])
async def test_an_authorizer_that_hangs_costs_its_timeout(
    own_mesh: Any, grpc_authorizer: Any, fail_open: bool, status: int
) -> None:
    free = threading.Event()

    def judge(request: authorization.CheckRequest) -> authorization.CheckResponse:
        free.wait(30)
        return authorization.CheckResponse()

    authorizer = replace(GRPC, timeout_seconds=0.2, fail_open=fail_open, status_on_error=503)
    try:
        async with asked(own_mesh, authorizer, grpc_authorizer(judge)) as web:
            results: list[int] = []

            async def one() -> None:
                results.append((await own_mesh.get("10.96.0.1:80"))[0])

            with trio.fail_after(20):
                async with trio.open_nursery() as nursery:
                    for _ in range(30):
                        nursery.start_soon(one)
            assert results == [status] * 30
            assert len(web.requests) == (30 if fail_open else 0)
            assert said(own_mesh) == {"failed": 30}
            assert flags(own_mesh) == ({("200", "-"): 30} if fail_open else {("503", "UAEX"): 30})
    finally:
        free.set()


async def test_an_authorizer_that_is_not_there_is_an_error(own_mesh: Any) -> None:
    authorizer = replace(GRPC, service="demo/nobody.demo.svc.cluster.local")
    async with asked(own_mesh, authorizer, 1) as web:
        assert (await own_mesh.get("10.96.0.1:80"))[0] == 403
        assert web.requests == []
    own_mesh.withdraw(Destination(key=WEB, waypoint="demo/waypoint"))


async def test_what_is_no_answer_is_an_error(own_mesh: Any) -> None:
    async with serving("127.0.0.9", ok) as server, asked(own_mesh, GRPC, server.port):
        assert (await own_mesh.get("10.96.0.1:80"))[0] == 403
        assert said(own_mesh) == {"failed": 1}


# -- HTTP --------------------------------------------------------------------------------------------------------------


async def test_an_http_authorizer_is_shown_the_request_and_changes_it(own_mesh: Any) -> None:
    async def judge(request: h11.Request, _body: bytes) -> Answer:
        headers = dict(request.headers)
        if headers.get(b"authorization") != b"let me in":
            return 401, [("www-authenticate", "Basic"), ("x-hint", "ask"), ("set-cookie", "a=b")], b"who are you"
        return 200, [("x-user", "ann"), ("x-said", "judge"), ("x-other", "no")], b""

    authorizer = replace(
        HTTP,
        headers_to_upstream=("x-user",),
        headers_to_downstream_on_allow=("x-said",),
        additional_headers=(("x-mesh", "demo"),),
    )
    async with serving("127.0.0.9", judge) as server, asked(own_mesh, authorizer, server.port) as web:
        headers = ("authorization: let me in", "x-team-a: 1", "cookie: c", "x-user: mallory", "x-mesh: forged")
        status, answer = await own_mesh.get("10.96.0.1:80", "/p?q", *headers)
        assert (status, b"x-from: web" in answer) == (200, True)
        assert answer.count(b"x-said: ") == 1
        assert b"x-said: judge" in answer
        asked_about, _ = server.requests[0]
        assert (asked_about.method, asked_about.target) == (b"GET", b"/check/p?q")
        shown = dict(asked_about.headers)
        assert (shown[b"host"], shown[b"x-team-a"], shown[b"x-mesh"]) == (b"10.96.0.1:80", b"1", b"demo")
        assert b"cookie" not in shown
        sent = dict(web.requests[0][0].headers)
        assert (sent[b"x-user"], b"x-other" in sent) == (b"ann", False)
        status, answer = await own_mesh.get("10.96.0.1:80")
        assert (status, answer.endswith(b"who are you")) == (401, True)
        assert b"x-hint: ask" in answer
        assert b"www-authenticate: Basic" in answer
        assert len(web.requests) == 1
        assert server.connections == 1, "its connection is kept"


@pytest.mark.parametrize(("fail_open", "status"), [(False, 403), (True, 200)])
async def test_an_http_authorizer_that_fails(own_mesh: Any, fail_open: bool, status: int) -> None:
    async def judge(_request: h11.Request, _body: bytes) -> Answer:
        return 500, [], b"broken"

    async with serving("127.0.0.9", judge) as server, asked(
        own_mesh, replace(HTTP, fail_open=fail_open), server.port
    ):
        assert (await own_mesh.get("10.96.0.1:80"))[0] == status
        assert said(own_mesh) == {"failed": 1}


@pytest.mark.parametrize("expect", [(), ("expect: 100-continue",)])
async def test_an_authorizer_is_shown_the_body_up_to_a_limit(own_mesh: Any, expect: tuple[str, ...]) -> None:
    async def judge(_request: h11.Request, body: bytes) -> Answer:
        return (403 if b"evil" in body else 200), [], b""

    authorizer = replace(HTTP, max_body_bytes=1000)
    async with serving("127.0.0.9", judge) as server, asked(own_mesh, authorizer, server.port) as web:
        assert (await post(own_mesh, b"good", *expect))[1].endswith(b"web")
        assert web.requests[0][1] == b"good"
        assert (await post(own_mesh, b"evil", *expect))[1].count(b"HTTP/1.1 403") == 1
        exactly = b"x" * 1000
        assert (await post(own_mesh, exactly, *expect))[1].endswith(b"web")
        assert [body for _, body in server.requests] == [b"good", b"evil", exactly]
        assert dict(server.requests[2][0].headers)[b"x-envoy-auth-partial-body"] == b"false"
        assert b"413" in (await post(own_mesh, b"x" * 1001))[1].split(b"\r\n")[0]
        assert len(server.requests) == 3
        assert [body for _, body in web.requests] == [b"good", exactly]


async def test_of_a_longer_body_the_beginning_may_do(own_mesh: Any) -> None:
    async def judge(_request: h11.Request, body: bytes) -> Answer:
        return 200, [], b""

    authorizer = replace(HTTP, max_body_bytes=1000, allow_partial_body=True)
    body = bytes(range(256)) * 4000
    async with serving("127.0.0.9", judge) as server, asked(own_mesh, authorizer, server.port) as web:
        assert (await post(own_mesh, body))[0] == 200
        question, shown = server.requests[0]
        assert shown == body[:1000]
        assert dict(question.headers)[b"x-envoy-auth-partial-body"] == b"true"
        assert web.requests[0][1] == body


async def test_what_is_said_to_the_client_is_said_with_answers_made_here_too(own_mesh: Any) -> None:
    async def judge(_request: h11.Request, _body: bytes) -> Answer:
        return 200, [("x-said", "judge")], b""

    authorizer = replace(HTTP, headers_to_downstream_on_allow=("x-said",))
    route = HttpRoute(
        name="changed",
        backends=(Backend(service="demo/gone", port=80),),
        response_headers=HeaderChange(add=(("x-route", "r"),)),
    )
    ports = (DestinationPort(number=80, routes=(route,)),)
    async with serving("127.0.0.9", judge) as server, asked(own_mesh, authorizer, server.port, ports=ports):
        status, answer = await own_mesh.get("10.96.0.1:80")
        assert (status, b"x-said: judge" in answer) == (503, True)


def test_several_are_asked_in_turn_and_the_longest_body_counts() -> None:
    wanted = [replace(HTTP, max_body_bytes=size) for size in (10, 30, 20)]
    nothing: Any = None
    assert ConsentWait(nothing, wanted, nothing, nothing, nothing, nothing).body_bytes == 30
