"""grpcio as the oracle: our client against its server, its client against our server."""

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from mesh.grpc.driver import (
    CallContext,
    Channel,
    GrpcError,
    GrpcLimits,
    ServerStream,
    StatusCode,
    open_channel,
    serve_grpc,
    streaming,
    unary,
)

PEER = str(Path(__file__).with_name("grpcio_peer.py"))
MIB = 1024 * 1024


# -- our client, grpcio's server ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def grpcio_port() -> Iterator[int]:
    with subprocess.Popen([sys.executable, PEER, "serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline())
        process.communicate(timeout=10)


@asynccontextmanager
async def channel_to(port: int, **limits: Any) -> AsyncIterator[Channel]:
    with trio.fail_after(60):
        async with open_channel("127.0.0.1", port, limits=GrpcLimits(**limits)) as channel:
            yield channel


async def test_unary_and_its_trailers(grpcio_port: int) -> None:
    async with channel_to(grpcio_port) as channel:
        assert await channel.unary("/t/Echo", b"hello", timeout=10) == b"hello"
        async with channel.stream("/t/Echo", metadata=[("clusterid", "Kubernetes")]) as call:
            await call.send(b"x")
            await call.done_sending()
            assert await call.receive() == b"x"
            assert await call.receive() is None
            assert call.trailers["seen-clusterid"] == "Kubernetes"


async def test_stream(grpcio_port: int) -> None:
    async with channel_to(grpcio_port) as channel, channel.stream("/t/EchoStream") as call:
        for number in range(200):
            message = bytes([number]) * (number * 997 % 50_000)
            await call.send(message)
            assert await call.receive() == message
        await call.done_sending()
        assert await call.receive() is None


async def test_errors_with_any_text(grpcio_port: int) -> None:
    async with channel_to(grpcio_port) as channel:
        with pytest.raises(GrpcError) as caught:
            await channel.unary("/t/Fail", b"x", timeout=10)
        assert caught.value.status is StatusCode.PERMISSION_DENIED
        assert caught.value.message == "nicht erlaubt: 100 % für niemanden ✗"
        with pytest.raises(GrpcError) as caught:
            await channel.unary("/t/Nothing", b"x", timeout=10)
        assert caught.value.status is StatusCode.UNIMPLEMENTED


async def test_messages_before_a_late_error_are_delivered(grpcio_port: int) -> None:
    async with channel_to(grpcio_port) as channel, channel.stream("/t/FailLate") as call:
        await call.send(b"one")
        assert await call.receive() == b"one"
        with pytest.raises(GrpcError) as caught:
            await call.receive()
        assert (caught.value.status, caught.value.message) == (StatusCode.DATA_LOSS, "späte Einsicht")


async def test_deadline_and_cancelled_calls_leave_the_connection_usable(grpcio_port: int) -> None:
    async with channel_to(grpcio_port) as channel:
        with pytest.raises(GrpcError) as caught:
            await channel.unary("/t/Sleepy", b"x", timeout=0.2)
        assert caught.value.status is StatusCode.DEADLINE_EXCEEDED
        with trio.move_on_after(0.2):
            await channel.unary("/t/Sleepy", b"x", timeout=20)
        assert await channel.unary("/t/Echo", b"after", timeout=10) == b"after"


async def test_hundred_mebibytes_both_ways(grpcio_port: int) -> None:
    async with channel_to(grpcio_port, stream_window_bytes=8 * MIB, connection_window_bytes=32 * MIB) as channel:
        message = bytes(range(256)) * (100 * MIB // 256)
        assert await channel.unary("/t/Echo", message, timeout=60) == message


async def test_an_answer_over_our_limit(grpcio_port: int) -> None:
    async with channel_to(grpcio_port, response_bytes=MIB) as channel:
        with pytest.raises(GrpcError) as caught:
            await channel.unary("/t/Blob", str(MIB + 1).encode(), timeout=20)
        assert caught.value.status is StatusCode.RESOURCE_EXHAUSTED
        assert len(await channel.unary("/t/Blob", str(MIB).encode(), timeout=20)) == MIB


async def test_concurrent_calls(grpcio_port: int) -> None:
    async with channel_to(grpcio_port) as channel, trio.open_nursery() as nursery:

        async def one(number: int) -> None:
            message = bytes([number]) * 30_000
            assert await channel.unary("/t/Echo", message, timeout=30) == message

        for number in range(150):
            nursery.start_soon(one, number)


# -- grpcio's client, our server ---------------------------------------------------------------------------------------


async def echo(context: CallContext, request: bytes) -> bytes:
    return request


async def echo_stream(context: CallContext, stream: ServerStream) -> None:
    while (message := await stream.receive()) is not None:
        await stream.send(message)


async def who(context: CallContext, request: bytes) -> bytes:
    return context.metadata["clusterid"].encode()


async def fail(context: CallContext, request: bytes) -> bytes:
    raise GrpcError(StatusCode.FAILED_PRECONDITION, "100 % unmöglich ✗\n")


class Sleepy:
    def __init__(self) -> None:
        self.cancelled = trio.Event()

    async def __call__(self, context: CallContext, request: bytes) -> bytes:
        try:
            await trio.sleep_forever()
        finally:
            self.cancelled.set()
        raise AssertionError


async def ask_grpcio(case: str) -> tuple[dict[str, Any], Sleepy]:
    sleepy = Sleepy()
    handlers = {
        "/t/Echo": unary(echo),
        "/t/Large": unary(echo, request_bytes=200 * MIB),
        "/t/EchoStream": streaming(echo_stream),
        "/t/Who": unary(who),
        "/t/Fail": unary(fail),
        "/t/Sleepy": unary(sleepy),
    }
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    with trio.fail_after(90):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_grpc, [listener], handlers)
            ran = await trio.run_process([sys.executable, PEER, "call", str(port), case], capture_stdout=True)
            nursery.cancel_scope.cancel()
    result: dict[str, Any] = json.loads(ran.stdout)
    return result, sleepy


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("unary", {"answer": "Kubernetes", "code": "OK"}),
        ("stream", {"equal": True}),
        ("error", {"code": "FAILED_PRECONDITION", "details": "100 % unmöglich ✗\n"}),
        ("unknown", {"code": "UNIMPLEMENTED", "details": "no method /t/Nothing"}),
        ("large", {"equal": True}),
        ("many", {"good": 200}),
    ],
)
async def test_grpcio_client(case: str, expected: dict[str, Any]) -> None:
    result, _ = await ask_grpcio(case)
    assert result == expected


@pytest.mark.parametrize(
    ("case", "code"),
    [("too_large", "RESOURCE_EXHAUSTED"), ("compressed", "UNIMPLEMENTED"), ("deadline", "DEADLINE_EXCEEDED")],
)
async def test_refusals_as_grpcio_sees_them(case: str, code: str) -> None:
    result, sleepy = await ask_grpcio(case)
    assert result["code"] == code
    assert sleepy.cancelled.is_set() is (case == "deadline")


async def test_a_call_that_grpcio_cancels_is_cancelled_here() -> None:
    result, sleepy = await ask_grpcio("cancel")
    assert result == {"echo": "after"}
    assert sleepy.cancelled.is_set()
