"""The workers: started, listened to, and replaced when they die.

A worker that dies takes its own connections along and nobody else's: its sockets leave the kernel's map of listeners by
themselves, and the programs pass it over from the next SYN on. It is replaced after a short wait, which doubles while
it keeps dying young; each death is logged with its cause, counted, and shown by readiness until the new one serves.
One that gives no sign of life is killed, and then replaced like any other.
"""

from __future__ import annotations

import random
import signal
from typing import Final, Never, Protocol

import structlog
import trio
from prometheus_client import CollectorRegistry, Counter, Gauge

from mesh.backoff import Backoff
from mesh.errors import ConnectionLost, EnvironmentLacks, MeshError
from mesh.telemetry.metrics import L4Metrics
from ztunnel.fanout.channel_driver import Channel, channel_pair
from ztunnel.fanout.messages_codec import (
    Answer,
    Counts,
    Drain,
    ToSupervisor,
    ToWorker,
    decode_to_supervisor,
)
from ztunnel.supervisor.counts import WorkerCounts
from ztunnel.supervisor.spawner_driver import Spawner, kill
from ztunnel.supervisor.worker_link import WorkerLink

STEADY_SECONDS: Final = 60.0
"""A worker that lived so long is replaced at once when it dies."""
SILENT_SECONDS: Final = 15.0
"""Without a sign of life, of which there should be one a second."""
_CHECK_SECONDS: Final = 1.0
_BACKOFF: Final = Backoff(initial=0.1, maximum=30.0)

_log = structlog.get_logger("supervisor")


class Orders(Protocol):
    """What the crew's owner does for its workers."""

    async def joined(self, link: WorkerLink) -> None:
        """A worker is there: send it all it needs, at once and in order; return when it serves every pod it can."""

    def received(self, link: WorkerLink, message: ToSupervisor) -> None:
        """A worker said something that is not an answer and not a count."""


class Crew:
    """All workers of a node. ``run`` must be running."""

    def __init__(self, size: int, metrics: L4Metrics, registry: CollectorRegistry) -> None:
        self._size = size
        self._metrics = metrics
        self._links: dict[int, WorkerLink] = {}
        self._serving: set[int] = set()
        self._absent: dict[int, str] = dict.fromkeys(range(size), "starting")
        self._draining = trio.Event()
        self._all_gone = trio.Event()
        self._alive = Gauge("ztunnel_workers", "Worker processes that serve.", registry=registry)
        self._deaths = Counter(
            "ztunnel_worker_deaths", "Worker processes that ended unasked.", ["worker"], registry=registry
        )
        for number in range(size):
            self._deaths.labels(str(number))

    @property
    def links(self) -> list[WorkerLink]:
        """Workers that run now."""
        return list(self._links.values())

    def absent(self) -> list[str]:
        """Which workers do not serve, and why, in words."""
        return [f"worker {number}: {reason}" for number, reason in sorted(self._absent.items())]

    def broadcast(self, message: ToWorker, descriptor: int | None = None) -> None:
        """Tell all workers."""
        for link in self._links.values():
            link.send(message, descriptor)

    def ended(self, number: int, pid: int, status: int) -> None:
        """The spawner says that a worker is gone."""
        link = self._links.get(number)
        if link is not None and link.pid in (0, pid):  # 0: it died before we took note that it was born
            link.status = status
            link.ended.set()

    async def reports(self, what: str, seconds: float) -> dict[int, bytes]:
        """What each worker tells of itself, by its number; one that does not answer in time is left out."""
        found: dict[int, bytes] = {}

        async def ask(link: WorkerLink) -> None:
            try:
                found[link.number] = await link.report(what)
            except ConnectionLost:
                pass  # its place is empty, as if it had not been there

        with trio.move_on_after(seconds):
            async with trio.open_nursery() as nursery:
                for link in self.links:
                    nursery.start_soon(ask, link)
        return found

    async def run(self, spawner: Spawner, orders: Orders) -> None:
        """Keep all workers running, until they have drained."""
        async with trio.open_nursery() as nursery:
            for number in range(self._size):
                nursery.start_soon(self._keep, number, spawner, orders)
        self._all_gone.set()

    async def drain(self, seconds: float) -> None:
        """Have all workers drain and end; those that still run after so many seconds are killed."""
        self._draining.set()
        self.broadcast(Drain())
        with trio.move_on_after(seconds):
            await self._all_gone.wait()
        for link in self.links:
            _log.warning("worker killed, it has not ended in time", worker=link.number, pid=link.pid)
            kill(link.pid)
        with trio.move_on_after(_CHECK_SECONDS):
            await self._all_gone.wait()

    async def _keep(self, number: int, spawner: Spawner, orders: Orders) -> None:
        failures = 0
        while not self._draining.is_set():
            began = trio.current_time()
            try:
                reason = await self._employ(number, spawner, orders)
            except EnvironmentLacks as error:
                reason = str(error)
            if self._draining.is_set():
                break
            lived = trio.current_time() - began
            failures = 1 if lived >= STEADY_SECONDS else failures + 1
            delay = _BACKOFF.delay(failures, random.random())
            self._deaths.labels(str(number)).inc()
            self._absent[number] = f"{reason}, {failures} times in a row" if failures > 1 else reason
            _log.error(
                "worker died",
                worker=number,
                reason=reason,
                lived_seconds=round(lived, 1),
                in_a_row=failures,
                replaced_in_seconds=round(delay, 2),
            )
            with trio.move_on_after(delay):
                await self._draining.wait()

    async def _employ(self, number: int, spawner: Spawner, orders: Orders) -> str:
        """One worker, from its start to its end; says why it ended.

        Raises:
            EnvironmentLacks: it cannot be started.
        """
        ours, its = channel_pair()
        with Channel(ours) as channel:
            link = WorkerLink(number, channel, WorkerCounts(self._metrics))
            # Before it is forked, so that the spawner's word of its end finds it, and nothing it is told is lost.
            self._links[number] = link
            try:
                with its:
                    link.pid = await spawner.start(number, its)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(channel.run)
                    nursery.start_soon(self._listen, link, orders)
                    nursery.start_soon(self._join, link, orders)
                    nursery.start_soon(_watch, link)
                    await link.ended.wait()
                    nursery.cancel_scope.cancel()
            finally:
                del self._links[number]
                self._serving.discard(number)
                self._alive.set(len(self._serving))
                link.lose()
                lost = link.counts.end()
        reason = _described(link.status)
        if lost:
            _log.warning("connections ended with their worker", worker=number, connections=lost, reason=reason)
        return reason

    async def _join(self, link: WorkerLink, orders: Orders) -> None:
        try:
            await orders.joined(link)
        except ConnectionLost:
            return  # it has ended; whoever waits for that says so
        self._absent.pop(link.number, None)
        self._serving.add(link.number)
        self._alive.set(len(self._serving))
        _log.info("worker serves", worker=link.number, pid=link.pid)

    async def _listen(self, link: WorkerLink, orders: Orders) -> None:
        try:
            while True:
                data, descriptor = await link.channel.receive()
                if descriptor is not None:
                    raise ConnectionLost("a worker sent a descriptor")
                message = decode_to_supervisor(data)
                link.heard_at = trio.current_time()
                match message:
                    case Answer():
                        link.answered(message)
                    case Counts():
                        link.counts.add(message)
                    case _:
                        orders.received(link, message)
        except MeshError as error:
            link.lose()
            # Its channel ends with it, and that is heard a little earlier than the spawner's word.
            with trio.move_on_after(_CHECK_SECONDS):
                await link.ended.wait()
            if not link.ended.is_set() and not self._draining.is_set():
                _log.warning("worker cannot be heard, it is ended", worker=link.number, error=str(error))
                kill(link.pid)


async def _watch(link: WorkerLink) -> Never:
    while True:
        await trio.sleep(_CHECK_SECONDS)
        silent = trio.current_time() - link.heard_at
        if silent > SILENT_SECONDS:
            _log.error("worker gives no sign of life, it is ended", worker=link.number, pid=link.pid)
            kill(link.pid)
            link.heard_at = trio.current_time()


def _described(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"
