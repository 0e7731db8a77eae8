from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing
from prometheus_client import CollectorRegistry

from ebpf.pods import EnrolledPod, PodEntry
from mesh.addresses import parse_ip
from mesh.errors import EnvironmentLacks, UnknownWorkload
from mesh.identity import SpiffeId
from mesh.relay.engine import Engine
from mesh.telemetry.metrics import WorkloadManagerMetrics
from mesh.zds.codec import WorkloadInfo
from ztunnel.inpod import manager as manager_module
from ztunnel.inpod.manager import RETRY_SECONDS, PodManager
from ztunnel.pod import Pod

INFO = WorkloadInfo("web", "demo", "web")


class FakeNamespace:
    """A descriptor and a cookie."""

    def __init__(self, cookie: int) -> None:
        self.fd = os.open("/dev/null", os.O_RDONLY)
        self._cookie = cookie

    def cookie(self) -> int:
        return self._cookie

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    @classmethod
    def from_fd(cls, fd: int) -> FakeNamespace:
        made = cls(1)
        os.close(made.fd)
        made.fd = fd
        return made


class FakeServer:
    """Stands in for a pod's listeners."""

    failure: Exception | None = None
    made: list[FakeServer]

    def __init__(self, pod: Pod, proxies: Any) -> None:
        if self.failure is not None:
            raise self.failure
        self.pod = pod
        self.idle = False
        self.calls: list[str] = []
        self.made.append(self)

    def tick(self, now: float) -> None:
        self.calls.append("tick")

    def drain(self) -> None:
        self.calls.append("drain")

    def close(self) -> None:
        self.calls.append("close")
        self.pod.namespace.close()

    def renewed(self) -> None:
        self.calls.append("renewed")


@dataclass
class Parts:
    """What a manager works with."""

    enrolments: dict[str, EnrolledPod] = field(default_factory=dict)
    followed: list[Pod] = field(default_factory=list)
    identities: list[SpiffeId] = field(default_factory=list)
    renewed: Any = None

    # PodTable
    def enrolled(self) -> dict[str, EnrolledPod]:
        return self.enrolments

    # Descriptions
    def follow(self, pod: Pod) -> None:
        self.followed.append(pod)

    # Descriptions and IdentityManager
    def forget(self, what: Any) -> None:
        if isinstance(what, Pod):
            self.followed.remove(what)
        else:
            self.identities.remove(what)

    # IdentityManager
    def prefetch(self, identity: SpiffeId) -> None:
        self.identities.append(identity)

    def subscribe(self, renewed: Any) -> None:
        self.renewed = renewed

    def enrol(self, uid: str, cookie: int) -> None:
        self.enrolments[uid] = EnrolledPod(cookie, 1, PodEntry((parse_ip("10.0.0.1"),)))


@asynccontextmanager
async def managed(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[PodManager, Parts, CollectorRegistry]]:
    FakeServer.made = []
    FakeServer.failure = None
    monkeypatch.setattr(manager_module, "PodServer", FakeServer)
    monkeypatch.setattr(manager_module, "NetworkNamespace", FakeNamespace)
    engine = Engine()
    parts: Any = Parts()
    registry = CollectorRegistry()
    proxies: Any = SimpleNamespace(engine=engine, fast_path=None)
    async with trio.open_nursery() as nursery:
        manager = PodManager(
            proxies, parts, parts, parts, "cluster.local", WorkloadManagerMetrics(registry), nursery
        )
        yield manager, parts, registry
        manager.close()
        nursery.cancel_scope.cancel()
    engine.close()
    assert parts.followed == []


def value(registry: CollectorRegistry, name: str) -> float | None:
    return registry.get_sample_value(f"workload_manager_{name}")


async def add(manager: PodManager, uid: str = "u1", cookie: int = 1, info: WorkloadInfo = INFO) -> FakeNamespace:
    namespace: Any = FakeNamespace(cookie)
    try:
        await manager.add(uid, info, namespace)
    except BaseException:
        namespace.close()  # as the driver does
        raise
    made: FakeNamespace = namespace
    return made


async def test_a_pod_comes_stays_and_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    async with managed(monkeypatch) as (manager, parts, registry):
        parts.enrol("u1", 1)
        namespace = await add(manager)
        assert [server.pod.name for server in manager.serving] == ["demo/web"]
        assert parts.identities == [SpiffeId("cluster.local", "demo", "web")]
        await manager.keep("u1")
        again = await add(manager)
        assert again.fd == -1  # not needed
        assert len(FakeServer.made) == 1
        assert value(registry, "active_proxy_count") == 1
        await manager.delete("u1")
        await manager.delete("u1")
        (server,) = FakeServer.made
        assert server.calls == ["drain"]
        manager.tick(1)  # a connection goes on
        assert "close" not in server.calls
        assert parts.followed == [server.pod]
        server.idle = True
        manager.tick(2)
        assert server.calls[-1] == "close"
        assert namespace.fd == -1
        assert parts.followed == []
        assert parts.identities == []
        assert value(registry, "active_proxy_count") == 0
        assert value(registry, "proxies_started_total") == value(registry, "proxies_stopped_total") == 1


async def test_a_sandbox_that_was_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    async with managed(monkeypatch) as (manager, parts, _):
        parts.enrol("u1", 1)
        await add(manager)
        parts.enrol("u1", 2)
        await add(manager, cookie=2)
        old, new = FakeServer.made
        assert old.calls == ["drain"]
        assert [server.pod for server in manager.serving] == [new.pod]
        old.idle = True
        manager.tick(1)
        assert old.calls[-1] == "close"
        assert parts.followed == [new.pod]
        assert parts.identities == [new.pod.identity]


async def test_a_pod_that_became_another_account(monkeypatch: pytest.MonkeyPatch) -> None:
    async with managed(monkeypatch) as (manager, parts, _):
        parts.enrol("u1", 1)
        await add(manager)
        await add(manager, info=WorkloadInfo("web", "demo", "other"))
        assert [str(one) for one in parts.identities] == ["spiffe://cluster.local/ns/demo/sa/other"]


async def test_a_namespace_the_agent_has_not_enrolled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Serving it would listen in a namespace that is somebody else's."""
    async with managed(monkeypatch) as (manager, parts, _):
        with pytest.raises(EnvironmentLacks, match="has not enrolled"):
            await add(manager)
        parts.enrol("u1", 7)
        with pytest.raises(EnvironmentLacks, match="has not enrolled"):
            await add(manager, cookie=1)
        assert manager.serving == []


@pytest.mark.parametrize("failure", [EnvironmentLacks("the port is taken"), OSError(24, "Too many open files")])
async def test_what_cannot_be_served_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock, failure: Exception
) -> None:
    async with managed(monkeypatch) as (manager, parts, registry), trio.open_nursery() as nursery:
        parts.enrol("u1", 1)
        FakeServer.failure = failure
        for _ in range(2):
            with pytest.raises(EnvironmentLacks):
                await add(manager)
        assert manager.pending == ["u1"]
        assert value(registry, "pending_proxy_count") == 1
        with pytest.raises(UnknownWorkload):
            await manager.keep("u1")
        nursery.start_soon(manager.retry_pending)
        await trio.sleep(RETRY_SECONDS * 1.5)
        assert manager.pending == ["u1"]
        FakeServer.failure = None
        await trio.sleep(RETRY_SECONDS)
        assert manager.pending == []
        assert len(manager.serving) == 1
        assert manager.serving[0].pod.namespace.fd >= 0
        assert value(registry, "pending_proxy_count") == 0
        nursery.cancel_scope.cancel()


async def test_a_pending_pod_that_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    async with managed(monkeypatch) as (manager, _, __):
        with pytest.raises(EnvironmentLacks):
            await add(manager)
        await manager.delete("u1")
        assert manager.pending == []


async def test_a_snapshot_drops_what_it_does_not_name(monkeypatch: pytest.MonkeyPatch) -> None:
    async with managed(monkeypatch) as (manager, parts, _):
        for number in (1, 2, 3):
            parts.enrol(f"u{number}", number)
            await add(manager, f"u{number}", number)
        with pytest.raises(EnvironmentLacks):
            await add(manager, "u4", 4)
        assert not manager.snapshot_received
        await manager.snapshot_sent()
        assert manager.snapshot_received
        assert len(manager.serving) == 3
        manager.disconnected()
        assert not manager.connected
        assert len(manager.serving) == 3  # served on while the agent is away
        await manager.keep("u1")
        manager.disconnected()  # it broke off in the middle
        await manager.keep("u2")
        await manager.snapshot_sent()
        assert [server.pod.uid for server in manager.serving] == ["u2"]
        assert manager.pending == []
        assert manager.connected


async def test_renewals_reach_the_pods_of_that_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    async with managed(monkeypatch) as (manager, parts, _):
        parts.enrol("u1", 1)
        await add(manager)
        parts.renewed(SimpleNamespace(identity=SpiffeId("cluster.local", "demo", "other")))
        assert FakeServer.made[0].calls == []
        parts.renewed(SimpleNamespace(identity=SpiffeId("cluster.local", "demo", "web")))
        assert FakeServer.made[0].calls == ["renewed"]


async def test_draining_takes_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    async with managed(monkeypatch) as (manager, parts, _):
        parts.enrol("u1", 1)
        parts.enrol("u2", 2)
        await add(manager)
        manager.drain()
        assert FakeServer.made[0].calls == ["drain"]
        with pytest.raises(EnvironmentLacks, match="shutting down"):
            await add(manager, "u2", 2)
        manager.close()
        assert FakeServer.made[0].calls[-1] == "close"
        assert manager.pending == []
