"""Connections of bytes through the whole waypoint."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from mesh.errors import TunnelRefused
from mesh.model.request_policy import Attribute, RequestAction
from mesh.model.waypoint import Destination, DestinationPort
from mesh.model.workload import AppProtocol, TunnelProtocol
from mesh.testing.model import make_service, make_workload
from mesh.xds.codec import ADDRESS_TYPE
from waypoint.testing.applications import applications
from waypoint.testing.policies import condition, policy_of

WEB = "demo/web.demo.svc.cluster.local"


@pytest.mark.parametrize("namespace", ["demo", "elsewhere"])
async def test_bytes_pass_as_they_are_or_not_at_all(own_mesh: Any, namespace: str) -> None:
    policy = policy_of(RequestAction.DENY, condition(Attribute.NAMESPACE, namespace))
    async with applications("web") as (web,):
        ports = (DestinationPort(number=80), DestinationPort(number=81, protocol=AppProtocol.TCP))
        own_mesh.offer(
            make_service("web", "10.96.0.1", ports={80: web.port, 81: web.port}, namespace="demo"),
            make_workload(
                "web-1", "127.0.0.2", namespace="demo", services={WEB: {80: web.port, 81: web.port}},
                tunnel_protocol=TunnelProtocol.NONE,
            ),
            Destination(key=WEB, waypoint="demo/waypoint", ports=ports, policies=(policy,)),
        )  # fmt: skip
        await own_mesh.reached()
        asked = len(web.requests)
        if namespace == "demo":
            with pytest.raises(TunnelRefused) as caught:
                await own_mesh.connect("10.96.0.1:81")
            assert caught.value.status == 401
            assert len(web.requests) == asked
            return
        wire, received = await own_mesh.connect("10.96.0.1:81")
        wire.write(b"GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n")
        answer = await received.until(lambda each: each.ended or each.lost)
        wire.reset()
        assert answer.endswith(b"web")
        assert len(web.requests) == asked + 1
        assert b"x-forwarded-for" not in dict(web.requests[-1].headers)


async def test_connections_of_bytes_are_counted_and_logged(own_mesh: Any) -> None:
    lines: list[str] = []
    own_mesh.output.write = lambda data: lines.append(data.decode())
    async with applications("web") as (web,):
        ports = (DestinationPort(number=80, protocol=AppProtocol.TCP),)
        own_mesh.offer_application(web, WEB, "10.96.0.1", "127.0.0.2", ports)
        status, _ = await own_mesh.reached()
        assert status == 200
        key = {"reporter": "waypoint", "destination_workload": "web", "destination_service": WEB.partition("/")[2]}
        with trio.fail_after(5):
            while not connections(own_mesh, "closed", **key):  # noqa: ASYNC110 -- a counter tells nobody
                await trio.sleep(0.02)
        assert connections(own_mesh, "opened", **key) == 1
        # What lives is counted once per second.
        wire, received = await own_mesh.connect("10.96.0.1:80")
        wire.write(b"GET / HTTP/1.1\r\nhost: web\r\n\r\n")
        await received.until(lambda each: each.data.endswith(b"web"))
        before = bytes_of(own_mesh, "received", **key)
        with trio.fail_after(5):
            while bytes_of(own_mesh, "received", **key) == before:  # noqa: ASYNC110 -- a counter tells nobody
                await trio.sleep(0.05)
        assert connections(own_mesh, "opened", **key) == 2
        assert connections(own_mesh, "closed", **key) == 1
        wire.reset()
        with trio.fail_after(5):
            while connections(own_mesh, "closed", **key) < 2:  # noqa: ASYNC110 -- a counter tells nobody
                await trio.sleep(0.02)
        own_mesh.store.update(ADDRESS_TYPE, [], ["Kubernetes//Pod/demo/web-1"])
        with trio.fail_after(10):
            while not any(" UH " in line for line in lines):
                wire, received = await own_mesh.connect("10.96.0.1:80")
                wire.write(b"GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n")
                await received.until(lambda each: each.ended or each.lost)
                wire.reset()
    first = next(line for line in lines if '"- - -"' in line)  # the process logs there, too
    assert '"- - -" 0 DC ' in first, "this client resets its connections when it has read all"
    assert f" {WEB} " in first


def connections(mesh: Any, what: str, **labels: str) -> float:
    return tcp(mesh, f"istio_tcp_connections_{what}_total", labels)


def bytes_of(mesh: Any, what: str, **labels: str) -> float:
    return tcp(mesh, f"istio_tcp_{what}_bytes_total", labels)


def tcp(mesh: Any, name: str, labels: dict[str, str]) -> float:
    samples = [sample for family in mesh.registry.collect() for sample in family.samples if sample.name == name]
    return float(sum(sample.value for sample in samples if labels.items() <= sample.labels.items()))


async def test_bytes_to_nobody_end_the_connection(own_mesh: Any) -> None:
    async with applications("web") as (web,):
        ports = (DestinationPort(number=80, protocol=AppProtocol.TCP),)
        own_mesh.offer_application(web, WEB, "10.96.0.1", "127.0.0.2", ports)
        await own_mesh.reached()
        own_mesh.store.update(ADDRESS_TYPE, [], ["Kubernetes//Pod/demo/web-1"])
        with trio.fail_after(10):
            while True:
                wire, received = await own_mesh.connect("10.96.0.1:80")
                wire.write(b"GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n")
                await received.until(lambda each: each.ended or each.lost)
                wire.reset()
                if received.lost:
                    break
        assert received.data == b""
