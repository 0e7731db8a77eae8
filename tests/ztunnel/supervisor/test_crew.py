"""Workers that die, hang, talk nonsense or do not stop."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import msgspec
import pytest
import trio
import trio.testing
from prometheus_client import CollectorRegistry

from mesh.errors import EnvironmentLacks
from mesh.telemetry.metrics import L4Metrics
from ztunnel.fanout.channel_driver import Channel
from ztunnel.fanout.messages_codec import (
    Answer,
    Certify,
    Counts,
    Drain,
    Report,
    Series,
    SetLevels,
    decode_to_worker,
    encode,
)
from ztunnel.supervisor import crew as crew_module
from ztunnel.supervisor.crew import SILENT_SECONDS, STEADY_SECONDS, Crew
from ztunnel.supervisor.worker_link import WorkerLink


class Workers:
    """Stands in for the spawner and for the workers it would fork: what they are told is kept."""

    def __init__(self) -> None:
        self.crew: Crew
        self.started: list[tuple[int, float]] = []
        self.channels: dict[int, Channel] = {}
        self.told: list[tuple[int, Any]] = []
        self.killed: list[int] = []
        self.refuse = False
        self.stillborn = False
        self.beat = True
        self.came = trio.Event()
        self.nursery: trio.Nursery

    async def start(self, number: int, channel: socket.socket) -> int:
        if self.refuse:
            raise EnvironmentLacks("no worker can be forked")
        pid = 1000 + len(self.started)
        self.started.append((number, trio.current_time()))
        self.channels[pid] = Channel(socket.socket(fileno=os.dup(channel.fileno())))
        self.came.set()
        if self.stillborn:
            self.die(pid)
        else:
            self.nursery.start_soon(self.live, number, pid)
        return pid

    async def live(self, number: int, pid: int) -> None:
        channel = self.channels[pid]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(channel.run)
            nursery.start_soon(self.count, channel)
            try:
                while True:
                    data, _ = await channel.receive()
                    message = decode_to_worker(data)
                    self.told.append((number, message))
                    if isinstance(message, Report) and message.what == "readiness":
                        content = msgspec.msgpack.encode([f"w{number}"])
                        channel.send(encode(Answer(number=message.number, content=content)))
            except Exception:
                nursery.cancel_scope.cancel()

    async def count(self, channel: Channel) -> None:
        while self.beat:
            channel.send(encode(Counts()))
            await trio.sleep(1)

    def die(self, pid: int, status: int = -9) -> None:
        self.channels.pop(pid).close()
        number = self.started[pid - 1000][0]
        self.crew.ended(number, pid, status)

    def kill(self, pid: int) -> None:
        self.killed.append(pid)
        self.die(pid)


class Orders:
    def __init__(self) -> None:
        self.received_: list[tuple[int, Any]] = []

    async def joined(self, link: WorkerLink) -> None:
        link.send(SetLevels(level="info", access=None))
        await link.report("readiness")

    def received(self, link: WorkerLink, message: Any) -> None:
        self.received_.append((link.number, message))


@asynccontextmanager
async def running(
    monkeypatch: pytest.MonkeyPatch, size: int = 2
) -> AsyncIterator[tuple[Crew, Workers, Orders, CollectorRegistry]]:
    registry = CollectorRegistry()
    workers, orders = Workers(), Orders()
    crew = workers.crew = Crew(size, L4Metrics(registry), registry)
    monkeypatch.setattr(crew_module, "kill", workers.kill)
    monkeypatch.setattr("random.random", lambda: 0.999)
    try:
        async with trio.open_nursery() as nursery:
            workers.nursery = nursery
            spawner: Any = workers
            nursery.start_soon(crew.run, spawner, orders)
            await trio.sleep(0.01)
            yield crew, workers, orders, registry
            nursery.cancel_scope.cancel()
    finally:
        for channel in workers.channels.values():
            channel.close()


def alive(registry: CollectorRegistry) -> float | None:
    return registry.get_sample_value("ztunnel_workers")


def deaths(registry: CollectorRegistry, worker: int) -> float | None:
    return registry.get_sample_value("ztunnel_worker_deaths_total", {"worker": str(worker)})


async def test_all_are_started_and_what_they_say_is_passed_on(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(monkeypatch) as (crew, workers, orders, registry):
        assert sorted(number for number, _ in workers.started) == [0, 1]
        assert alive(registry) == 2
        assert crew.absent() == []
        wanted = Certify(number=1, identity="x", request=b"")
        workers.channels[crew.links[1].pid].send(encode(wanted))
        await trio.sleep(0.01)
        assert orders.received_ == [(crew.links[1].number, wanted)]
        crew.broadcast(SetLevels(level="debug", access=None))
        await trio.sleep(0.01)
        told = [number for number, message in workers.told if message == SetLevels(level="debug", access=None)]
        assert sorted(told) == [0, 1]
        assert await crew.reports("readiness", 1) == {n: msgspec.msgpack.encode([f"w{n}"]) for n in (0, 1)}
        assert await crew.reports("dump", 1) == {}  # these workers do not answer that


async def test_one_that_keeps_dying_is_replaced_ever_later_and_that_is_told(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(monkeypatch) as (crew, workers, _, registry):
        other = next(link for link in crew.links if link.number == 1)
        for _ in range(6):
            link = next(link for link in crew.links if link.number == 0)
            workers.came = trio.Event()
            workers.die(link.pid)
            await trio.sleep(0.01)
            assert "killed by SIGKILL" in crew.absent()[0]
            assert alive(registry) == 1
            await workers.came.wait()
            await trio.sleep(0.01)
            assert crew.absent() == []
        moments = [moment for number, moment in workers.started if number == 0]
        waits = [later - earlier for earlier, later in pairwise(moments)]
        assert waits == sorted(waits)
        assert waits[-1] > 2
        assert deaths(registry, 0) == 6
        assert deaths(registry, 1) == 0
        assert other in crew.links  # untouched throughout
        # One that has lived for long is replaced at once.
        await trio.sleep(STEADY_SECONDS)
        workers.die(next(link for link in crew.links if link.number == 0).pid, status=1)
        await trio.sleep(0.02)
        assert crew.absent() == ["worker 0: ended with status 1"]
        await trio.sleep(0.12)
        assert crew.absent() == []


async def test_one_that_dies_as_it_is_born(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(monkeypatch, size=1) as (crew, workers, _, registry):
        workers.stillborn = True
        workers.die(1000)
        await trio.sleep(1)
        assert deaths(registry, 0) in (3, 4)
        workers.stillborn = False
        await trio.sleep(10)
        assert crew.absent() == []


async def test_a_machine_without_room_for_a_process(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(monkeypatch, size=1) as (crew, workers, _, registry):
        workers.refuse = True
        workers.die(crew.links[0].pid)
        await trio.sleep(2)
        assert "cannot" in crew.absent()[0] or "can be forked" in crew.absent()[0]
        assert crew.links == []
        workers.refuse = False
        await trio.sleep(30)
        assert crew.absent() == []
        assert alive(registry) == 1


async def test_one_that_hangs_is_ended_and_replaced(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(monkeypatch, size=1) as (crew, workers, _, registry):
        await trio.sleep(2 * SILENT_SECONDS)
        assert workers.killed == []
        workers.beat = False
        await trio.sleep(SILENT_SECONDS + 3)
        assert workers.killed == [1000]
        assert deaths(registry, 0) == 1
        assert crew.links[0].pid == 1001


async def test_one_that_talks_nonsense_is_ended_and_replaced(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(monkeypatch, size=1) as (_, workers, _, registry):
        workers.channels[1000].send(b"\xffnonsense")
        await trio.sleep(2)
        assert workers.killed == [1000]
        assert deaths(registry, 0) == 1


async def test_what_a_dead_worker_had_open_is_closed_for_it(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(monkeypatch, size=1) as (crew, workers, _, registry):
        labels = ("source", ("a",) * 8, ("b",) * 8, ("c",) * 3, True)
        counts = Counts(labels={1: labels}, series=[Series(1, 5, 2, 10, 20, {"DENY": 1})], sockets=(3, 0))
        workers.channels[1000].send(encode(counts))
        await trio.sleep(0.01)
        waiting = crew.links[0]
        assert registry.get_sample_value("istio_tcp_sockets_open", {"reporter": "source"}) == 3
        async with trio.open_nursery() as nursery:
            nursery.start_soon(crew.reports, "dump", 60)  # must not wait for one that is gone
            await trio.sleep(0.01)
            workers.die(1000)
            before = trio.current_time()
        assert trio.current_time() - before < 10
        await trio.sleep(0.01)
        assert waiting not in crew.links
        assert registry.get_sample_value("istio_tcp_sockets_open", {"reporter": "source"}) == 0


async def test_draining_waits_for_all_and_kills_who_does_not_end(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(monkeypatch) as (crew, workers, _, registry):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(crew.drain, 5)
            await trio.sleep(1)
            assert sorted(number for number, message in workers.told if message == Drain()) == [0, 1]
            workers.die(1000, status=0)
        assert workers.killed == [1001]
        assert deaths(registry, 0) == 0  # they were asked to
        assert len(workers.started) == 2


async def test_draining_does_not_wait_for_a_worker_that_was_to_come(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(monkeypatch, size=1) as (crew, workers, _, _):
        workers.refuse = True
        workers.die(1000)
        await trio.sleep(20)
        before = trio.current_time()
        await crew.drain(60)
        assert trio.current_time() - before < 1
