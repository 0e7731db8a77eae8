"""Destinations change while clients are connected: what is in force counts from the next request on."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
import trio

from mesh.errors import TunnelRefused
from mesh.model.http_route import DirectResponse, HttpRoute
from mesh.model.request_policy import Attribute, RequestAction
from mesh.model.waypoint import Destination, DestinationPort
from mesh.model.workload import AppProtocol, TunnelProtocol
from mesh.testing.model import make_service, make_workload
from waypoint.testing.applications import applications
from waypoint.testing.policies import condition, policy_of

WEB = "demo/web.demo.svc.cluster.local"
REQUEST = b"GET / HTTP/1.1\r\nhost: web\r\n\r\n"
NOBODY = policy_of(RequestAction.DENY, condition(Attribute.NAMESPACE, "demo"), key="demo/nobody")


def told(text: str, *numbers: int) -> Destination:
    """Answered from the waypoint itself, on these ports."""
    route = HttpRoute(name="r", direct_response=DirectResponse(status=200, body=text))
    ports = tuple(DestinationPort(number=number, routes=(route,)) for number in numbers or (80,))
    return Destination(key=WEB, waypoint="demo/waypoint", ports=ports)


class Kept:
    """A client's connection that is kept alive."""

    def __init__(self, wire: Any, received: Any) -> None:
        self._wire, self.received = wire, received

    async def ask(self) -> bytes:
        """The answer to one request."""
        self.received.data.clear()
        self._wire.write(REQUEST)
        return bytes(await self.received.until(lambda each: _complete(each.data) or each.ended or each.lost))

    async def asks_until(self, part: bytes) -> bytes:
        """Ask until an answer has something in it."""
        with trio.fail_after(10):
            while True:
                answer = await self.ask()
                if part in answer:
                    return answer
                await trio.sleep(0.01)


def _complete(data: bytearray) -> bool:
    head, separator, body = bytes(data).partition(b"\r\n\r\n")
    if not separator:
        return False
    lengths = [line[16:] for line in head.split(b"\r\n") if line.startswith(b"content-length: ")]
    return len(body) >= int(lengths[0])


async def connected(mesh: Any, authority: str = "10.96.0.1:80") -> Kept:
    with trio.fail_after(10):
        while True:
            try:
                return Kept(*await mesh.connect(authority))
            except TunnelRefused:
                await trio.sleep(0.02)


async def test_a_change_counts_for_connections_that_are_there(own_mesh: Any) -> None:
    own_mesh.offer(make_service("web", "10.96.0.1", namespace="demo"), told("first"))
    kept = await connected(own_mesh)
    assert (await kept.ask()).endswith(b"first")
    own_mesh.offer(told("second"))
    answer = await kept.asks_until(b"second")
    assert b"connection: close" not in answer
    own_mesh.offer(replace(told("third"), policies=(NOBODY,)))
    assert (await kept.asks_until(b" 403 ")).startswith(b"HTTP/1.1 403 ")
    own_mesh.offer(told("fourth"))
    await kept.asks_until(b"fourth")


async def test_what_is_no_longer_served_ends_with_an_answer_that_says_so(own_mesh: Any) -> None:
    own_mesh.offer(make_service("web", "10.96.0.1", ports={80: 1, 81: 1}, namespace="demo"), told("both", 80, 81))
    first, second = await connected(own_mesh), await connected(own_mesh, "10.96.0.1:81")
    own_mesh.offer(told("one"))
    await first.asks_until(b"one")
    answer = await second.asks_until(b"connection: close")
    assert answer.endswith(b"both")
    assert second.received.ended
    own_mesh.withdraw(told("one"))
    answer = await first.asks_until(b"connection: close")
    assert answer.endswith(b"one")
    assert first.received.ended


@pytest.mark.parametrize("denied", [False, True])
async def test_connections_of_bytes_are_judged_again(own_mesh: Any, denied: bool) -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.2")

    async def echo(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):  # who is cut off is reset
            async for data in stream:
                await stream.send_all(data)

    port = listener.socket.getsockname()[1]
    ports = (DestinationPort(number=80, protocol=AppProtocol.TCP),)
    value = Destination(key=WEB, waypoint="demo/waypoint", ports=ports)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, echo, [listener])
        own_mesh.offer(
            make_service("web", "10.96.0.1", ports={80: port}, namespace="demo"),
            make_workload(
                "web-1", "127.0.0.2", namespace="demo", services={WEB: {80: port}}, tunnel_protocol=TunnelProtocol.NONE
            ),
            value,
        )
        wire, received = (kept := await connected(own_mesh))._wire, kept.received
        wire.write(b"before")
        assert await received.until(lambda each: len(each.data) == 6) == b"before"
        own_mesh.offer(replace(value, policies=(NOBODY,) if denied else ()))
        if denied:
            await received.until(lambda each: each.lost)
        else:
            await trio.sleep(0.2)
            wire.write(b" after")
            assert await received.until(lambda each: len(each.data) == 12) == b"before after"
            wire.reset()
        nursery.cancel_scope.cancel()


async def test_a_workload_is_served_on_any_port(own_mesh: Any) -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.2")

    async def answer(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        await stream.receive_some()

    authority = f"127.0.0.2:{listener.socket.getsockname()[1]}"
    workload = make_workload("web-1", "127.0.0.2", namespace="demo", tunnel_protocol=TunnelProtocol.NONE)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, answer, [listener])
        own_mesh.offer(workload, Destination(key=workload.uid, waypoint="demo/waypoint", any_port=True))
        kept = await connected(own_mesh, authority)
        assert (await kept.ask()).endswith(b"ok")
        own_mesh.offer(Destination(key=workload.uid, waypoint="demo/waypoint", any_port=True, policies=(NOBODY,)))
        await kept.asks_until(b" 403 ")
        nursery.cancel_scope.cancel()


async def test_what_is_under_way_when_the_time_to_drain_is_up(replicas: Any) -> None:
    """An answer over HTTP, a status over gRPC; a connection of bytes is reset."""
    async with replicas(1, drain_seconds=0.2) as (mesh,), applications("web") as (web,):
        web.pause = 60.0
        mesh.offer_application(
            web,
            WEB,
            "10.96.0.1",
            "127.0.0.2",
            (DestinationPort(number=80), DestinationPort(number=81, protocol=AppProtocol.TCP)),
        )
        await mesh.served("10.96.0.1:80")
        waiting, answer = await mesh.connect("10.96.0.1:80")
        waiting.write(REQUEST)
        raw, bytes_back = await mesh.connect("10.96.0.1:81")
        raw.write(b"hello")
        with trio.fail_after(5):
            while not web.requests:  # noqa: ASYNC110 -- the application tells nobody
                await trio.sleep(0.01)
        mesh.stop()
        data = await answer.until(lambda each: each.ended or each.lost)
        assert data.startswith(b"HTTP/1.1 503 ")
        assert data.endswith(b"this waypoint shuts down")
        await bytes_back.until(lambda each: each.lost)
