"""Traces of the whole waypoint: configured over xDS, between a client and endpoints, with a collector that reads OTLP.

The collector is a service of the mesh's model like any other; it and the endpoints stand outside of the mesh, so that
no second proxy is needed (a lab test has them inside).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from mesh.model.http_route import Backend, DirectResponse, HttpRoute, PathMatch, PathMatchKind, RequestMatch, Retry
from mesh.model.request_policy import RequestAction, RequestPolicy
from mesh.model.waypoint import Destination, DestinationPort, SpanCollector, SpanTag, TagSource, Telemetry
from waypoint.testing.applications import Application, applications

WEB = "demo/web.demo.svc.cluster.local"
COLLECTOR = SpanCollector(service="demo/collector.demo.svc.cluster.local", port=4318)
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def spans_of(collector: Application) -> list[Any]:
    """All that has been collected."""
    return [
        span
        for body in collector.bodies
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


async def collected(collector: Application, count: int) -> list[Any]:
    with trio.fail_after(15):
        while len(spans_of(collector)) < count:  # noqa: ASYNC110 -- servers of a test tell nothing
            await trio.sleep(0.02)
    return spans_of(collector)


@asynccontextmanager
async def servers(mesh: Any) -> AsyncIterator[list[Application]]:
    """The application at 10.96.0.1, and the collector."""
    async with applications("web", "collector") as (web, collector):
        mesh.offer_application(web, WEB, "10.96.0.1", "127.0.0.2", ())
        mesh.offer_application(collector, COLLECTOR.service, "10.96.0.2", "127.0.0.3", None)
        yield [web, collector]


def traced(mesh: Any, *routes: HttpRoute, policies: tuple[RequestPolicy, ...] = (), **fields: Any) -> None:
    telemetry = Telemetry(**{"collector": COLLECTOR, "sampling_percent": 100.0, **fields})
    ports = (DestinationPort(number=80, routes=routes),)
    mesh.offer(Destination(key=WEB, waypoint="demo/waypoint", ports=ports, policies=policies, telemetry=telemetry))


async def get(mesh: Any, *arguments: str) -> int:
    """The status, once the waypoint has been told of its destination."""
    return int((await mesh.reached("10.96.0.1:80", *arguments))[0])


def attributes(span: Any) -> dict[str, Any]:
    return {
        each.key: each.value.string_value if each.value.HasField("string_value") else each.value.int_value
        for each in span.attributes
    }


def split(spans: list[Any]) -> tuple[Any, list[Any]]:
    """The request's own span and those of its attempts, in the order in which they began."""
    [server] = [span for span in spans if span.kind == span.SPAN_KIND_SERVER]
    clients = [span for span in spans if span.kind == span.SPAN_KIND_CLIENT]
    return server, sorted(clients, key=lambda span: int(span.start_time_unix_nano))


async def test_a_request_its_retry_and_who_comes_next_are_one_trace(own_mesh: Any) -> None:
    route = HttpRoute(
        name="demo/route/0",
        retry=Retry(attempts=1, statuses=(503,), backoff_seconds=0.01),
        backends=(Backend(service=WEB, port=80),),
    )
    tags = (
        SpanTag(name="team", value="shop"),
        SpanTag(name="tenant", source=TagSource.HEADER, value="x-tenant", default="none"),
        SpanTag(name="home", source=TagSource.ENVIRONMENT, value="AMBIMESH_TEST_UNSET", default="unset"),
    )
    async with servers(own_mesh) as (web, collector):
        traced(own_mesh, route, tags=tags)
        web.statuses = [503, 200]
        context = f"traceparent: 00-{TRACE}-{PARENT}-01"
        assert await get(own_mesh, "/a?secret=1", context, "x-request-id: chain", "x-tenant: blue") == 200
        server, attempts = split(await collected(collector, 3))
    assert collector.requests[0].target == b"/v1/traces"
    assert collector.header(b"content-type") == b"application/x-protobuf"
    assert {span.trace_id.hex() for span in (server, *attempts)} == {TRACE}
    assert server.parent_span_id.hex() == PARENT
    assert [span.parent_span_id for span in attempts] == [server.span_id] * 2
    sent = [dict(request.headers)[b"traceparent"].decode() for request in web.requests]
    assert sent == [f"00-{TRACE}-{span.span_id.hex()}-01" for span in attempts], "the endpoint's parent is the attempt"
    told = attributes(server)
    assert told["http.request.method"] == "GET"
    assert told["url.path"] == "/a"
    assert "secret" not in str(told)
    assert told["http.response.status_code"] == 200
    assert told["guid:x-request-id"] == "chain" == (web.header(b"x-request-id") or b"").decode()
    assert told["ambimesh.source.principal"] == "spiffe://cluster.local/ns/demo/sa/client"
    assert (told["team"], told["tenant"], told["home"]) == ("shop", "blue", "unset")
    first, second = (attributes(span) for span in attempts)
    assert first["error.type"] == "503"
    assert first["http.response.status_code"] == 503
    assert second["http.request.resend_count"] == 1
    assert second["network.peer.address"] == "127.0.0.2"
    assert second["network.peer.port"] == web.port
    assert attempts[0].status.code == server.status.STATUS_CODE_ERROR
    assert server.status.code == server.status.STATUS_CODE_UNSET
    assert server.start_time_unix_nano <= attempts[0].start_time_unix_nano <= attempts[1].start_time_unix_nano
    assert attempts[1].end_time_unix_nano <= server.end_time_unix_nano
    resource = ExportTraceServiceRequest.FromString(collector.bodies[0]).resource_spans[0].resource
    assert {each.key: each.value.string_value for each in resource.attributes}["service.name"] == "waypoint"


async def test_what_is_answered_here_has_an_id_and_a_span(own_mesh: Any) -> None:
    teapot = HttpRoute(
        name="direct",
        matches=(RequestMatch(path=PathMatch(PathMatchKind.PREFIX, "/direct")),),
        direct_response=DirectResponse(status=418, body="teapot"),
    )
    async with servers(own_mesh) as (web, collector):
        traced(own_mesh, teapot)
        assert await get(own_mesh, "/direct") == 418
        assert await get(own_mesh, "/nowhere") == 404
        spans = await collected(collector, 2)
        deny = RequestPolicy(key="demo/deny", action=RequestAction.ALLOW)
        traced(own_mesh, teapot, policies=(deny,))
        with trio.fail_after(10):
            while await get(own_mesh, "/direct") != 403:
                pass
        spans = await collected(collector, len(spans) + 1)
        assert web.requests == []
    by_status = {attributes(span)["http.response.status_code"]: span for span in spans}
    assert set(by_status) >= {418, 404, 403}
    assert attributes(by_status[404])["response_flags"] == "NR"
    ids = [attributes(span)["guid:x-request-id"] for span in spans]
    assert len(set(ids)) == len(ids)
    assert {len(each) for each in ids} == {36}
    assert {span.kind for span in spans} == {spans[0].SPAN_KIND_SERVER}


@pytest.mark.parametrize(
    ("brought", "name", "expected"),
    [
        ([f"b3: {TRACE}-{PARENT}-1"], b"b3", "{trace}-{span}-1-{server}"),
        ([f"X-B3-TraceId: {TRACE}", f"X-B3-SpanId: {PARENT}", "X-B3-Sampled: 1"], b"x-b3-spanid", "{span}"),
    ],
)
async def test_contexts_of_b3(own_mesh: Any, brought: list[str], name: bytes, expected: str) -> None:
    async with servers(own_mesh) as (web, collector):
        traced(own_mesh, sampling_percent=0.0)
        assert await get(own_mesh, "/", *brought) == 200
        server, [attempt] = split(await collected(collector, 2))
        assert server.trace_id.hex() == TRACE
        assert server.parent_span_id.hex() == PARENT
        wanted = expected.format(trace=TRACE, span=attempt.span_id.hex(), server=server.span_id.hex())
        assert web.header(name) == wanted.encode()
        assert web.header(b"traceparent") is None


async def test_what_is_not_recorded_passes_as_it_is(own_mesh: Any) -> None:
    context = f"00-{TRACE}-{PARENT}-00"
    async with servers(own_mesh) as (web, collector):
        traced(own_mesh, sampling_percent=0.0)
        assert await get(own_mesh, "/") == 200
        assert web.header(b"traceparent") is None
        assert await get(own_mesh, "/", f"traceparent: {context}") == 200
        assert web.header(b"traceparent") == context.encode()
        # Contexts are begun and passed on, and nothing is told of them.
        traced(own_mesh, report_spans=False)
        with trio.fail_after(10):
            while web.header(b"traceparent") in (None, context.encode()):
                assert await get(own_mesh, "/") == 200
        traced(own_mesh)
        with trio.fail_after(10):
            while not spans_of(collector):  # a request that has begun to arrive holds none yet
                assert await get(own_mesh, "/reported") == 200
        assert {attributes(span).get("url.path", "/reported") for span in spans_of(collector)} == {"/reported"}


async def test_a_collector_that_is_away_costs_spans_and_no_request(own_mesh: Any) -> None:
    async with applications("web") as (web,):
        own_mesh.offer_application(web, WEB, "10.96.0.1", "127.0.0.2", ())
        traced(own_mesh)
        for _ in range(20):
            assert await get(own_mesh, "/") == 200
        assert len(web.requests) == 20
        with trio.fail_after(20):
            while not _lost(own_mesh):  # noqa: ASYNC110 -- a counter tells nobody
                await trio.sleep(0.1)


def _lost(mesh: Any) -> float:
    name = "ambimesh_waypoint_spans_dropped_total"
    samples = [sample for family in mesh.registry.collect() for sample in family.samples if sample.name == name]
    return float(sum(sample.value for sample in samples))
