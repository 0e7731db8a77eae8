"""Our client against our server, over loopback."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest
import trio

from mesh.errors import ConnectFailed, ConnectionLost, InvalidMessage
from mesh.grpc.driver import (
    CallContext,
    Channel,
    GrpcError,
    GrpcLimits,
    Handler,
    ServerStream,
    StatusCode,
    open_channel,
    streaming,
    unary,
)
from mesh.testing import grpc as loopback

MIB = 1024 * 1024
DEFAULT_LIMITS = GrpcLimits()


async def echo(context: CallContext, request: bytes) -> bytes:
    return request


async def echo_stream(context: CallContext, stream: ServerStream) -> None:
    while (message := await stream.receive()) is not None:
        await stream.send(message)


async def fail(context: CallContext, request: bytes) -> bytes:
    raise GrpcError(StatusCode.PERMISSION_DENIED, f"{request.decode()}: nicht erlaubt für Sie")


async def crash(context: CallContext, request: bytes) -> bytes:
    raise ValueError("secret detail")


async def invalid(context: CallContext, request: bytes) -> bytes:
    raise InvalidMessage("field csr: empty")


async def sleepy(context: CallContext, request: bytes) -> bytes:
    await trio.sleep_forever()
    raise AssertionError


async def who(context: CallContext, request: bytes) -> bytes:
    return f"{context.metadata['authorization']}|{context.metadata['clusterid']}|{context.peer}".encode()


HANDLERS: dict[str, Handler] = {
    "/t/Echo": unary(echo),
    "/t/EchoStream": streaming(echo_stream),
    "/t/Fail": unary(fail),
    "/t/Crash": unary(crash),
    "/t/Invalid": unary(invalid),
    "/t/Sleepy": unary(sleepy),
    "/t/Who": unary(who),
    "/t/Large": unary(echo, request_bytes=16 * MIB),
}


@asynccontextmanager
async def serving(
    handlers: Mapping[str, Handler] = HANDLERS, limits: GrpcLimits = DEFAULT_LIMITS, drain: trio.Event | None = None
) -> AsyncIterator[int]:
    async with loopback.serving(handlers, limits, drain=drain) as port:
        yield port


@asynccontextmanager
async def channel_to(port: int, limits: GrpcLimits = DEFAULT_LIMITS) -> AsyncIterator[Channel]:
    with trio.fail_after(30):
        async with open_channel("127.0.0.1", port, limits=limits) as channel:
            yield channel


async def test_unary() -> None:
    async with serving() as port, channel_to(port) as channel:
        assert await channel.unary("/t/Echo", b"hello", timeout=5) == b"hello"
        assert await channel.unary("/t/Echo", b"", timeout=5) == b""


async def test_metadata_and_peer_reach_the_handler() -> None:
    async with serving() as port, channel_to(port) as channel:
        metadata = [("authorization", "Bearer abc"), ("clusterid", "Kubernetes")]
        answer = await channel.unary("/t/Who", b"", metadata=metadata, timeout=5)
        assert answer.startswith(b"Bearer abc|Kubernetes|127.0.0.1:")


@pytest.mark.parametrize(
    ("method", "status", "text"),
    [
        ("/t/Fail", StatusCode.PERMISSION_DENIED, "x: nicht erlaubt für Sie"),
        ("/t/Crash", StatusCode.INTERNAL, "internal error, see the server's log"),
        ("/t/Invalid", StatusCode.INVALID_ARGUMENT, "field csr: empty"),
        ("/t/Nothing", StatusCode.UNIMPLEMENTED, "no method /t/Nothing"),
    ],
)
async def test_failures_reach_the_client_and_the_connection_lives_on(
    method: str, status: StatusCode, text: str
) -> None:
    async with serving() as port, channel_to(port) as channel:
        with pytest.raises(GrpcError) as caught:
            await channel.unary(method, b"x", timeout=5)
        assert (caught.value.status, caught.value.message) == (status, text)
        assert await channel.unary("/t/Echo", b"still here", timeout=5) == b"still here"


async def test_a_deadline_ends_the_call_on_both_sides() -> None:
    ended = trio.Event()

    async def patient(context: CallContext, request: bytes) -> bytes:
        try:
            await trio.sleep_forever()
        finally:
            ended.set()
        raise AssertionError

    async with serving({"/t/Patient": unary(patient)}) as port, channel_to(port) as channel:
        with pytest.raises(GrpcError) as caught:
            await channel.unary("/t/Patient", b"", timeout=0.1)
        assert caught.value.status is StatusCode.DEADLINE_EXCEEDED
        with trio.fail_after(5):
            await ended.wait()


async def test_a_server_does_not_wait_for_ever_for_a_request() -> None:
    async with serving(limits=GrpcLimits(unary_seconds=0.1)) as port, channel_to(port) as channel:
        async with channel.stream("/t/Echo") as call:
            with pytest.raises(GrpcError) as caught:
                await call.receive()
        assert caught.value.status is StatusCode.DEADLINE_EXCEEDED


async def test_streams_carry_messages_both_ways_until_the_client_is_done() -> None:
    async with serving() as port, channel_to(port) as channel, channel.stream("/t/EchoStream") as call:
        for number in range(100):
            await call.send(str(number).encode())
            assert await call.receive() == str(number).encode()
        await call.done_sending()
        assert await call.receive() is None


async def test_calls_of_one_connection_run_at_the_same_time() -> None:
    async with serving() as port, channel_to(port, GrpcLimits(concurrent_calls=10)) as channel:
        results: list[bytes] = []

        async def one(number: int) -> None:
            results.append(await channel.unary("/t/Echo", bytes([number]) * 100_000, timeout=20))

        async with channel.stream("/t/EchoStream") as idle, trio.open_nursery() as nursery:
            await idle.send(b"x")
            for number in range(40):  # more than the connection admits at a time: they queue
                nursery.start_soon(one, number)
        assert sorted(result[0] for result in results) == list(range(40))


async def test_a_large_message_both_ways() -> None:
    async with serving() as port, channel_to(port) as channel:
        message = bytes(range(256)) * (16 * MIB // 256)
        assert await channel.unary("/t/Large", message, timeout=30) == message


async def test_message_limits_fail_the_call_only() -> None:
    async with serving() as port, channel_to(port, GrpcLimits(response_bytes=1000)) as channel:
        with pytest.raises(GrpcError) as caught:
            await channel.unary("/t/Echo", bytes(4 * MIB + 1), timeout=10)
        assert caught.value.status is StatusCode.RESOURCE_EXHAUSTED
        with pytest.raises(GrpcError) as caught:
            await channel.unary("/t/Echo", bytes(1001), timeout=10)
        assert caught.value.status is StatusCode.RESOURCE_EXHAUSTED
        assert await channel.unary("/t/Echo", bytes(1000), timeout=10) == bytes(1000)


async def test_a_client_that_does_not_read_stops_the_server_from_sending() -> None:
    sent = 0

    async def flood(context: CallContext, stream: ServerStream) -> None:
        nonlocal sent
        while True:
            await stream.send(bytes(100_000))
            sent += 1

    limits = GrpcLimits(stream_window_bytes=500_000)
    async with (
        serving({"/t/Flood": streaming(flood)}) as port,
        channel_to(port, limits) as channel,
        channel.stream("/t/Flood") as call,
    ):
        assert await call.receive() == bytes(100_000)
        stalled = 0
        with trio.fail_after(20):
            while sent > stalled:
                stalled = sent
                await trio.sleep(0.3)
        assert stalled * 100_000 <= 500_000 + 2 * limits.send_buffer_bytes
        for _ in range(20):
            await call.receive()
        assert sent > stalled


async def test_a_server_that_does_not_read_stops_the_client_from_sending() -> None:
    async def deaf(context: CallContext, stream: ServerStream) -> None:
        assert await stream.receive() is not None
        await trio.sleep_forever()

    limits = GrpcLimits(stream_window_bytes=500_000)
    async with (
        serving({"/t/Deaf": streaming(deaf)}, limits) as port,
        channel_to(port) as channel,
        channel.stream("/t/Deaf") as call,
    ):
        sent = 0

        async def fill() -> None:
            nonlocal sent
            while True:
                await call.send(bytes(100_000))
                sent += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fill)
            with trio.fail_after(20):
                while sent < 4:  # noqa: ASYNC110 -- the sender tells nobody
                    await trio.sleep(0.01)
            await trio.sleep(0.3)
            assert sent <= 12
            nursery.cancel_scope.cancel()
        with pytest.raises(GrpcError):
            await call.send(b"after half a message")


async def test_leaving_a_call_cancels_its_handler() -> None:
    ended = trio.Event()

    async def watch(context: CallContext, stream: ServerStream) -> None:
        try:
            await stream.send(b"started")
            await trio.sleep_forever()
        finally:
            ended.set()

    async with serving({"/t/Watch": streaming(watch)}) as port, channel_to(port) as channel:
        async with channel.stream("/t/Watch") as call:
            assert await call.receive() == b"started"
        with trio.fail_after(5):
            await ended.wait()


@pytest.mark.parametrize("by_force", [False, True])
async def test_draining_ends_calls_gracefully_or_by_force(by_force: bool) -> None:
    drain, began, release = trio.Event(), trio.Event(), trio.Event()
    results: list[str] = []

    async def slow(context: CallContext, request: bytes) -> bytes:
        began.set()
        await release.wait()
        return b"done"

    limits = GrpcLimits(drain_seconds=0.1 if by_force else 20)
    async with serving({"/t/Slow": unary(slow)}, limits, drain) as port, channel_to(port) as channel:

        async def call() -> None:
            try:
                results.append((await channel.unary("/t/Slow", b"", timeout=20)).decode())
            except GrpcError as error:
                results.append(error.status.name)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            await began.wait()
            drain.set()
            await channel.wait_closed()
            with pytest.raises(GrpcError) as caught:
                await channel.unary("/t/Slow", b"", timeout=5)
            assert caught.value.status is StatusCode.UNAVAILABLE
            if not by_force:
                release.set()
        assert results == ["UNAVAILABLE" if by_force else "done"]


async def test_calls_fail_when_the_connection_breaks() -> None:
    async with serving() as port, channel_to(port) as channel:
        async with channel.stream("/t/EchoStream") as call:
            await call.send(b"x")
            assert await call.receive() == b"x"
            await trio.aclose_forcefully(channel.connection._stream)
            with pytest.raises(GrpcError) as caught:
                await call.receive()
        assert caught.value.status is StatusCode.UNAVAILABLE


async def test_no_server() -> None:
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    with pytest.raises(ConnectFailed, match=f"127.0.0.1:{port}"):
        async with channel_to(port):
            pass


async def test_a_server_that_says_nothing_is_given_up() -> None:
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        port = listener.socket.getsockname()[1]
        with pytest.raises(ConnectionLost, match="settings"):
            async with channel_to(port, GrpcLimits(handshake_seconds=0.1)):
                pass


async def test_a_dead_server_is_noticed_by_ping() -> None:
    limits = GrpcLimits(keepalive_interval_seconds=0.1, keepalive_timeout_seconds=0.2)
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]

    async def settings_then_silence(stream: trio.SocketStream) -> None:
        await stream.send_all(bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, settings_then_silence, [listener])
        async with channel_to(port, limits) as channel, channel.stream("/t/Echo") as call:
            with pytest.raises(GrpcError, match="PING"):
                await call.receive()
        nursery.cancel_scope.cancel()


async def test_pings_keep_an_idle_connection_alive() -> None:
    limits = GrpcLimits(keepalive_interval_seconds=0.05, keepalive_timeout_seconds=0.5)
    async with serving(limits=limits) as port, channel_to(port, limits) as channel:
        await trio.sleep(0.8)
        assert await channel.unary("/t/Echo", b"x", timeout=5) == b"x"


async def test_an_error_of_the_callers_block_comes_out_as_itself() -> None:
    async with serving() as port:
        with pytest.raises(KeyError, match="mine"):
            async with channel_to(port):
                raise KeyError("mine")
