"""The pods of the node, handed to every worker.

An order of the agent's is acknowledged once every worker that runs has carried it out, and at least one has; a worker
that is being replaced gets all pods when it comes. What a worker could not do it tries again by itself.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import msgspec
import structlog
import trio

from ebpf.pods import PodTable
from mesh.errors import ConnectionLost, EnvironmentLacks, UnknownWorkload
from mesh.netns import NetworkNamespace
from mesh.telemetry.metrics import WorkloadManagerMetrics
from mesh.zds.codec import WorkloadInfo
from ztunnel.fanout.messages_codec import AddPod, Answer, AvoidPorts, DeletePod
from ztunnel.fastpath.contract import FastPathMemory
from ztunnel.pod import Pod, PodTasks
from ztunnel.proxy.descriptions import Descriptions
from ztunnel.supervisor.crew import Crew
from ztunnel.supervisor.worker_link import Expected, WorkerLink

ANSWER_SECONDS = 10.0
"""For the workers to open a pod's listeners, or to close them."""

_log = structlog.get_logger("inpod")
_ports = msgspec.msgpack.Decoder(list[int])


class _NoRelay:
    """There is no relay in this process that would have to give trio its turn."""

    def hand_over(self) -> None:
        """Nothing to do."""


@dataclass(slots=True)
class _Entry:
    pod: Pod
    ports: set[int] = field(default_factory=set)
    """That workers listen on in the pod, beside the usual."""
    served: bool = False
    """Whether every worker that was asked said so."""


class NodePods:
    """Has pods served as the agent says (``mesh.zds.client_driver.ZdsHandler``)."""

    def __init__(
        self,
        crew: Crew,
        table: PodTable,
        descriptions: Descriptions,
        fast_path: FastPathMemory | None,
        trust_domain: str,
        metrics: WorkloadManagerMetrics,
        nursery: trio.Nursery,
    ) -> None:
        self._crew = crew
        self._table = table
        self._descriptions = descriptions
        self._fast_path = fast_path
        self._trust_domain = trust_domain
        self._metrics = metrics
        self._nursery = nursery
        self._entries: dict[str, _Entry] = {}
        self._named: set[str] = set()
        self.draining = False
        self.snapshot_received = False
        """Whether the agent has named all its pods since ztunnel started."""
        self.connected = False
        """Whether the agent is there."""

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def pending(self) -> list[str]:
        """Uids of pods that some worker could not serve, when it was last asked."""
        return [uid for uid, entry in self._entries.items() if not entry.served]

    def by_cookie(self, cookie: int) -> Pod | None:
        """The pod with this network namespace."""
        return next((entry.pod for entry in self._entries.values() if entry.pod.cookie == cookie), None)

    def has_identity(self, identity: str) -> bool:
        """Whether a pod of the node has this identity."""
        return any(str(entry.pod.identity) == identity for entry in self._entries.values())

    # -- mesh.zds.client_driver.ZdsHandler -----------------------------------------------------------------------------

    async def add(self, uid: str, info: WorkloadInfo, namespace: NetworkNamespace) -> None:
        """Have a pod served; one that is served already is left alone."""
        self.connected = True
        self._named.add(uid)
        entry = self._entries.get(uid)
        if entry is not None and (entry.pod.cookie != namespace.cookie() or entry.pod.info != info):
            await self.delete(uid)  # the same pod in a new namespace: its sandbox was replaced
            entry = None
        if entry is None:
            entry = self._enter(uid, info, namespace)
        if not entry.served:
            await self._settle(uid, entry, [self._order(link, uid, entry) for link in self._crew.links])
        namespace.close()

    async def keep(self, uid: str) -> None:
        """Go on serving a pod."""
        self.connected = True
        self._named.add(uid)
        if uid not in self._entries:
            raise UnknownWorkload(f"pod {uid} is not being served: send its network namespace")

    async def delete(self, uid: str) -> None:
        """Stop serving a pod."""
        entry = self._entries.pop(uid, None)
        if entry is None:
            return
        pod = entry.pod
        if self._fast_path is not None:
            self._fast_path.pod_stopped(pod)
        self._descriptions.forget(pod)
        pod.tasks.stop()
        pod.namespace.close()
        self._metrics.stopped.inc()
        self._metrics.active.set(len(self._entries))
        _log.info("no longer serving pod", pod=pod.name, uid=uid)
        expected = []
        for link in self._crew.links:
            number = link.next_number()
            expected.append((link, link.expect(number)))
            link.send(DeletePod(number=number, uid=uid))
        await _answers(expected)

    async def snapshot_sent(self) -> None:
        """Drop what the agent has not named."""
        for uid in [uid for uid in self._entries if uid not in self._named]:
            await self.delete(uid)
        self._named.clear()
        self.snapshot_received = True
        self.connected = True
        _log.info("agent has named its pods", serving=len(self._entries), pending=len(self.pending))

    def disconnected(self) -> None:
        """Serve what we have."""
        self.connected = False
        self._named.clear()

    # -- workers -------------------------------------------------------------------------------------------------------

    def replay(self, link: WorkerLink) -> list[tuple[str, _Entry, Expected]]:
        """Have one worker serve all pods; what it will answer."""
        return [(uid, entry, self._order(link, uid, entry)[1]) for uid, entry in self._entries.items()]

    async def settle(self, link: WorkerLink, replayed: list[tuple[str, _Entry, Expected]]) -> None:
        """Wait until the worker has answered for all pods.

        Raises:
            ConnectionLost: it has ended.
        """
        for uid, entry, expected in replayed:
            answer = await expected.answer()
            if answer.error:
                _log.error("pod cannot be served yet", pod=entry.pod.name, worker=link.number, error=answer.error)
            else:
                entry.served = True
                self._avoid(uid, entry, answer)
        self._metrics.pending.set(len(self.pending))

    def _enter(self, uid: str, info: WorkloadInfo, namespace: NetworkNamespace) -> _Entry:
        if self.draining:
            raise EnvironmentLacks("this ztunnel is shutting down")
        enrolled = self._table.enrolled().get(uid)
        if enrolled is None or enrolled.cookie != namespace.cookie():
            raise EnvironmentLacks(f"the agent has not enrolled pod {info.namespace}/{info.name} in the kernel's maps")
        tasks = PodTasks(self._nursery, _NoRelay())
        # A namespace of our own: the driver closes the given one if this order fails, and the pod stays entered.
        pod = Pod(uid, info, _duplicate(namespace), enrolled.entry.addresses, self._trust_domain, tasks)
        entry = self._entries[uid] = _Entry(pod)
        self._descriptions.follow(pod)
        if self._fast_path is not None:
            self._fast_path.pod_started(pod)
        self._metrics.started.inc()
        self._metrics.active.set(len(self._entries))
        _log.info("serving pod", pod=pod.name, uid=uid, identity=str(pod.identity))
        return entry

    def _order(self, link: WorkerLink, uid: str, entry: _Entry) -> tuple[WorkerLink, Expected]:
        info, number = entry.pod.info, link.next_number()
        expected = link.expect(number)
        order = AddPod(
            number=number, uid=uid, name=info.name, namespace=info.namespace, service_account=info.service_account
        )
        link.send(order, entry.pod.namespace.fd)
        if entry.ports:
            link.send(AvoidPorts(uid=uid, ports=sorted(entry.ports)))
        return link, expected

    async def _settle(self, uid: str, entry: _Entry, asked: list[tuple[WorkerLink, Expected]]) -> None:
        """Wait for the answers to an order.

        Raises:
            EnvironmentLacks: a worker could not, or there is none.
        """
        answers = await _answers(asked)
        for answer in answers:
            if not answer.error:
                self._avoid(uid, entry, answer)
        errors = [answer.error for answer in answers if answer.error]
        if not answers:
            errors = ["no worker of ztunnel answers; one is being started"]
        entry.served = not errors
        self._metrics.pending.set(len(self.pending))
        if errors:
            _log.error("pod cannot be served yet", pod=entry.pod.name, uid=uid, error=errors[0])
            raise EnvironmentLacks(errors[0])

    def _avoid(self, uid: str, entry: _Entry, answer: Answer) -> None:
        """What one worker listens on, beside the usual, is nothing that another may deliver to."""
        ports = set(_ports.decode(answer.content))
        if not ports <= entry.ports:
            entry.ports |= ports
            self._crew.broadcast(AvoidPorts(uid=uid, ports=sorted(entry.ports)))


async def _answers(asked: list[tuple[WorkerLink, Expected]]) -> list[Answer]:
    """What was answered in time, by workers that live."""
    answers: list[Answer] = []
    awaited = 0
    with trio.move_on_after(ANSWER_SECONDS) as scope:
        for link, expected in asked:
            awaited = link.number
            try:
                answers.append(await expected.answer())
            except ConnectionLost:
                continue
    if scope.cancelled_caught:
        answers.append(Answer(number=0, error=f"worker {awaited} has not answered in {ANSWER_SECONDS:g} s"))
    return answers


def _duplicate(namespace: NetworkNamespace) -> NetworkNamespace:
    try:
        return NetworkNamespace.from_fd(os.dup(namespace.fd))
    except OSError as error:
        raise EnvironmentLacks(f"no descriptor for a pod's network namespace: {error.strerror}") from error
