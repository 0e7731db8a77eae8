"""Whole requests over loopback: curl and trio on the client's side, servers of the standard library on the other."""

from __future__ import annotations

import hashlib
import random
import subprocess
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import h11
import trio

from waypoint.exchange.decision import Forward
from waypoint.testing.exchanges import FixedBackend, FixedDecider
from waypoint.upstream.pool_contract import PoolLimits
from waypoint.upstream.pool_h1 import H1Pool
from waypoint.wire.socket_connector import SocketConnector

Serve = Callable[[], AbstractAsyncContextManager[Any]]
Handler = Callable[[h11.Request, bytes], Awaitable[tuple[int, list[tuple[str, str]], bytes]]]


async def http_server(stream: trio.SocketStream, handler: Handler) -> None:
    """An endpoint written with h11."""
    connection = h11.Connection(h11.SERVER)
    async with stream:
        while True:
            body = b""
            request: h11.Request | None = None
            while not isinstance(event := connection.next_event(), h11.EndOfMessage):
                if event is h11.NEED_DATA:
                    if connection.they_are_waiting_for_100_continue:
                        await stream.send_all(
                            connection.send(h11.InformationalResponse(status_code=100, headers=[])) or b""
                        )
                    connection.receive_data(await stream.receive_some(65536))
                elif isinstance(event, h11.Request):
                    request = event
                elif isinstance(event, h11.Data):
                    body += event.data
                else:
                    return
            assert request is not None
            status, headers, answer = await handler(request, body)
            sent = connection.send(h11.Response(status_code=status, headers=headers)) or b""
            if request.method != b"HEAD":
                sent += connection.send(h11.Data(answer)) or b""
            sent += connection.send(h11.EndOfMessage()) or b""
            await stream.send_all(sent)
            if connection.our_state is h11.MUST_CLOSE:
                return
            connection.start_next_cycle()


async def start_endpoint(nursery: trio.Nursery, handler: Handler) -> int:
    async def serve(stream: trio.SocketStream) -> None:
        await http_server(stream, handler)

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, serve, listeners)
    port: int = listeners[0].socket.getsockname()[1]
    return port


async def curl(*arguments: str) -> bytes:
    done = await trio.run_process(
        ["curl", "--silent", "--show-error", "--max-time", "20", *arguments],
        capture_stdout=True,
        stderr=subprocess.STDOUT,
    )
    return done.stdout


async def echo(request: h11.Request, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
    lines = [b" ".join((request.method, request.target))]
    lines += [name + b"=" + value for name, value in request.headers]
    digest = hashlib.sha256(body).hexdigest()
    return 200, [("x-digest", digest), ("content-length", str(len(b"\n".join(lines))))], b"\n".join(lines)


async def test_curl_gets_posts_and_uploads(proxying: Serve, tmp_path: Any) -> None:
    async with proxying() as waypoint, trio.open_nursery() as nursery:
        port = await start_endpoint(nursery, echo)
        connector = SocketConnector(waypoint.engine, ("127.0.0.1", port))
        pool = H1Pool("e", connector, waypoint.timers, PoolLimits())
        waypoint.listen(FixedDecider(Forward(FixedBackend(pool))))
        url = f"http://127.0.0.1:{waypoint.port}"
        assert (await curl(f"{url}/a", f"{url}/b")).count(b"GET /") == 2
        upload = random.Random(5).randbytes(3_000_000)
        (tmp_path / "upload").write_bytes(upload)
        for extra in ([], ["--header", "transfer-encoding: chunked"], ["--header", "expect: 100-continue"]):
            told = await curl("--include", "--data-binary", f"@{tmp_path}/upload", *extra, f"{url}/up")
            assert f"x-digest: {hashlib.sha256(upload).hexdigest()}".encode() in told
        assert (await curl("--head", f"{url}/head")).startswith(b"HTTP/1.1 200 OK")
        assert (await curl("--http1.0", f"{url}/ten")).startswith(b"GET /ten")
        prior = "--http2-prior-knowledge"
        # One request for each curl: Debian's 7.88 fails on the second of a connection, with any server.
        assert (await curl(prior, f"{url}/two")).startswith(b"GET /two")
        told = await curl(prior, "--include", "--data-binary", f"@{tmp_path}/upload", f"{url}/up")
        assert told.startswith(b"HTTP/2 200")
        assert f"x-digest: {hashlib.sha256(upload).hexdigest()}".encode() in told
        assert [facts.flags for facts in waypoint.observer.facts] == [""] * 9
        assert [facts.version for facts in waypoint.observer.facts[6:]] == ["1.0", "2", "2"]
        assert waypoint.observer.facts[3].received == len(upload)
        with trio.fail_after(5):
            while waypoint.connections:  # noqa: ASYNC110 -- closed in the engine, which has no events
                await trio.sleep(0.01)
        assert pool.active == 0
        pool.drain()
        nursery.cancel_scope.cancel()


async def test_a_large_answer_to_a_slow_client_stays_in_the_endpoint(proxying: Serve) -> None:
    size = 30_000_000

    async def large(request: h11.Request, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        return 200, [("content-length", str(size))], bytes(size)

    async with proxying() as waypoint, trio.open_nursery() as nursery:
        port = await start_endpoint(nursery, large)
        pool = H1Pool("e", SocketConnector(waypoint.engine, ("127.0.0.1", port)), waypoint.timers, PoolLimits())
        waypoint.listen(FixedDecider(Forward(FixedBackend(pool))))
        client = await trio.open_tcp_stream("127.0.0.1", waypoint.port)
        await client.send_all(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n")
        with trio.fail_after(20):
            while not any(one._wire.backlog for one in waypoint.connections):  # noqa: ASYNC110 -- the engine has no events
                await trio.sleep(0.01)
        await trio.sleep(0.3)
        (connection,) = waypoint.connections
        assert len(connection._wire.backlog or b"") < 1_000_000, "the rest waits where it comes from"
        received = 0
        with trio.fail_after(20):
            while received < size:
                received += len(await client.receive_some(1_000_000))
        await client.aclose()
        with trio.fail_after(5):
            while waypoint.connections:  # noqa: ASYNC110 -- closed in the engine, which has no events
                await trio.sleep(0.01)
        pool.drain()
        nursery.cancel_scope.cancel()


async def test_an_endpoint_that_is_not_there(proxying: Serve) -> None:
    async with proxying() as waypoint:
        with trio.socket.socket() as unused:
            await unused.bind(("127.0.0.1", 0))
            port = unused.getsockname()[1]
            pool = H1Pool("e", SocketConnector(waypoint.engine, ("127.0.0.1", port)), waypoint.timers, PoolLimits())
            waypoint.listen(FixedDecider(Forward(FixedBackend(pool))))
            told = await curl("--include", f"http://127.0.0.1:{waypoint.port}/")
        assert told.startswith(b"HTTP/1.1 503 ")
        assert b"refused" in told
        assert waypoint.observer.summary == [(503, "UF")]
