"""HTTP/2 over loopback: curl, and gRPC by grpcio on both sides, unary and streaming."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any

import grpc
import pytest
import trio

from waypoint.exchange.decision import Forward
from waypoint.http.contract import Failure
from waypoint.testing.exchanges import FixedBackend, FixedDecider
from waypoint.upstream.pool_contract import PoolLimits
from waypoint.upstream.pool_h2 import H2Pool
from waypoint.wire.socket_connector import SocketConnector

Proxy = Callable[[], AbstractAsyncContextManager[Any]]


def unary(request: bytes, context: grpc.ServicerContext) -> bytes:
    metadata = dict(context.invocation_metadata())
    if "x-fail" in metadata:
        context.set_trailing_metadata((("x-why", "asked"),))
        context.abort(grpc.StatusCode.NOT_FOUND, "no such thing: 50 % é")
    return request[::-1]


def stream(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
    for request in requests:
        yield request.upper()


class Handler(grpc.GenericRpcHandler):  # type: ignore[misc]  # untyped
    def service(self, details: Any) -> Any:
        if details.method == "/test/Unary":
            return grpc.unary_unary_rpc_method_handler(unary)
        return grpc.stream_stream_rpc_method_handler(stream)


@contextmanager
def grpc_server() -> Iterator[int]:
    with ThreadPoolExecutor(4) as threads:
        server = grpc.server(threads, options=[("grpc.max_receive_message_length", -1)])
        server.add_generic_rpc_handlers((Handler(),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield port
        finally:
            server.stop(None).wait()


def talk(port: int) -> None:
    """A client's conversation, in a thread of its own."""
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        ask = channel.unary_unary("/test/Unary")
        assert ask(b"abc", timeout=10) == b"cba"
        large = bytes(range(256)) * 20_000
        assert ask(large, timeout=20) == large[::-1]
        with pytest.raises(grpc.RpcError) as failed:
            ask(b"", timeout=10, metadata=(("x-fail", "1"),))
        assert failed.value.code() is grpc.StatusCode.NOT_FOUND
        assert failed.value.details() == "no such thing: 50 % é"
        assert ("x-why", "asked") in failed.value.trailing_metadata()
        both = channel.stream_stream("/test/Stream")
        assert list(both(iter([b"a", b"b" * 100_000, b"c"]), timeout=10)) == [b"A", b"B" * 100_000, b"C"]
        calls = [ask.future(b"%d" % number, timeout=10) for number in range(200)]
        assert [call.result() for call in calls] == [(b"%d" % number)[::-1] for number in range(200)]


async def test_grpc_between_grpcio_and_grpcio(proxying: Proxy) -> None:
    with grpc_server() as port:
        async with proxying() as waypoint:
            connector = SocketConnector(waypoint.engine, ("127.0.0.1", port))
            pool = H2Pool("e", connector, waypoint.timers, PoolLimits())
            backend = FixedBackend(pool)
            waypoint.listen(FixedDecider(Forward(backend)))
            await trio.to_thread.run_sync(talk, waypoint.port)
            with trio.fail_after(5):
                while waypoint.connections:  # noqa: ASYNC110 -- closed in the engine, which has no events
                    await trio.sleep(0.01)
            statuses = [facts.grpc_status for facts in waypoint.observer.facts]
            assert (len(statuses), statuses.count(b"0"), statuses.count(b"5")) == (204, 203, 1)
            assert {facts.flags for facts in waypoint.observer.facts} == {""}
            assert not any(isinstance(outcome[2], Failure) for outcome in backend.outcomes)
            assert pool.active == 0
            pool.drain()


async def test_a_grpc_client_is_told_that_nobody_is_there(proxying: Proxy) -> None:
    async with proxying() as waypoint:
        waypoint.listen(FixedDecider(Forward(FixedBackend())))

        def ask() -> None:
            with grpc.insecure_channel(f"127.0.0.1:{waypoint.port}") as channel, pytest.raises(grpc.RpcError) as failed:
                channel.unary_unary("/test/Unary")(b"abc", timeout=10)
            assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
            assert failed.value.details() == "no healthy upstream"

        await trio.to_thread.run_sync(ask)


async def test_a_grpc_stream_that_outlives_the_drain_ends_unavailable(proxying: Proxy) -> None:
    """What grpcio's client makes of it: first it is to open no more streams there, then the stream has a status."""
    heard, over = threading.Event(), threading.Event()

    def messages() -> Iterator[bytes]:
        yield b"a"
        over.wait(10)

    def talk_on(port: int) -> grpc.RpcError:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            answers = channel.stream_stream("/test/Stream")(messages(), timeout=20)
            assert next(answers) == b"A"
            heard.set()
            with pytest.raises(grpc.RpcError) as failed:
                next(answers)
            over.set()
            return failed.value

    with grpc_server() as port:
        async with proxying() as waypoint:
            pool = H2Pool("e", SocketConnector(waypoint.engine, ("127.0.0.1", port)), waypoint.timers, PoolLimits())
            waypoint.listen(FixedDecider(Forward(FixedBackend(pool))))
            found: list[grpc.RpcError] = []

            async def client() -> None:
                found.append(await trio.to_thread.run_sync(talk_on, waypoint.port))

            with trio.fail_after(15):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(client)
                    await trio.to_thread.run_sync(heard.wait)
                    (connection,) = waypoint.connections
                    connection.drain()
                    await trio.sleep(1.2)  # until the last request that is taken has been named
                    assert not found
                    connection.cut_off()
            assert found[0].code() is grpc.StatusCode.UNAVAILABLE
            assert found[0].details() == "this waypoint shuts down"
            assert [facts.flags for facts in waypoint.observer.facts] == ["LR"]
            pool.drain()
