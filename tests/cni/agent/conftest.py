"""A node on paper for attachments, enroller and reconciler: no privilege, every order of events."""

import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Never

import pytest
import trio

from cni.agent.attachments import Attachments
from cni.agent.captures import Captures
from cni.agent.enroller import Enroller
from cni.agent.namespace_finder import NamespaceUnknown, WrongNamespace
from cni.agent.pod_source import PodSource
from cni.agent.reconciler import Reconciler
from cni.agent.sandboxes import Sandbox, SandboxRegister
from cni.enrolment import EnrolmentRules
from cni.pod import NodeView, PodFacts
from cni.protocol_codec import Command, PluginRequest, PodArguments
from ebpf.pods import EnrolledPod, PodEntry
from mesh.addresses import IpBytes, parse_ip
from mesh.errors import EnvironmentLacks
from mesh.netns import NetworkNamespace
from mesh.zds.codec import WorkloadInfo

IN = {"istio.io/dataplane-mode": "ambient"}
REDIRECTION = "ambient.istio.io/redirection"
IP = parse_ip("10.244.1.7")


class PaperNamespace(NetworkNamespace):
    """Has a cookie without a privilege."""

    number = 0

    def cookie(self) -> int:
        return self.number


class PaperNode(PodSource):
    """Source, kernel, ztunnel and namespaces of one node; every act is noted in order."""

    def __init__(self) -> None:
        self.acts: list[tuple[Any, ...]] = []
        self.told: list[tuple[str, str]] = []
        self._view = NodeView(serial=1, complete=True)
        self._newer = trio.Event()
        self.kernel: dict[str, EnrolledPod] = {}
        self.ztunnel_failure: Exception | None = None
        self.annotation_failure: Exception | None = None
        self.held: dict[int, set[IpBytes]] = {}
        self.paths: dict[str, int] = {}
        self.processes: dict[str, int] = {}
        self.opened: list[PaperNamespace] = []

    # -- source
    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> Never:
        raise AssertionError("the paper node's source needs no task")

    @property
    def view(self) -> NodeView:
        return self._view

    async def changed(self, after_serial: int) -> NodeView:
        while self._view.serial <= after_serial:
            await self._newer.wait()
        return self._view

    def show(self, *pods: PodFacts, labels: dict[str, str] | None = None, complete: bool = True) -> None:
        self._view = NodeView(
            serial=self._view.serial + 1,
            complete=complete,
            pods={pod.key: pod for pod in pods},
            namespaces={"shop": IN if labels is None else labels},
        )
        self._newer.set()
        self._newer = trio.Event()

    def tell_failure(self, pod: PodFacts, reason: str) -> None:
        self.told.append((pod.uid, reason))

    def tell_node(self, reason: str, note: str) -> None:
        raise AssertionError("nothing is installed on the paper node")

    async def annotate(self, pod: PodFacts, annotation: str, value: str | None) -> None:
        await trio.lowlevel.checkpoint()
        if self.annotation_failure is not None:
            raise self.annotation_failure
        assert annotation == REDIRECTION
        self.acts.append(("annotate", pod.uid, value))
        current = self._view.pods.get(pod.key)
        if current is not None:
            annotations = dict(current.annotations)
            annotations.pop(annotation, None)
            if value is not None:
                annotations[annotation] = value
            others = [entry for entry in self._view.pods.values() if entry.key != pod.key]
            changed = a_pod(current.uid, annotations=annotations, labels=current.labels, addresses=current.addresses)
            self.show(*others, changed, labels=dict(self._view.namespaces["shop"]))

    # -- kernel
    def enrolled(self) -> dict[str, EnrolledPod]:
        return dict(self.kernel)

    def enrol(self, cookie: int, entry: PodEntry, namespace: NetworkNamespace, uid: str) -> None:
        assert namespace.cookie() == cookie
        self.acts.append(("capture", uid, cookie))
        self.kernel[uid] = EnrolledPod(cookie, 1, entry)

    def unenrol(self, uid: str) -> None:
        if self.kernel.pop(uid, None) is not None:
            self.acts.append(("release", uid))

    # -- ztunnel
    async def add(self, uid: str, info: WorkloadInfo, namespace: NetworkNamespace) -> None:
        await trio.lowlevel.checkpoint()
        assert os.fstat(namespace.fd)
        if self.ztunnel_failure is not None:
            raise self.ztunnel_failure
        self.acts.append(("serve", uid, info.namespace, info.name, info.service_account))

    async def delete(self, uid: str) -> None:
        await trio.lowlevel.checkpoint()
        self.acts.append(("drop", uid))

    # -- namespaces
    def open_number(self, number: int) -> NetworkNamespace:
        namespace = PaperNamespace.open("/proc/self/ns/net")
        namespace.number = number
        self.opened.append(namespace)
        return namespace

    async def at_path(self, path: str) -> NetworkNamespace:
        if path not in self.paths:
            raise EnvironmentLacks(f"{path} is not there")
        return self.open_number(self.paths[path])

    async def of_sandbox(self, sandbox: Sandbox) -> NetworkNamespace | None:
        found = self.paths.get(sandbox.netns)
        return self.open_number(found) if found == sandbox.cookie else None

    async def of_processes(self, pod: PodFacts) -> NetworkNamespace:
        if pod.uid not in self.processes:
            raise NamespaceUnknown(f"no process of {pod.key}")
        return self.open_number(self.processes[pod.uid])

    async def verify(self, namespace: NetworkNamespace, addresses: Sequence[IpBytes], owner: str) -> None:
        await trio.lowlevel.checkpoint()
        if not addresses or not set(addresses) <= self.held.get(namespace.cookie(), set()):
            raise WrongNamespace(f"not the namespace of {owner}")

    def all_closed(self) -> bool:
        return all(namespace._fd < 0 for namespace in self.opened)


def a_pod(uid: str = "u1", **changes: object) -> PodFacts:
    facts = {"uid": uid, "namespace": "shop", "name": f"pod-{uid}", "service_account": "client", "addresses": (IP,)}
    return PodFacts(**(facts | changes))  # type: ignore[arg-type]


class Agent:
    """The parts under test on a paper node."""

    def __init__(self, node: PaperNode, folder: Path) -> None:
        self.node = node
        self.sandboxes = SandboxRegister(folder)
        self.enroller = Enroller(Captures(node), node, node, node, self.sandboxes)
        rules = EnrolmentRules()
        self.attachments = Attachments(node, rules, self.enroller, node, self.sandboxes, pod_wait_seconds=0.2)
        self.ended: list[tuple[str, bool]] = []
        self.reconciler = Reconciler(node, rules, self.enroller, self.sandboxes, ended=self._note)

    def _note(self, step: str, succeeded: bool) -> None:
        self.ended.append((step, succeeded))

    @asynccontextmanager
    async def reconciling(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.reconciler.run)
            yield
            nursery.cancel_scope.cancel()


@pytest.fixture
def node() -> PaperNode:
    made = PaperNode()
    made.paths["/run/netns/a"] = 11
    made.held[11] = {IP}
    return made


@pytest.fixture
def agent(node: PaperNode, tmp_path: Path) -> Agent:
    return Agent(node, tmp_path)


def request(command: Command = Command.ADD, **changes: Any) -> PluginRequest:
    facts: dict[str, Any] = {
        "command": command,
        "version": "1.0.0",
        "container_id": "c1",
        "netns": "/run/netns/a",
        "interface": "eth0",
        "pod": PodArguments(namespace="shop", name="pod-u1", uid="u1"),
        "previous_result": b"{}",
        "addresses": (IP,),
    }
    return PluginRequest(**(facts | changes))


async def settled(node: PaperNode, condition: Callable[[], bool]) -> None:
    with trio.fail_after(20):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await trio.sleep(0.002)
        # What belongs to it may still be under way; then nothing more happens.
        acts = None
        while acts != node.acts:
            acts = list(node.acts)
            await trio.sleep(0.05)
    assert condition(), f"it was so, but did not stay so: {node.acts}"
    assert node.all_closed()


@pytest.fixture
def kit() -> SimpleNamespace:
    """The helpers of this folder: test folders are no packages, so they cannot be imported."""
    return SimpleNamespace(a_pod=a_pod, request=request, settled=settled, Agent=Agent)
