"""Our gRPC server against peers that break the protocol or say nothing: told, cut off, no harm to others."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from mesh.errors import ConnectionLost
from mesh.grpc.driver import (
    CallContext,
    Channel,
    ClientCall,
    GrpcError,
    GrpcLimits,
    ServerStream,
    StatusCode,
    open_channel,
    streaming,
    unary,
)
from mesh.testing.ca import TestAuthority
from mesh.testing.grpc import serving
from mesh.tls.context import control_plane_context, control_plane_server_context

GOAWAY = bytes([7, 0, 0, 0, 0, 0])
"""The head of the frame behind its length: type 7, no flags, stream 0."""
PLAIN_HTTP = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


async def echo(context: CallContext, request: bytes) -> bytes:
    return request


async def sleepy(context: CallContext, request: bytes) -> bytes:
    await trio.sleep_forever()
    raise AssertionError


HANDLERS = {"/t/Echo": unary(echo), "/t/Sleepy": unary(sleepy)}


@asynccontextmanager
async def channel_to(port: int) -> AsyncIterator[Channel]:
    with trio.fail_after(30):
        async with open_channel("127.0.0.1", port) as channel:
            yield channel


async def everything_of(stream: trio.abc.ReceiveStream) -> bytes:
    received = b""
    with trio.fail_after(10):
        async for data in stream:
            received += data
    return received


async def test_garbage_gets_a_goaway_and_harms_nobody_else() -> None:
    async with serving(HANDLERS) as port, channel_to(port) as channel:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream:
            await stream.send_all(PLAIN_HTTP)
            assert GOAWAY in await everything_of(stream)
        assert await channel.unary("/t/Echo", b"x", timeout=5) == b"x"


async def test_bytes_that_nobody_will_read_do_not_take_the_goaway_back() -> None:
    """Closing over them would make the kernel send a reset, and a reset discards what the peer has not read yet."""
    async with serving(HANDLERS) as port:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream:
            await stream.send_all(PLAIN_HTTP + bytes(4 * 1024 * 1024))
            assert GOAWAY in await everything_of(stream)


async def test_over_tls_too() -> None:
    authority = TestAuthority()
    operator = authority.issue_server("operator.test")
    server = control_plane_server_context(operator.certificate_chain, operator.key)
    client = control_plane_context(authority.roots)
    async with serving(HANDLERS, ssl_context=server) as port:
        raw = await trio.open_tcp_stream("127.0.0.1", port)
        stream = trio.SSLStream(raw, client, server_hostname="operator.test", https_compatible=True)
        async with stream:
            await stream.send_all(PLAIN_HTTP + bytes(4 * 1024 * 1024))
            assert GOAWAY in await everything_of(stream)


async def test_a_peer_that_goes_on_sending_is_cut_off() -> None:
    async def send_on(stream: trio.abc.SendStream) -> None:
        while True:
            await stream.send_all(PLAIN_HTTP + bytes(64 * 1024))

    async with serving(HANDLERS) as port:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream:
            with trio.fail_after(20), pytest.raises(trio.BrokenResourceError):
                await send_on(stream)


async def test_the_end_of_a_drained_call_is_read_although_its_client_still_sends() -> None:
    begun, drain = trio.Event(), trio.Event()

    async def deaf(context: CallContext, stream: ServerStream) -> None:
        begun.set()
        await trio.sleep_forever()

    async def send_on(call: ClientCall) -> None:
        while True:
            await call.send(bytes(1000))

    limits = GrpcLimits(drain_seconds=0.1)
    async with (
        serving({"/t/Deaf": streaming(deaf)}, limits, drain=drain) as port,
        channel_to(port) as channel,
        channel.stream("/t/Deaf") as call,
    ):
        await begun.wait()
        drain.set()
        with pytest.raises(GrpcError, match="shutting down"):
            await send_on(call)
        with pytest.raises(GrpcError, match="shutting down"):
            await call.receive()


async def test_a_client_that_says_nothing_is_cut_off() -> None:
    async with serving(HANDLERS, limits=GrpcLimits(handshake_seconds=0.1)) as port:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream:
            with trio.fail_after(5):
                async for _ in stream:
                    pass


async def test_rapid_reset_ends_the_connection_only() -> None:
    async with serving(HANDLERS) as port, channel_to(port) as honest:
        async with channel_to(port) as attacker:

            async def open_and_reset() -> None:
                for _ in range(2000):
                    async with attacker.stream("/t/Sleepy"):
                        await trio.lowlevel.checkpoint()

            with pytest.raises(GrpcError) as caught:
                await open_and_reset()
        assert caught.value.status is StatusCode.UNAVAILABLE
        assert await honest.unary("/t/Echo", b"x", timeout=5) == b"x"


async def test_connections_over_the_limit_are_closed_at_once() -> None:
    async with serving(HANDLERS, limits=GrpcLimits(connections=1)) as port, channel_to(port) as channel:
        assert await channel.unary("/t/Echo", b"x", timeout=5) == b"x"
        with pytest.raises(ConnectionLost):
            async with channel_to(port):
                pass
        assert await channel.unary("/t/Echo", b"x", timeout=5) == b"x"
