"""Pods are served by every worker, and the agent is told the truth about it."""

from __future__ import annotations

import os
import socket
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import trio
import trio.testing
from prometheus_client import CollectorRegistry

from mesh.addresses import parse_ip
from mesh.errors import EnvironmentLacks, UnknownWorkload
from mesh.netns import NetworkNamespace
from mesh.telemetry.metrics import WorkloadManagerMetrics
from mesh.zds.codec import WorkloadInfo
from tests.descriptors import open_descriptors, settled_descriptors
from ztunnel.fanout.messages_codec import AddPod, Answer, AvoidPorts, DeletePod
from ztunnel.supervisor.pods import NodePods
from ztunnel.supervisor.worker_link import WorkerLink

INFO = WorkloadInfo("a", "demo", "account")


class Link(WorkerLink):
    """A worker that answers at once, as it is told to."""

    def __init__(self, number: int) -> None:
        nothing: Any = None
        super().__init__(number, nothing, nothing)
        self.told: list[Any] = []
        self.error = ""
        self.ports: list[int] = []
        self.silent = False

    def send(self, message: Any, descriptor: int | None = None) -> None:
        self.told.append(message)
        if isinstance(message, AddPod):
            assert descriptor is not None
            os.fstat(descriptor)  # open when it is sent
        if not self.silent and isinstance(message, AddPod | DeletePod):
            content = b"" if self.error else msgspec.msgpack.encode(self.ports)
            self.answered(Answer(number=message.number, error=self.error, content=content))


class Memory:
    """Of the fast path: who is served."""

    def __init__(self) -> None:
        self.pods: list[Any] = []

    def pod_started(self, pod: Any) -> None:
        self.pods.append(pod)

    def pod_stopped(self, pod: Any) -> None:
        self.pods.remove(pod)


class Bed:
    def __init__(self, nursery: trio.Nursery, links: int = 2) -> None:
        self.links = [Link(number) for number in range(links)]
        self.enrolled: dict[str, Any] = {}
        self.memory = Memory()
        self.registry = CollectorRegistry()
        crew: Any = SimpleNamespace(links=self.links, broadcast=self.broadcast)
        table: Any = SimpleNamespace(enrolled=lambda: self.enrolled)
        descriptions: Any = SimpleNamespace(follow=lambda _: None, forget=lambda _: None)
        memory: Any = self.memory
        self.pods = NodePods(
            crew, table, descriptions, memory, "cluster.local", WorkloadManagerMetrics(self.registry), nursery
        )

    def broadcast(self, message: Any) -> None:
        for link in self.links:
            link.send(message)

    def enrol(self, uid: str) -> NetworkNamespace:
        """This process's own namespace, as the agent would hand it over."""
        namespace = NetworkNamespace.open("/proc/self/ns/net")
        entry = SimpleNamespace(addresses=(parse_ip("10.0.0.1"),))
        self.enrolled[uid] = SimpleNamespace(cookie=namespace.cookie(), entry=entry)
        return namespace

    def told(self, kind: type) -> list[list[Any]]:
        return [[message for message in link.told if isinstance(message, kind)] for link in self.links]


async def test_every_worker_serves_a_pod_until_it_goes(nursery: trio.Nursery) -> None:
    before = settled_descriptors()
    bed = Bed(nursery)
    await bed.pods.add("u1", INFO, bed.enrol("u1"))
    assert [len(told) for told in bed.told(AddPod)] == [1, 1]
    order = bed.told(AddPod)[0][0]
    assert (order.uid, order.name, order.namespace, order.service_account) == ("u1", "a", "demo", "account")
    assert bed.pods.has_identity("spiffe://cluster.local/ns/demo/sa/account")
    assert not bed.pods.has_identity("spiffe://cluster.local/ns/demo/sa/other")
    (pod,) = bed.memory.pods
    assert bed.pods.by_cookie(pod.cookie) is pod
    assert bed.pods.by_cookie(1) is None
    await bed.pods.add("u1", INFO, bed.enrol("u1"))  # named again after a reconnect: nobody is disturbed
    await bed.pods.keep("u1")
    assert [len(told) for told in bed.told(AddPod)] == [1, 1]
    assert bed.registry.get_sample_value("workload_manager_active_proxy_count") == 1
    await bed.pods.delete("u1")
    await bed.pods.delete("u1")
    assert [len(told) for told in bed.told(DeletePod)] == [1, 1]
    assert bed.memory.pods == []
    assert len(bed.pods) == 0
    assert open_descriptors() == before


async def test_what_the_agent_does_not_name_goes(nursery: trio.Nursery) -> None:
    bed = Bed(nursery)
    await bed.pods.add("u1", INFO, bed.enrol("u1"))
    await bed.pods.add("u2", WorkloadInfo("b", "demo", "account"), bed.enrol("u2"))
    await bed.pods.snapshot_sent()
    assert bed.pods.snapshot_received
    bed.pods.disconnected()
    assert not bed.pods.connected
    await bed.pods.keep("u2")
    await bed.pods.snapshot_sent()
    assert [message.uid for message in bed.told(DeletePod)[0]] == ["u1"]
    with pytest.raises(UnknownWorkload):
        await bed.pods.keep("u1")


async def test_a_pod_replaced_under_its_uid_is_served_anew(nursery: trio.Nursery) -> None:
    bed = Bed(nursery)
    await bed.pods.add("u1", INFO, bed.enrol("u1"))
    await bed.pods.add("u1", WorkloadInfo("a", "demo", "another"), bed.enrol("u1"))
    assert [type(message) for message in bed.links[0].told] == [AddPod, DeletePod, AddPod]
    assert len(bed.memory.pods) == 1


async def test_the_agent_is_told_when_a_worker_cannot_and_the_pod_stays_entered(nursery: trio.Nursery) -> None:
    bed = Bed(nursery)
    bed.links[1].error = "out of descriptors"
    namespace = bed.enrol("u1")
    with pytest.raises(EnvironmentLacks, match="out of descriptors"):
        await bed.pods.add("u1", INFO, namespace)
    namespace.close()  # as the driver does after a failure
    assert bed.pods.pending == ["u1"]
    assert bed.registry.get_sample_value("workload_manager_pending_proxy_count") == 1
    bed.links[1].error = ""
    await bed.pods.add("u1", INFO, bed.enrol("u1"))
    assert bed.pods.pending == []
    assert [len(told) for told in bed.told(AddPod)] == [2, 2]


async def test_a_pod_that_is_not_enrolled_reaches_no_worker(nursery: trio.Nursery) -> None:
    bed = Bed(nursery)
    namespace = bed.enrol("u1")
    with namespace, pytest.raises(EnvironmentLacks, match="enrolled"):
        await bed.pods.add("u2", INFO, namespace)
    bed.enrolled["u1"].cookie += 1
    with bed.enrol("u3") as another, pytest.raises(EnvironmentLacks, match="enrolled"):
        await bed.pods.add("u1", INFO, another)
    bed.pods.draining = True
    with bed.enrol("u4") as late, pytest.raises(EnvironmentLacks, match="shutting down"):
        await bed.pods.add("u4", INFO, late)
    assert bed.told(AddPod) == [[], []]


async def test_without_a_worker_nothing_is_acknowledged_and_one_that_comes_gets_all(nursery: trio.Nursery) -> None:
    bed = Bed(nursery, links=0)
    with bed.enrol("u1") as namespace, pytest.raises(EnvironmentLacks, match="no worker"):
        await bed.pods.add("u1", INFO, namespace)
    link = Link(0)
    bed.links.append(link)
    await bed.pods.settle(link, bed.pods.replay(link))
    assert [message.uid for message in link.told] == ["u1"]
    assert bed.pods.pending == []


async def test_a_worker_that_dies_meanwhile_does_not_hold_the_others_up(nursery: trio.Nursery) -> None:
    bed = Bed(nursery)
    bed.links[0].silent = True
    async with trio.open_nursery() as adding:
        adding.start_soon(bed.pods.add, "u1", INFO, bed.enrol("u1"))
        await trio.testing.wait_all_tasks_blocked()
        bed.links[0].lose()
    assert bed.pods.pending == []


async def test_a_worker_that_does_not_answer(nursery: trio.Nursery, autojump_clock: trio.testing.MockClock) -> None:
    bed = Bed(nursery, links=3)
    bed.links[0].lose()
    bed.links[1].silent = True
    with bed.enrol("u1") as namespace, pytest.raises(EnvironmentLacks, match="worker 1 has not answered"):
        await bed.pods.add("u1", INFO, namespace)


async def test_ports_of_one_worker_are_avoided_by_all(nursery: trio.Nursery) -> None:
    bed = Bed(nursery)
    bed.links[1].ports = [40001]
    await bed.pods.add("u1", INFO, bed.enrol("u1"))
    assert [[message.ports for message in told] for told in bed.told(AvoidPorts)] == [[[40001]], [[40001]]]
    late = Link(2)
    bed.links.append(late)
    await bed.pods.settle(late, bed.pods.replay(late))
    assert [type(message) for message in late.told] == [AddPod, AvoidPorts]


def test_this_process_has_a_namespace_with_a_cookie() -> None:
    with NetworkNamespace.open("/proc/self/ns/net") as namespace, socket.socket():
        assert namespace.cookie() > 0
