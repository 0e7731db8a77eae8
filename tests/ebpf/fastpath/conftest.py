"""A verdict for what pod a dials at pod b, and what the tests of the fast path ask of it."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from ebpf.counters import Counters
from ebpf.fastpath.tables import FastPathConnection, FastPathMaps
from ebpf.layout import HABIT_NONBLOCKING, FastKey, ip_field
from ebpf.maps import PinnedMap
from ebpf.reasons import Reason
from mesh.addresses import SocketAddress, parse_ip
from mesh.testing.conversations import serve

PORT = 8080
VIP = "10.96.0.9"
GENERATION = 7


@pytest.fixture
def maps(mesh: Any) -> Iterator[FastPathMaps]:
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
        with PinnedMap(mesh.paths, "fast_habits", FastKey, ctypes.c_uint32) as habits:
            for accepts, place in ((1, b), (0, a)):
                for host in (b.ipv4, b.ipv6):
                    key = FastKey(place.namespace.cookie(), ip_field(parse_ip(host)), PORT, accepts, 0)
                    habits.set(key, ctypes.c_uint32(HABIT_NONBLOCKING))
        yield opened
        opened.stop()
        opened.clear()


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
    return SimpleNamespace(serve=start, closed=closed, counted=counted, address=address)
