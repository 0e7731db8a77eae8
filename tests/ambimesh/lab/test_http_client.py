from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from ambimesh.lab.http_client import Answer, exchange, get
from mesh.errors import ConnectFailed, ConnectionLost

HERE = Path("/proc/self/ns/net")


async def exchanged(answer: bytes, body_limit: int = 100) -> Answer:
    """What the client makes of these bytes, sent as one answer and closed."""
    client, server = trio.testing.memory_stream_pair()
    await server.send_all(answer)
    await server.send_eof()
    return await exchange(client, "/path", [("Host", "a")], body_limit=body_limit)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nbo\r\n2\r\ndy\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\nbody",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody",
    ],
)
async def test_answers_in_every_framing(answer: bytes) -> None:
    assert await exchanged(answer) == Answer(200, b"body")


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nbody",
        b"HTTP/1.1 200 OK\r\n" + b"a" * 99999,
    ],
)
async def test_what_broke_off_or_is_no_answer_is_an_error(answer: bytes) -> None:
    with pytest.raises(ConnectionLost):
        await exchanged(answer)


async def test_a_body_over_the_limit_is_not_read() -> None:
    with pytest.raises(ConnectionLost, match="longer than 3 bytes"):
        await exchanged(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody", body_limit=3)
    assert await exchanged(b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\n", body_limit=0) == Answer(503, b"")


@asynccontextmanager
async def server(handler: Callable[[trio.SocketStream], Awaitable[None]]) -> AsyncIterator[int]:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, handler, [listener])
        yield int(listener.socket.getsockname()[1])
        nursery.cancel_scope.cancel()


@pytest.mark.root
async def test_a_process_that_listens_in_a_namespace() -> None:
    async def answer(stream: trio.SocketStream) -> None:
        await stream.receive_some(4096)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await stream.aclose()

    async with server(answer) as port:
        assert await get(HERE, port, "/") == Answer(200, b"ok")


@pytest.mark.root
async def test_a_silent_and_an_absent_process() -> None:
    async def silent(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async with server(silent) as port:
        with pytest.raises(ConnectFailed, match="no answer within"):
            await get(HERE, port, "/", timeout=0.1)
    with pytest.raises(ConnectFailed, match="Connection refused"):
        await get(HERE, port, "/")
