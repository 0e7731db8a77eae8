"""Verdicts follow the state of the mesh in the very call that changes it."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import ztunnel.fastpath.manager as manager_module
from mesh.addresses import OriginalDestination, SocketAddress, parse_ip
from mesh.errors import ConfigurationError
from mesh.model.policy import Match, PolicyAction, StringMatch, StringMatchKind
from mesh.rbac import ConnectionFacts
from mesh.state.store import MeshState
from mesh.state.upstream import choose_upstream
from mesh.telemetry.access_log import AccessLog
from mesh.telemetry.metrics import L4Metrics, ServiceLabels, new_registry
from mesh.testing.model import make_policy, make_service, make_workload
from mesh.xds.codec import ADDRESS_TYPE, AUTHORIZATION_TYPE, encode_address, encode_authorization
from mesh.xds.discovery_codec import Resource
from mesh.zds.codec import WorkloadInfo
from ztunnel.fastpath.manager import FastPath
from ztunnel.pod import Pod
from ztunnel.proxy.connections import ConnectionTable
from ztunnel.proxy.descriptions import Descriptions

CLIENT, SERVER, VIP = parse_ip("10.244.1.2"), parse_ip("10.244.1.3"), parse_ip("10.96.0.9")
TARGET = SocketAddress(SERVER, 8080)
DIALLED = OriginalDestination(SocketAddress(VIP, 80))
SERVICE = "default/echo.default.svc.cluster.local"
FACTS_PORT = 8080


class Mesh:
    """Two pods of a node, described, and the fast path between them."""

    def __init__(self, maps: Any) -> None:
        self.maps = maps
        self.lines: list[str] = []
        output: Any = SimpleNamespace(write=lambda line: self.lines.append(line.decode()))
        self.state = MeshState("node1")
        metrics = L4Metrics(new_registry("test", "1"), monotonic=lambda: 0.0)
        access_log = AccessLog("text", output=output)
        self.descriptions = Descriptions(self.state, ConnectionTable(metrics, access_log))
        self.fast = FastPath(maps, self.state, metrics, access_log, splice=True)
        self.versions = itertools.count()
        self.apply(AUTHORIZATION_TYPE)
        self.put(make_workload("client", "10.244.1.2", node="node1"), self.server())
        self.state.applied(ADDRESS_TYPE)
        self.state.applied(AUTHORIZATION_TYPE)
        self.client, self.serving = self.pod("client", CLIENT, 11), self.pod("server", SERVER, 12)

    def server(self, **fields: Any) -> Any:
        return make_workload("server", "10.244.1.3", node="node1", services={SERVICE: {80: 8080}}, **fields)

    def pod(self, name: str, ip: Any, cookie: int) -> Pod:
        namespace: Any = SimpleNamespace(cookie=lambda: cookie)
        tasks: Any = None
        pod = Pod(f"uid-{name}", WorkloadInfo(name, "default", "default"), namespace, [ip], "cluster.local", tasks)
        self.descriptions.follow(pod)
        self.fast.pod_started(pod)
        return pod

    def apply(self, kind: str, *resources: Resource, removed: tuple[str, ...] = ()) -> None:
        assert self.state.apply(kind, resources, removed) == []

    def put(self, *values: Any) -> None:
        resources = [
            Resource(getattr(value, "uid", None) or value.key, str(next(self.versions)), (), encode_address(value))
            for value in values
        ]
        self.apply(ADDRESS_TYPE, *resources)

    def policy(self, principal: str, action: PolicyAction = PolicyAction.ALLOW) -> None:
        match = Match(principals=(StringMatch(StringMatchKind.EXACT, principal),))
        policy = make_policy("rule", match, action=action)
        self.apply(AUTHORIZATION_TYPE, Resource(policy.key, str(next(self.versions)), (), encode_authorization(policy)))

    def admit(self) -> None:
        self.fast.admitted(self.serving, ConnectionFacts(CLIENT, self.client.identity, SERVER, FACTS_PORT))

    def dial_service(self) -> None:
        assert self.client.workload is not None
        upstream: Any = choose_upstream(self.state, self.client.workload, DIALLED, lambda: 0.0)
        self.fast.dialled_service(self.client, DIALLED, upstream)


@pytest.fixture
def mesh(maps: Any) -> Mesh:
    return Mesh(maps)


def test_an_admitted_connection_leaves_a_verdict(mesh: Mesh) -> None:
    mesh.admit()
    assert mesh.maps.valid(11, TARGET)
    assert len(mesh.maps.verdicts) == 1


@pytest.mark.parametrize("change", ["policy", "waypoint", "label", "client", "claimed", "gone", "stopped"])
def test_whatever_a_verdict_rests_on_voids_it_when_it_changes(mesh: Mesh, change: str) -> None:
    mesh.admit()
    match change:
        case "policy":
            mesh.policy("cluster.local/ns/default/sa/somebody")
        case "waypoint":
            from mesh.model.workload import GatewayAddress, NetworkAddress

            mesh.put(mesh.server(waypoint=GatewayAddress(NetworkAddress("", VIP))))
        case "label":
            mesh.put(mesh.server(canonical_name="other"))
        case "client":
            mesh.put(make_workload("client", "10.244.1.2", node="node1", canonical_name="other"))
        case "claimed":
            mesh.put(make_service("thief", "10.244.1.3"))
        case "gone":
            mesh.fast.pod_stopped(mesh.serving)
        case "stopped":
            mesh.fast.pod_stopped(mesh.client)
    assert not mesh.maps.valid(11, TARGET)
    assert mesh.maps.verdicts == {}


def test_a_connection_admitted_by_former_policies_leaves_none(mesh: Mesh) -> None:
    mesh.policy("cluster.local/ns/default/sa/somebody")
    mesh.admit()  # its delivery took so long
    assert mesh.maps.verdicts == {}


def test_a_change_that_concerns_others_changes_nothing(mesh: Mesh) -> None:
    mesh.admit()
    mesh.put(make_workload("third", "10.244.2.2", node="node2"))
    assert mesh.maps.valid(11, TARGET)


def test_a_service_is_drawn_from_by_its_weights_and_kept_current(mesh: Mesh) -> None:
    far = make_workload("far", "10.244.2.9", node="node2", services={SERVICE: {80: 8080}})
    mesh.put(make_service("echo", "10.96.0.9"), far)
    mesh.dial_service()
    slots = {TARGET, SocketAddress(parse_ip("10.244.2.9"), 8080)}
    if not mesh.maps.services:  # the far one was drawn: nothing to remember
        mesh.fast.dialled_service(mesh.client, DIALLED, mesh_route(mesh, TARGET))
    assert set(mesh.maps.services[11, DIALLED]) == slots
    mesh.apply(ADDRESS_TYPE, removed=(far.uid,))
    assert mesh.maps.services == {}
    mesh.dial_service()
    assert mesh.maps.services[11, DIALLED] == [TARGET]
    mesh.apply(ADDRESS_TYPE, removed=(SERVICE,))
    assert mesh.maps.services == {}


def mesh_route(mesh: Mesh, target: SocketAddress) -> Any:
    assert mesh.client.workload is not None
    return choose_upstream(mesh.state, mesh.client.workload, DIALLED, lambda: 0.0, target)


def test_full_maps_and_broken_ones_leave_the_slow_path(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    mesh.maps.room = False
    mesh.admit()
    assert mesh.maps.verdicts == {}
    mesh.maps.room = True
    mesh.admit()
    assert mesh.maps.valid(11, TARGET)

    def broken(*_: object) -> None:
        raise ConfigurationError("full")

    mesh.maps.stay_alive(3)
    monkeypatch.setattr(mesh.maps, "set_generation", broken)
    mesh.policy("cluster.local/ns/default/sa/somebody")
    assert mesh.maps.alive == 0


class Killer:
    killed: list[tuple[Any, int]]

    def __init__(self, namespace: Any) -> None:
        pass

    def __enter__(self) -> Killer:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def end(self, local: Any, remote: Any, cookie: int) -> bool:
        Killer.killed.append((local, cookie))
        return True


async def test_live_connections_that_are_denied_now_are_ended_and_recorded_so(
    mesh: Mesh, connection: Any, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    Killer.killed = []
    monkeypatch.setattr(manager_module, "SocketKiller", Killer)
    mesh.maps.now_live = [connection(1), connection(5, destination_netns=99)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mesh.fast.run)
        await trio.sleep(5)
        assert Killer.killed == []
        assert mesh.maps.alive >= 4
        mesh.policy("cluster.local/ns/default/sa/default", PolicyAction.DENY)
        await trio.sleep(0.05)
        assert {cookie for _, cookie in Killer.killed} == {1, 2}
        mesh.maps.now_live, mesh.maps.ended = [], [connection(1, closed_at=2_000_000_000)]
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert len(mesh.lines) == 2
    assert all("connection closed due to policy change" in line for line in mesh.lines)


async def test_another_ztunnel_adopts_what_it_finds(
    maps: Any, connection: Any, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    Killer.killed = []
    monkeypatch.setattr(manager_module, "SocketKiller", Killer)
    maps.now_live = [connection(1)]
    maps.ended = [connection(7, sent=3, closed_at=2_000_000_000)]
    mesh = Mesh(maps)
    mesh.fast.count_live()
    assert len(mesh.fast.records) == 1
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mesh.fast.run)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert Killer.killed == []
    assert sum("bytes_sent=3" in line for line in mesh.lines) == 1


def test_services_are_told_in_the_record(mesh: Mesh, connection: Any) -> None:
    mesh.put(make_service("echo", "10.96.0.9"))
    mesh.maps.ended = [connection(1, dialled=SocketAddress(VIP, 80))]
    mesh.fast.collect()
    assert 'dst.service="echo.default.svc.cluster.local"' in mesh.lines[0]
    assert ServiceLabels() != ServiceLabels("echo")


def test_dials_that_never_were_are_swept(mesh: Mesh, connection: Any) -> None:
    old = connection(1, source=SocketAddress(CLIENT, 0))
    mesh.maps.now_live = [old, connection(3, opened_at=10**12)]
    mesh.fast._sweep()
    assert mesh.maps.dropped == [1]


def test_a_stopping_ztunnel_leaves_no_new_verdict(mesh: Mesh) -> None:
    mesh.fast.stop()
    mesh.admit()
    assert mesh.maps.verdicts == {}
    assert mesh.maps.alive == 0


def successor(mesh: Mesh) -> Mesh:
    """Another ztunnel beside the first, with the same maps."""
    return Mesh(mesh.maps)


def test_a_stopping_ztunnel_leaves_its_successors_word_alone(mesh: Mesh) -> None:
    """It goes on to follow the mesh until it has drained, and to be told of pods that end; the maps are not its own."""
    mesh.fast.stop()
    other = successor(mesh)
    other.admit()
    assert mesh.maps.valid(11, TARGET)
    mesh.policy("spiffe://cluster.local/ns/default/sa/somebody")
    mesh.fast.pod_stopped(mesh.serving)
    assert mesh.maps.valid(11, TARGET)


async def test_a_predecessors_last_word_does_not_last(mesh: Mesh, autojump_clock: MockClock) -> None:
    """While both run, either may renew a pod's generation last; the one that stays says its own again."""
    other = successor(mesh)
    other.admit()
    mesh.fast.stop()
    mesh.maps.generations[12] = 1
    assert not other.maps.valid(11, TARGET)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(other.fast.run)
        await trio.sleep(2)
        assert other.maps.valid(11, TARGET)
        nursery.cancel_scope.cancel()
