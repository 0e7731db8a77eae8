"""The small HTTP server: what it answers, and that no caller can hold it up."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.errors import EnvironmentLacks, InvalidMessage
from mesh.telemetry.http_endpoint import (
    HttpLimits,
    HttpRequest,
    HttpResponse,
    json_response,
    open_http_listeners,
    serve_http,
    text_response,
)


async def echo(request: HttpRequest) -> HttpResponse:
    return json_response(
        {
            "method": request.method,
            "path": request.path,
            "query": dict(request.query),
            "body": request.body.decode(),
            "tag": request.headers.get("x-tag"),
        }
    )


async def ready(request: HttpRequest) -> HttpResponse:
    return text_response("ready")


async def refused(request: HttpRequest) -> HttpResponse:
    raise InvalidMessage("level must be a word")


async def broken(request: HttpRequest) -> HttpResponse:
    raise RuntimeError("a secret detail")


async def slow(request: HttpRequest) -> HttpResponse:
    await trio.sleep(math.inf)
    raise AssertionError


ROUTES = {
    ("GET", "/ready"): ready,
    ("GET", "/echo"): echo,
    ("POST", "/echo"): echo,
    ("POST", "/refused"): refused,
    ("GET", "/broken"): broken,
    ("GET", "/slow"): slow,
}


@asynccontextmanager
async def server(limits: HttpLimits = HttpLimits()) -> AsyncIterator[int]:
    listeners = await open_http_listeners("127.0.0.1", 0)
    port: int = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: serve_http(ROUTES, listeners, limits=limits, task_status=task_status))
        yield port
        nursery.cancel_scope.cancel()


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


class Caller:
    """A client that speaks bytes."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._data = b""

    async def send(self, text: str) -> None:
        await self.stream.send_all(text.replace("\n", "\r\n").encode("latin-1"))

    async def answer(self, *, without_body: bool = False) -> Answer:
        while b"\r\n\r\n" not in self._data:
            await self._more()
        head, _, self._data = self._data.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        length = 0 if without_body else int(headers["content-length"])
        while len(self._data) < length:
            await self._more()
        body, self._data = self._data[:length], self._data[length:]
        return Answer(int(first.split()[1]), headers, body)

    async def _more(self) -> None:
        part = await self.stream.receive_some(65536)
        assert part, f"closed after {self._data!r}"
        self._data += part

    async def closed(self) -> bool:
        """Whether the server ends the connection, within a while."""
        with trio.move_on_after(5):
            try:
                while await self.stream.receive_some(65536):
                    pass
            except trio.BrokenResourceError:
                pass
            return True
        return False


@asynccontextmanager
async def calling(port: int) -> AsyncIterator[Caller]:
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        yield Caller(stream)


async def test_get_with_query_and_head() -> None:
    async with server() as port, calling(port) as caller:
        await caller.send("GET /echo?level=debug&x=&level=info%20now HTTP/1.1\nHost: a\nX-Tag: 1\nX-Tag: 2\n\n")
        answer = await caller.answer()
        assert answer.status == 200
        assert answer.headers["content-type"] == "application/json"
        assert json.loads(answer.body) == {
            "method": "GET",
            "path": "/echo",
            "query": {"level": "info now", "x": ""},
            "body": "",
            "tag": "1, 2",
        }
        await caller.send("HEAD /ready HTTP/1.1\nHost: a\n\n")
        answer = await caller.answer(without_body=True)
        assert (answer.status, answer.headers["content-length"]) == (200, "6")
        await caller.send("GET /ready HTTP/1.1\nHost: a\n\n")
        assert (await caller.answer()).body == b"ready\n"


async def test_post_bodies_of_both_framings() -> None:
    async with server() as port, calling(port) as caller:
        await caller.send("POST /echo HTTP/1.1\nHost: a\nContent-Length: 5\n\nhello")
        assert json.loads((await caller.answer()).body)["body"] == "hello"
        await caller.send("POST /echo HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\n\n3\nhel\n2\nlo\n0\n\n")
        assert json.loads((await caller.answer()).body)["body"] == "hello"


async def test_expect_continue_is_answered() -> None:
    async with server() as port, calling(port) as caller:
        await caller.send("POST /echo HTTP/1.1\nHost: a\nContent-Length: 2\nExpect: 100-continue\n\n")
        assert (await caller.answer(without_body=True)).status == 100
        await caller.send("hi")
        assert json.loads((await caller.answer()).body)["body"] == "hi"


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with server() as port, calling(port) as caller:
        await caller.send("GET /ready HTTP/1.1\nHost: a\n\nGET /absent HTTP/1.1\nHost: a\n\n")
        assert [(await caller.answer()).status for _ in range(2)] == [200, 404]


async def test_connection_close_is_honoured() -> None:
    for request in ("GET /ready HTTP/1.1\nHost: a\nConnection: close\n\n", "GET /ready HTTP/1.0\n\n"):
        async with server() as port, calling(port) as caller:
            await caller.send(request)
            assert (await caller.answer()).status == 200
            assert await caller.closed()


@pytest.mark.parametrize(
    ("line", "status", "text"),
    [
        ("GET /nowhere", 404, b"no such page: /nowhere"),
        ("POST /ready", 405, b"GET"),
        ("DELETE /echo", 405, b"GET POST"),
        ("POST /refused", 400, b"level must be a word"),
        ("GET /broken", 500, b"internal error, see the log"),
    ],
)
async def test_refusals(line: str, status: int, text: bytes) -> None:
    async with server() as port, calling(port) as caller:
        await caller.send(f"{line} HTTP/1.1\nHost: a\nContent-Length: 0\n\n")
        answer = await caller.answer()
        assert answer.status == status
        assert text in answer.body
        assert b"secret" not in answer.body
        await caller.send("GET /ready HTTP/1.1\nHost: a\n\n")
        assert (await caller.answer()).status == 200


@pytest.mark.parametrize(
    ("data", "status"),
    [
        ("nonsense\n\n", 400),
        ("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n\n", 400),
        ("GET / HTTP/1.1\n\n", 400),
        ("GET / HTTP/1.1\nHost: a\nX: " + "x" * 20000, 431),
        ("POST /echo HTTP/1.1\nHost: a\nContent-Length: 2000000\n\n" + "x" * 1_100_000, 413),
    ],
)
async def test_bad_and_oversized_requests(data: str, status: int) -> None:
    async with server() as port:
        async with calling(port) as caller:
            await caller.send(data)
            assert (await caller.answer()).status == status
            assert await caller.closed()
        async with calling(port) as caller:
            await caller.send("GET /ready HTTP/1.1\nHost: a\n\n")
            assert (await caller.answer()).status == 200


async def test_a_request_that_does_not_arrive_in_time() -> None:
    async with server(HttpLimits(request_seconds=0.05)) as port, calling(port) as caller:
        await caller.send("GET /ready HTTP/1.1\nHo")
        assert await caller.closed()


async def test_an_idle_connection_is_closed() -> None:
    async with server(HttpLimits(idle_seconds=0.05)) as port, calling(port) as caller:
        await caller.send("GET /ready HTTP/1.1\nHost: a\n\n")
        assert (await caller.answer()).status == 200
        assert await caller.closed()


async def test_a_handler_without_an_answer() -> None:
    async with server(HttpLimits(handler_seconds=0.05)) as port, calling(port) as caller:
        await caller.send("GET /slow HTTP/1.1\nHost: a\n\n")
        answer = await caller.answer()
        assert (answer.status, answer.body) == (503, b"no answer in time\n")


async def test_connections_are_limited_and_recover() -> None:
    async with server(HttpLimits(connections=2)) as port:
        async with calling(port) as first, calling(port) as second:
            for caller in (first, second):
                await caller.send("GET /ready HTTP/1.1\nHost: a\n\n")
                assert (await caller.answer()).status == 200
            async with calling(port) as third:
                assert (await third.answer()).status == 503
                assert await third.closed()
            await first.send("GET /ready HTTP/1.1\nHost: a\n\n")
            assert (await first.answer()).status == 200
        with trio.fail_after(5):
            while True:
                async with calling(port) as again:
                    await again.send("GET /ready HTTP/1.1\nHost: a\n\n")
                    if (await again.answer()).status == 200:
                        break


async def test_a_taken_port_is_named() -> None:
    async with server() as port:
        with pytest.raises(EnvironmentLacks, match=f"cannot listen on 127.0.0.1 port {port}: Address already in use"):
            await open_http_listeners("127.0.0.1", port)


async def test_the_wildcard_takes_both_families() -> None:
    listeners = await open_http_listeners("::", 0)
    port: int = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: serve_http(ROUTES, listeners, task_status=task_status))
        for host in ("127.0.0.1", "::1"):
            stream = await trio.open_tcp_stream(host, port)
            await stream.send_all(b"GET /ready HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await stream.receive_some(64)).startswith(b"HTTP/1.1 200")
            await stream.aclose()
        nursery.cancel_scope.cancel()


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=300))
async def test_any_bytes_leave_the_server_standing(data: bytes) -> None:
    async with server(HttpLimits(request_seconds=0.5, idle_seconds=0.5)) as port:
        async with calling(port) as caller:
            await caller.stream.send_all(data)
            await caller.stream.send_eof()
            assert await caller.closed()
        async with calling(port) as caller:
            await caller.send("GET /ready HTTP/1.1\nHost: a\n\n")
            assert (await caller.answer()).status == 200
