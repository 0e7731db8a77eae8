"""Connections through the tunnel of an endpoint's workload: what fails is told once, what was given up is not."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from mesh.addresses import SocketAddress, parse_ip
from mesh.errors import HboneUnreachable, InternalError, MeshError
from mesh.identity import SpiffeId
from mesh.relay.pool import PoolKey
from waypoint.upstream.connector import TunnelConnector

IDENTITY = SpiffeId("cluster.local", "demo", "web")
KEY = PoolKey(IDENTITY, parse_ip("10.0.0.9"), frozenset({IDENTITY}), SocketAddress(parse_ip("10.0.0.1"), 15008))


class Tunnels:
    """A pool without a tunnel, that cannot make one."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.asked: list[PoolKey] = []

    def ready(self, _key: PoolKey) -> None:
        return None

    async def checkout(self, key: PoolKey) -> Any:
        self.asked.append(key)
        await trio.lowlevel.checkpoint()
        raise self.error


class Tasks:
    """Keeps what is started."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Any, ...]] = []

    def start(self, *task: Any) -> None:
        self.waiting.append(task)


@pytest.mark.parametrize(
    ("error", "kind"), [(HboneUnreachable("no answer"), HboneUnreachable), (KeyError("a bug"), InternalError)]
)
@pytest.mark.parametrize("given_up", [False, True])
async def test_no_tunnel_is_told_once(error: Exception, kind: type[MeshError], given_up: bool) -> None:
    pool: Any = Tunnels(error)
    tasks: Any = Tasks()
    told: list[object] = []
    connector = TunnelConnector(pool, tasks, KEY, "10.0.0.1:8080", "k8s.namespace.name=demo")
    dial = connector.connect(lambda wire, error: told.append((wire, type(error))))
    assert told == []
    if given_up:
        dial.cancel()
    [(function, *arguments)] = tasks.waiting
    await function(*arguments)
    assert pool.asked == [KEY]
    assert told == ([] if given_up else [(None, kind)])


class Tunnel:
    """A tunnel that takes streams; who its far end is says the test."""

    def __init__(self, peer_identity: Any) -> None:
        self.peer_identity = peer_identity
        self.machine = self

    def join(self, _end: Any) -> None:
        pass

    def open_stream(self, _block: bytes, _owner: Any) -> None:
        return None

    def output_ready(self) -> None:
        pass


@pytest.mark.pure_form
def test_whom_a_tunnel_has_proven_its_far_end_to_be_is_known() -> None:
    pool: Any = Tunnels(KeyError())
    nothing: Any = None
    connector = TunnelConnector(pool, nothing, KEY, "10.0.0.1:8080", "")
    assert connector.peer_identity is None
    pool.ready = lambda _key: Tunnel(SpiffeId("cluster.local", "demo", "web"))
    connector.connect(lambda *_: None)
    first = connector.peer_identity
    assert first == IDENTITY
    connector.connect(lambda *_: None)
    assert connector.peer_identity is first, "metrics know it by the object"
    pool.ready = lambda _key: Tunnel("spiffe-less.example")
    connector.connect(lambda *_: None)
    assert connector.peer_identity is None
