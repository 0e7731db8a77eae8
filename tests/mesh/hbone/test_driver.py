"""Connections over memory streams and over TLS: back-pressure, refusals, drain, keepalive, bad peers."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from mesh.addresses import SocketAddress, parse_ip
from mesh.errors import ConnectionLost, MeshError, PolicyDenied, TlsFailure, TunnelRefused
from mesh.hbone.codec import ACK, PREFACE, ErrorCode, FrameType, encode_connect, encode_response, frame, settings_frame
from mesh.hbone.contract import HboneSettings, Http2Violation, Role
from mesh.hbone.driver import HboneConnection, RequestHandler, open_client, serve
from mesh.hbone.tunnel_driver import IncomingRequest, Tunnel
from mesh.testing.ca import TestAuthority
from mesh.testing.hbone import Endpoint
from mesh.tls.context import client_context, server_context

BLOCK = encode_connect("10.0.0.1:80", forwarded='for="10.0.0.9:4711"', baggage="k8s.namespace.name=demo")
SMALL = HboneSettings(initial_stream_window=65_536, max_stream_window=65_536)


async def echo(request: IncomingRequest) -> None:
    tunnel = request.accept()
    async for data in tunnel:
        await tunnel.send_all(data)
    await tunnel.send_eof()


@asynccontextmanager
async def connected(
    handler: RequestHandler,
    *,
    streams: tuple[trio.abc.Stream, trio.abc.Stream] | None = None,
    settings: HboneSettings | None = None,
) -> AsyncIterator[tuple[HboneConnection, HboneConnection]]:
    """A client and a server joined by ``streams``, by default in memory."""
    left, right = streams or trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve, right, handler, settings)
        async with open_client(left, settings) as client:
            yield client, server


def pattern(size: int) -> bytes:
    return (bytes(range(251)) * (size // 251 + 1))[:size]


# -- tunnels -----------------------------------------------------------------------------------------------------------


async def test_large_data_both_ways_and_half_close() -> None:
    async with connected(echo) as (client, server):
        tunnel = await client.connect(BLOCK)
        received = bytearray()

        async def receive() -> None:
            async for data in tunnel:
                received.extend(data)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await tunnel.send_all(pattern(12_000_000))
            await tunnel.send_eof()
        assert received == pattern(12_000_000)
        await tunnel.aclose()
        await client.drain()
        assert not client.machine.streams
        assert not server.machine.streams


async def test_a_slow_reader_stops_its_sender_and_nobody_else(autojump_clock: trio.testing.MockClock) -> None:
    started = trio.Event()

    async def stubborn(request: IncomingRequest) -> None:
        tunnel = request.accept()
        if not started.is_set():
            started.set()
            await trio.sleep_forever()
        await tunnel.send_all(await tunnel.receive_some())

    async with connected(stubborn, settings=SMALL) as (client, server):
        slow = await client.connect(BLOCK)
        with trio.move_on_after(0.1):
            await slow.send_all(bytes(1_000_000))
        held = next(iter(server.machine.streams.values()))
        assert held.backlog == 65_536
        quick = await client.connect(BLOCK)
        await quick.send_all(b"hello")
        assert await quick.receive_some() == b"hello"


# -- requests ----------------------------------------------------------------------------------------------------------


async def test_a_handler_sees_the_request_and_its_baggage_goes_back() -> None:
    seen: list[IncomingRequest] = []

    async def handler(request: IncomingRequest) -> None:
        seen.append(request)
        request.accept(baggage="k8s.namespace.name=far")

    async with connected(handler) as (client, _):
        tunnel = await client.connect(BLOCK)
        assert tunnel.headers == [(":status", "200"), ("baggage", "k8s.namespace.name=far")]
        assert await tunnel.receive_some() == b""
    (request,) = seen
    assert request.connect.target == SocketAddress(parse_ip("10.0.0.1"), 80)
    assert request.connect.baggage == "k8s.namespace.name=demo"


async def refuse(request: IncomingRequest) -> None:
    request.refuse(401)


async def deny(request: IncomingRequest) -> None:
    raise PolicyDenied("no policy admits it")


async def fail(request: IncomingRequest) -> None:
    async with trio.open_nursery():
        raise OSError("connection refused")


async def forget(request: IncomingRequest) -> None:
    pass


@pytest.mark.parametrize(("handler", "status"), [(refuse, 401), (deny, 401), (fail, 503), (forget, 503)])
async def test_refusals(handler: Callable[[IncomingRequest], Awaitable[None]], status: int) -> None:
    async with connected(handler) as (client, server):
        for _ in range(3):
            with pytest.raises(TunnelRefused) as caught:
                await client.connect(BLOCK)
            assert caught.value.status == status
        await trio.testing.wait_all_tasks_blocked()
        assert not client.machine.streams
        assert not server.machine.streams


@pytest.mark.parametrize("block", [encode_connect("nonsense"), encode_response(200), b"\x82\x84\x86"])
async def test_what_is_no_hbone_request_is_answered_400(block: bytes) -> None:
    async with connected(echo) as (client, server):
        with pytest.raises(TunnelRefused) as caught:
            await client.connect(block)
        assert caught.value.status == 400
        await (await client.connect(BLOCK)).send_all(b"others are unharmed")
        assert len(server.machine.streams) == 1


async def test_a_handler_that_fails_later_breaks_its_tunnel() -> None:
    async def handler(request: IncomingRequest) -> None:
        await request.accept().receive_some()
        raise PolicyDenied("no longer allowed")

    async with connected(handler) as (client, server):
        tunnel = await client.connect(BLOCK)
        await tunnel.send_all(b"x")
        with pytest.raises(trio.BrokenResourceError, match="INTERNAL_ERROR"):
            await tunnel.receive_some()
        assert not server.machine.streams


async def test_connect_waits_for_a_free_stream() -> None:
    async with connected(echo, settings=HboneSettings(max_streams=2)) as (client, _):
        first, _second = await client.connect(BLOCK), await client.connect(BLOCK)
        third: list[Tunnel] = []

        async def connect() -> None:
            third.append(await client.connect(BLOCK))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(connect)
            await trio.testing.wait_all_tasks_blocked()
            assert not third
            await first.aclose()
        assert len(third) == 1


async def test_a_cancelled_connect_gives_its_stream_up() -> None:
    async def handler(request: IncomingRequest) -> None:
        await trio.sleep_forever()

    async with connected(handler) as (client, server):
        with trio.move_on_after(0.05):
            await client.connect(BLOCK)
        await trio.testing.wait_all_tasks_blocked()
        assert not client.machine.streams
        assert not server.machine.streams


# -- the connection ----------------------------------------------------------------------------------------------------


async def test_drain_lets_tunnels_end_and_admits_no_more() -> None:
    async with connected(echo) as (client, server):
        tunnel = await client.connect(BLOCK)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.drain)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(ConnectionLost, match="going away"):
                await client.connect(BLOCK)
            await tunnel.send_all(b"last words")
            await tunnel.send_eof()
            assert await tunnel.receive_some() == b"last words"
            assert await tunnel.receive_some() == b""


async def test_the_end_of_the_connection_breaks_its_tunnels() -> None:
    left, right = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        await nursery.start(serve, right, echo)
        async with open_client(left) as client:
            tunnel = await client.connect(BLOCK)
            await right.aclose()
            with pytest.raises(trio.BrokenResourceError, match="closed the HBONE connection") as caught:
                await tunnel.receive_some()
            assert isinstance(caught.value.__cause__, MeshError)
            with pytest.raises(ConnectionLost):
                await client.connect(BLOCK)
            await client.drain()


async def test_errors_leave_the_block_as_they_are() -> None:
    with pytest.raises(TunnelRefused):
        async with open_client(trio.testing.memory_stream_pair()[0]):
            raise TunnelRefused(503)


async def read_all(stream: trio.abc.ReceiveStream) -> bytes:
    return b"".join([data async for data in stream])


async def test_a_violation_is_answered_with_goaway_of_its_code() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    await theirs.send_all(PREFACE + settings_frame([]) + frame(FrameType.PING, 0, 0, bytes(7)))
    with pytest.raises(Http2Violation) as caught:
        await serve(ours, echo)
    assert caught.value.code is ErrorCode.FRAME_SIZE_ERROR
    goaway = frame(FrameType.GOAWAY, 0, 0, (0).to_bytes(4, "big") + (6).to_bytes(4, "big"))
    assert (await read_all(theirs)).endswith(goaway)


async def test_plain_http_is_turned_away() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    await theirs.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    with pytest.raises(Http2Violation, match="preface"):
        await serve(ours, echo)


async def test_a_client_that_leaves_ends_the_server_in_peace() -> None:
    left, right = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve, right, echo)
        async with open_client(left) as client:
            await client.connect(BLOCK)
    assert isinstance(server.failure, ConnectionLost)


async def test_keepalive_is_answered_and_a_silent_peer_given_up(autojump_clock: trio.testing.MockClock) -> None:
    async with connected(echo) as (client, server):
        tunnel = await client.connect(BLOCK)
        await trio.sleep(100)
        assert client.failure is None
        assert server.failure is None
        await tunnel.send_all(b"still here")
        assert await tunnel.receive_some() == b"still here"
    ours, theirs = trio.testing.memory_stream_pair()
    began = trio.current_time()
    async with open_client(ours) as client, trio.open_nursery() as nursery:
        nursery.start_soon(read_all, theirs)
        with pytest.raises(ConnectionLost, match="PING"):
            await client.connect(BLOCK)
        assert trio.current_time() - began == pytest.approx(30)


async def test_floods_are_judged_by_the_second(autojump_clock: trio.testing.MockClock) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    ping = frame(FrameType.PING, 0, 0, bytes(8))

    async def send_pings() -> None:
        await theirs.send_all(PREFACE + settings_frame([]))
        for _ in range(5):
            await theirs.send_all(ping * 300)
            await trio.sleep(1.1)
        lasted.set()
        await theirs.send_all(ping * 500)

    lasted = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(read_all, theirs)
        nursery.start_soon(send_pings)
        with pytest.raises(Http2Violation, match="ENHANCE_YOUR_CALM"):
            await serve(ours, echo)
        assert lasted.is_set()


async def test_a_peer_that_does_not_read_its_answers_is_not_read_from(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Its window updates and answers are held up to a limit; then its own bytes stay in the transport."""
    ours, theirs = trio.testing.lockstep_stream_pair()
    peer = Endpoint(Role.CLIENT)
    for _ in range(150):
        peer.open(BLOCK)
    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve, ours, echo)
        nursery.start_soon(theirs.send_all, peer.take())
        await trio.testing.wait_all_tasks_blocked()
        server.machine.outgoing += bytes(5_000_000)  # as much unread output as a long abuse would pile up
        blocked = frame(FrameType.PING, 0, 0, bytes(8))
        await theirs.send_all(blocked)  # the read under way
        nursery.start_soon(theirs.send_all, blocked)
        await trio.testing.wait_all_tasks_blocked()
        assert server.machine.outgoing.count(frame(FrameType.PING, ACK, 0, bytes(8))) == 1
        assert server.failure is None
        nursery.cancel_scope.cancel()


# -- over TLS ----------------------------------------------------------------------------------------------------------


async def tls_pair(left: ssl.SSLContext, right: ssl.SSLContext) -> tuple[trio.SSLStream[trio.SocketStream], ...]:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    client = await trio.open_tcp_stream("127.0.0.1", listeners[0].socket.getsockname()[1])
    server = await listeners[0].accept()
    await listeners[0].aclose()
    return (
        trio.SSLStream(client, left, https_compatible=True),
        trio.SSLStream(server, right, server_side=True, https_compatible=True),
    )


async def test_many_tunnels_over_mutual_tls() -> None:
    authority = TestAuthority()
    left = client_context(authority.issue(authority.identity("demo", "client")))
    right = server_context(authority.issue(authority.identity("demo", "server")))
    client_stream, server_stream = await tls_pair(left, right)

    async def once(client: HboneConnection, size: int) -> None:
        tunnel = await client.connect(BLOCK)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tunnel.send_all, pattern(size))
            received = bytearray()
            while len(received) < size:
                received += await tunnel.receive_some()
        assert received == pattern(size)
        await tunnel.send_eof()
        assert await tunnel.receive_some() == b""
        await tunnel.aclose()

    async with connected(echo, streams=(client_stream, server_stream)) as (client, server):
        async with trio.open_nursery() as nursery:
            for number in range(120):
                nursery.start_soon(once, client, 1 + 3000 * number)
        assert server_stream.selected_alpn_protocol() == "h2"
        await client.drain()
        assert not client.machine.streams
        assert not server.machine.streams


async def test_a_client_of_another_authority_gets_nowhere() -> None:
    ours, other = TestAuthority(), TestAuthority()
    stranger = other.issue(other.identity("demo", "client"))
    streams = await tls_pair(
        client_context(stranger), server_context(ours.issue(ours.identity("demo", "server")))
    )
    reached: list[IncomingRequest] = []

    async def handler(request: IncomingRequest) -> None:
        reached.append(request)

    async with connected(handler, streams=(streams[0], streams[1])) as (client, server):
        with pytest.raises(ConnectionLost):
            await client.connect(BLOCK)
    assert isinstance(server.failure, TlsFailure)
    assert not reached


async def test_a_handshake_that_never_comes(autojump_clock: trio.testing.MockClock) -> None:
    authority = TestAuthority()
    context = server_context(authority.issue(authority.identity("demo", "server")))
    stream = trio.SSLStream(trio.testing.memory_stream_pair()[0], context, server_side=True)
    began = trio.current_time()
    await serve(stream, echo)
    assert trio.current_time() - began == pytest.approx(10)
