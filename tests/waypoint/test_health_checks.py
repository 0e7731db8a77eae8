"""Active health checks in a whole waypoint, of real servers over loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import h11
import pytest
import trio

from mesh.model.upstream_policy import HealthCheck, TrafficPolicy, UpstreamPolicy
from mesh.model.waypoint import Destination, DestinationPort
from mesh.model.workload import TunnelProtocol
from mesh.testing.model import make_service, make_workload

WEB = "demo/web.demo.svc.cluster.local"
QUICK = HealthCheck(path="/healthz", interval_seconds=0.05, timeout_seconds=1.0, unhealthy_threshold=2)


class Endpoint:
    """A server that is well or not, and notes who has asked."""

    def __init__(self, number: int) -> None:
        self.name = f"web-{number}"
        self.ip = f"127.0.0.{number + 1}"
        self.port = 0
        self.well = True
        self.checks = 0
        self.requests = 0

    async def serve(self, stream: trio.SocketStream) -> None:
        connection = h11.Connection(h11.SERVER)
        async with stream:
            while True:
                event: Any = connection.next_event()
                if event is h11.NEED_DATA:
                    connection.receive_data(await stream.receive_some())
                elif isinstance(event, h11.Request):
                    check = event.target == b"/healthz"
                    self.checks += check
                    self.requests += not check
                    status = 200 if self.well or not check else 503
                elif isinstance(event, h11.EndOfMessage):
                    body = self.name.encode()
                    head = h11.Response(status_code=status, headers=[("content-length", str(len(body)))])
                    sent = [connection.send(each) for each in (head, h11.Data(data=body), h11.EndOfMessage())]
                    await stream.send_all(b"".join(each or b"" for each in sent))
                    if connection.our_state is h11.MUST_CLOSE:
                        return
                    connection.start_next_cycle()
                else:
                    return

    def workload(self) -> Any:
        return make_workload(
            self.name, self.ip, namespace="demo", workload_name="web", services={WEB: {80: self.port}},
            tunnel_protocol=TunnelProtocol.NONE,
        )  # fmt: skip


@asynccontextmanager
async def checked(mesh: Any, check: HealthCheck, count: int = 2) -> AsyncIterator[list[Endpoint]]:
    endpoints = [Endpoint(number) for number in range(1, count + 1)]
    async with trio.open_nursery() as nursery:
        for endpoint in endpoints:
            (listener,) = await trio.open_tcp_listeners(endpoints[0].port, host=endpoint.ip)
            endpoint.port = listener.socket.getsockname()[1]
            nursery.start_soon(trio.serve_listeners, endpoint.serve, [listener])
        mesh.offer(make_service("web", "10.96.0.1", ports={80: endpoints[0].port}, namespace="demo"))
        for endpoint in endpoints:
            mesh.offer(endpoint.workload())
        mesh.offer(destination(check))
        await mesh.served("10.96.0.1:80")
        yield endpoints
        nursery.cancel_scope.cancel()


def destination(check: HealthCheck | None) -> Destination:
    upstream = UpstreamPolicy(service=WEB, policy=TrafficPolicy(health_check=check))
    return Destination(
        key=WEB, waypoint="demo/waypoint", ports=(DestinationPort(number=80),), upstreams=(upstream,)
    )


async def answering(mesh: Any, *names: str) -> None:
    """Wait until just these endpoints answer requests."""
    with trio.fail_after(10):
        while True:
            seen = {(await mesh.get("10.96.0.1:80"))[1].rpartition(b"\r\n")[2].decode() for _ in range(16)}
            if seen == set(names):
                return


async def test_endpoints_go_out_and_come_in_again_by_their_health(own_mesh: Any) -> None:
    async with checked(own_mesh, QUICK) as (one, other):
        await answering(own_mesh, "web-1", "web-2")
        other.well = False
        await answering(own_mesh, "web-1")
        before = other.requests
        for _ in range(30):
            assert (await own_mesh.get("10.96.0.1:80"))[0] == 200
        assert other.requests == before
        other.well = True
        await answering(own_mesh, "web-1", "web-2")
        one.well = other.well = False
        with trio.fail_after(10):
            while True:
                status, answer = await own_mesh.get("10.96.0.1:80")
                if status == 503:
                    break
        assert b"no healthy endpoint" in answer
        one.well = True
        await answering(own_mesh, "web-1")


async def test_an_endpoint_that_comes_later_is_asked_and_one_without_checks_is_not(own_mesh: Any) -> None:
    async with checked(own_mesh, QUICK) as (one, other):
        await answering(own_mesh, "web-1", "web-2")
        newcomer = Endpoint(3)
        newcomer.port, newcomer.well = one.port, False
        async with trio.open_nursery() as nursery:
            listeners = await trio.open_tcp_listeners(newcomer.port, host=newcomer.ip)
            nursery.start_soon(trio.serve_listeners, newcomer.serve, listeners)
            own_mesh.offer(newcomer.workload())
            with trio.fail_after(10):
                while newcomer.checks < 2:  # noqa: ASYNC110 -- nobody tells
                    await trio.sleep(0.01)
            await answering(own_mesh, "web-1", "web-2")
            own_mesh.offer(destination(None))
            await answering(own_mesh, "web-1", "web-2", "web-3")
            with trio.fail_after(10):
                while True:
                    before = [endpoint.checks for endpoint in (one, other, newcomer)]
                    await trio.sleep(0.5)
                    if before == [endpoint.checks for endpoint in (one, other, newcomer)]:
                        break
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("path", ["/healthz", None])
async def test_who_is_not_there_is_found_out_before_requests_go_there(own_mesh: Any, path: str | None) -> None:
    check = HealthCheck(path=path, interval_seconds=0.05, timeout_seconds=0.2, unhealthy_threshold=1)
    async with checked(own_mesh, check, count=1) as (one,):
        ghost = Endpoint(9)
        ghost.port = one.port
        own_mesh.offer(ghost.workload())
        with trio.fail_after(10):
            while True:
                statuses = {(await own_mesh.get("10.96.0.1:80"))[0] for _ in range(20)}
                if statuses == {200}:
                    break
        assert one.requests >= 20
