"""A verdict for what pod a dials at pod b, and what the tests of the fast path ask of it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from ebpf.counters import Counters
from ebpf.fastpath.tables import FastPathConnection, FastPathMaps
from ebpf.reasons import Reason
from mesh.addresses import SocketAddress, parse_ip
from mesh.testing.actors import Actor
from mesh.testing.conversations import serve
from ztunnel.fastpath.splicer import Splicer

PORT = 8080
VIP = "10.96.0.9"
GENERATION = 7


@pytest.fixture
def told(mesh: Any) -> Iterator[FastPathMaps]:
    """Everything that a dials at b's port is admitted, and a service of that one endpoint."""
    a, b = mesh.places["a"], mesh.places["b"]
    with FastPathMaps(mesh.paths) as opened:
        opened.clear()
        opened.take_closed()
        opened.set_generation(b.namespace.cookie(), GENERATION)
        for host in (b.ipv4, b.ipv6):
            opened.admit(a.namespace.cookie(), address(host), b.namespace.cookie(), GENERATION)
        opened.set_service(a.namespace.cookie(), SocketAddress(parse_ip(VIP), 80), [address(b.ipv4)])
        opened.stay_alive(600)
        yield opened
        opened.stop()
        opened.clear()


@pytest.fixture
def maps(told: FastPathMaps, mesh: Any) -> Iterator[FastPathMaps]:
    """The same, and what ztunnel does for connections that are worth it: both ends are entered in the splice."""
    with Actor(mesh.cgroup / "ztunnel", None, enter_all, told, mesh.places):
        yield told


def enter_all(told: FastPathMaps, places: Any) -> None:
    """Enter what the programs name, for ever."""
    pods = {place.namespace.cookie(): place for place in places.values()}
    trio.run(Splicer(told, pods.get).run)


def address(host: str, port: int = PORT) -> SocketAddress:
    return SocketAddress(parse_ip(host), port)


def counted(node: Any, reason: Reason) -> int:
    with Counters(node.paths) as counters:
        return counters.read()[reason]


def closed(maps: FastPathMaps, count: int = 1) -> list[FastPathConnection]:
    """Records of closed connections, waited for; more than that many are a failure."""
    found: list[FastPathConnection] = []
    deadline = time.monotonic() + 10
    while len(found) < count and time.monotonic() < deadline:
        found += maps.take_closed()
        time.sleep(0.02)
    time.sleep(0.05)
    found += maps.take_closed()
    assert len(found) == count
    return found


def start(place: Any, handle: Callable[[Any], object]) -> Any:
    """A server at ``PORT`` of a pod, listening."""
    ready, tell = os.pipe()
    actor = place.start(serve, PORT, tell, handle)
    os.close(tell)
    with os.fdopen(ready, "rb") as pipe:
        if pipe.read(1) != b"r":
            actor.join()
    return actor


@pytest.fixture(scope="session")
def fast() -> SimpleNamespace:
    """The helpers of this folder: test folders are no packages, so they cannot be imported."""
    return SimpleNamespace(enter_all=enter_all, serve=start, closed=closed, counted=counted, address=address)
