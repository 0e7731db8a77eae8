"""Attachments, enroller and reconciler against a node on paper: no privilege, every order of events."""

import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Never

import pytest
import trio

from cni.agent import reconciler
from cni.agent.attachments import Attachments
from cni.agent.captures import Captures
from cni.agent.enroller import Enroller
from cni.agent.namespace_finder import NamespaceUnknown, WrongNamespace
from cni.agent.pod_source import PodSource
from cni.agent.reconciler import Reconciler
from cni.agent.sandboxes import Sandbox, SandboxRegister
from cni.enrolment import EnrolmentRules
from cni.pod import NodeView, PodFacts
from cni.protocol_codec import CniCode, CniFailure, Command, PluginRequest, PodArguments
from ebpf.pods import EnrolledPod, Exclusions, PodEntry
from mesh.addresses import IpBytes, parse_ip
from mesh.errors import EnvironmentLacks
from mesh.netns import NetworkNamespace
from mesh.zds.codec import WorkloadInfo
from mesh.zds.server_driver import ZtunnelAway, ZtunnelRefused

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
    with trio.fail_after(3):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await trio.sleep(0.002)
    # And nothing more happens.
    acts = list(node.acts)
    await trio.sleep(0.05)
    assert node.acts == acts
    assert node.all_closed()


# -- the CNI plugin's requests ----------------------------------------------------------------------------------------


async def test_add_captures_then_serves_then_annotates(agent: Agent, node: PaperNode) -> None:
    node.show(a_pod(addresses=()))
    await agent.attachments.add(request())
    assert node.acts == [
        ("capture", "u1", 11),
        ("serve", "u1", "shop", "pod-u1", "client"),
        ("annotate", "u1", "enabled"),
    ]
    assert agent.sandboxes.find("u1") is not None
    assert node.all_closed()
    await agent.attachments.check(request(Command.CHECK))


async def test_add_of_a_pod_outside_the_mesh_remembers_its_sandbox_only(agent: Agent, node: PaperNode) -> None:
    node.show(a_pod(addresses=()), labels={})
    await agent.attachments.add(request())
    assert node.acts == []
    sandbox = agent.sandboxes.find("u1")
    assert sandbox is not None
    assert (sandbox.netns, sandbox.container_id, sandbox.cookie) == ("/run/netns/a", "c1", 11)


async def test_what_is_no_pod_of_ours_passes_without_a_look(agent: Agent, node: PaperNode) -> None:
    await agent.attachments.add(request(pod=None))
    await agent.attachments.add(request(pod=PodArguments(namespace="kube-system", name="dns", uid="")))
    assert node.acts == []
    assert list(agent.sandboxes.items()) == []


async def test_add_waits_for_the_source_and_fails_closed(agent: Agent, node: PaperNode) -> None:
    with pytest.raises(CniFailure, match="did not appear") as raised:
        await agent.attachments.add(request())
    assert raised.value.code is CniCode.TRY_AGAIN_LATER
    async with trio.open_nursery() as nursery:
        nursery.start_soon(agent.attachments.add, request())
        await trio.sleep(0.02)
        node.show(a_pod("an-earlier-one", name="pod-u1"))
        await trio.sleep(0.02)
        node.show(a_pod(ended=True))
        await trio.sleep(0.02)
        assert node.acts == []
        node.show(a_pod())
    assert node.acts[0] == ("capture", "u1", 11)


@pytest.mark.parametrize("failure", [ZtunnelAway("ztunnel is not connected"), ZtunnelRefused("no")])
async def test_add_without_ztunnel_fails_and_leaves_nothing(
    agent: Agent, node: PaperNode, failure: EnvironmentLacks
) -> None:
    node.show(a_pod())
    node.ztunnel_failure = failure
    with pytest.raises(type(failure)):
        await agent.attachments.add(request())
    assert node.acts == [("capture", "u1", 11), ("release", "u1"), ("drop", "u1")]
    assert agent.enroller.actual() == {}
    assert node.all_closed()


async def test_add_that_is_cancelled_leaves_nothing(agent: Agent, node: PaperNode) -> None:
    node.show(a_pod())
    with trio.CancelScope() as scope:
        scope.cancel()
        await agent.attachments.add(request())
    assert node.kernel == {}
    assert node.all_closed()


async def test_add_with_a_namespace_that_lacks_the_address_is_refused(agent: Agent, node: PaperNode) -> None:
    node.show(a_pod())
    node.held[11] = {parse_ip("10.244.1.8")}
    with pytest.raises(CniFailure) as raised:
        await agent.attachments.add(request())
    assert raised.value.code is CniCode.REFUSED
    assert node.kernel == {}


async def test_add_succeeds_when_only_the_annotation_fails(agent: Agent, node: PaperNode) -> None:
    node.show(a_pod())
    node.annotation_failure = EnvironmentLacks("disk full")
    await agent.attachments.add(request())
    async with agent.reconciling():
        await trio.sleep(0.02)
        node.annotation_failure = None
        await settled(node, lambda: ("annotate", "u1", "enabled") in node.acts)
    assert node.acts.count(("capture", "u1", 11)) == 1


async def test_delete_takes_out_and_an_old_sandboxs_delete_does_not(agent: Agent, node: PaperNode) -> None:
    node.show(a_pod())
    await agent.attachments.add(request())
    node.paths["/run/netns/b"], node.held[12] = 12, {IP}
    await agent.attachments.add(request(container_id="c2", netns="/run/netns/b"))
    assert node.kernel["u1"].cookie == 12
    node.acts.clear()
    await agent.attachments.delete(request(Command.DEL, container_id="c1"))
    assert node.acts == []
    await agent.attachments.delete(request(Command.DEL, container_id="c2", netns=""))
    assert node.acts == [("release", "u1"), ("drop", "u1")]
    assert agent.sandboxes.find("u1") is None
    await agent.attachments.delete(request(Command.DEL, container_id="c2"))


async def test_delete_of_a_pod_whose_add_we_never_saw(agent: Agent, node: PaperNode) -> None:
    node.kernel["u1"] = EnrolledPod(11, 1, PodEntry((IP,)))
    agent.enroller.refresh()
    await agent.attachments.delete(request(Command.DEL))
    assert node.acts == [("release", "u1"), ("drop", "u1")]


async def test_check_says_what_is_missing(agent: Agent, node: PaperNode) -> None:
    node.show(a_pod())
    with pytest.raises(CniFailure, match="not captured"):
        await agent.attachments.check(request(Command.CHECK))
    await agent.attachments.add(request())
    agent.enroller.unacknowledged("u1")
    with pytest.raises(CniFailure, match="ztunnel does not serve"):
        await agent.attachments.check(request(Command.CHECK))
    node.show(a_pod(), labels={})
    await agent.attachments.check(request(Command.CHECK))


# -- running pods ------------------------------------------------------------------------------------------------------


async def test_a_label_enrols_a_running_pod_by_its_remembered_sandbox_and_its_going_frees_it(
    agent: Agent, node: PaperNode
) -> None:
    node.show(a_pod(), labels={})
    await agent.attachments.add(request())
    async with agent.reconciling():
        node.show(a_pod())
        await settled(node, lambda: ("annotate", "u1", "enabled") in node.acts)
        assert [act[0] for act in node.acts] == ["capture", "serve", "annotate"]
        node.acts.clear()
        node.show(*node.view.pods.values(), labels={})
        await settled(node, lambda: ("annotate", "u1", None) in node.acts)
        assert node.acts == [("release", "u1"), ("drop", "u1"), ("annotate", "u1", None)]
        # Its sandbox is still known: the label may come back.
        node.show(a_pod())
        await settled(node, lambda: node.acts[-1] == ("annotate", "u1", "enabled"))


async def test_a_pod_older_than_the_agent_is_found_by_its_processes(agent: Agent, node: PaperNode) -> None:
    node.processes["u1"] = 11
    node.show(a_pod())
    async with agent.reconciling():
        await settled(node, lambda: "u1" in node.kernel and node.acts[-1][0] == "annotate")


async def test_a_pod_whose_namespace_is_wrong_stays_out_until_it_is_right(agent: Agent, node: PaperNode) -> None:
    node.processes["u1"] = 12
    node.held[12] = {parse_ip("10.244.1.99")}
    node.show(a_pod())
    async with agent.reconciling():
        await trio.sleep(0.1)
        assert node.acts == []
        assert agent.ended.count(("enrol", False)) >= 3
        node.held[12].add(IP)
        agent.reconciler.wake(impatient=True)
        await settled(node, lambda: "u1" in node.kernel and node.acts[-1][0] == "annotate")


async def test_without_ztunnel_a_running_pod_is_captured_and_pending_and_served_when_it_comes(
    agent: Agent, node: PaperNode
) -> None:
    node.processes["u1"] = 11
    node.ztunnel_failure = ZtunnelAway("away")
    node.show(a_pod())
    async with agent.reconciling():
        with trio.fail_after(3):
            while ("annotate", "u1", "pending") not in node.acts:  # noqa: ASYNC110 - has no event
                await trio.sleep(0.002)
        assert "u1" in node.kernel
        node.ztunnel_failure = None
        agent.reconciler.wake(impatient=True)
        await settled(node, lambda: ("annotate", "u1", "enabled") in node.acts)
    assert node.acts.count(("capture", "u1", 11)) == 1


async def test_a_restarted_agent_keeps_what_is_captured_and_announces_it(
    agent: Agent, node: PaperNode, tmp_path: Path
) -> None:
    node.show(a_pod())
    await agent.attachments.add(request())
    node.acts.clear()
    successor = Agent(node, tmp_path)
    assert successor.sandboxes.find("u1") == agent.sandboxes.find("u1")
    async with successor.reconciling():
        await settled(node, lambda: ("serve", "u1", "shop", "pod-u1", "client") in node.acts)
    assert not any(act[0] in ("capture", "release") for act in node.acts)


async def test_a_refusal_of_ztunnel_later_on_is_followed_by_another_attempt(agent: Agent, node: PaperNode) -> None:
    node.show(a_pod())
    await agent.attachments.add(request())
    async with agent.reconciling():
        await settled(node, lambda: True)
        node.acts.clear()
        agent.enroller.unacknowledged("u1")
        agent.reconciler.wake()
        await settled(node, lambda: ("serve", "u1", "shop", "pod-u1", "client") in node.acts)


async def test_changed_exclusions_change_the_capture(agent: Agent, node: PaperNode) -> None:
    node.show(a_pod())
    await agent.attachments.add(request())
    async with agent.reconciling():
        annotations = {REDIRECTION: "enabled", "ambimesh.dev/exclude-outbound-ports": "5432"}
        node.show(a_pod(annotations=annotations))
        await settled(node, lambda: node.kernel["u1"].entry.exclusions == Exclusions(frozenset({5432})))


async def test_a_pod_that_is_gone_stays_captured_while_its_sandbox_lives(
    agent: Agent, node: PaperNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive = {"u1"}
    monkeypatch.setattr(Sandbox, "alive", lambda sandbox: bool(alive))
    node.show(a_pod())
    await agent.attachments.add(request())
    async with agent.reconciling():
        node.acts.clear()
        node.show()
        await trio.sleep(0.05)
        assert node.acts == []
        alive.clear()
        agent.reconciler.wake()
        await settled(node, lambda: node.acts == [("release", "u1"), ("drop", "u1")])
    assert agent.sandboxes.find("u1") is None


async def test_an_unreadable_source_takes_nobody_out(agent: Agent, node: PaperNode) -> None:
    node.show(a_pod())
    await agent.attachments.add(request())
    async with agent.reconciling():
        await settled(node, lambda: True)
        node.acts.clear()
        node.show(complete=False)
        await trio.sleep(0.05)
    assert node.acts == []


async def test_an_annotation_the_source_is_slow_to_show_is_written_once(agent: Agent, node: PaperNode) -> None:
    written: list[str | None] = []

    async def annotate_in_vain(pod: PodFacts, annotation: str, value: str | None) -> None:
        written.append(value)

    node.show(a_pod())
    await agent.attachments.add(request())
    node.show(a_pod())
    node.annotate = annotate_in_vain  # type: ignore[method-assign]
    async with agent.reconciling():
        await trio.sleep(0.2)
    assert written == ["enabled"]


async def test_attachment_and_reconciler_do_not_work_on_a_pod_at_the_same_time(agent: Agent, node: PaperNode) -> None:
    node.processes["u1"] = 11
    async with agent.reconciling(), trio.open_nursery() as nursery:
        node.show(a_pod())
        for number in range(5):
            nursery.start_soon(agent.attachments.add, request(container_id=f"c{number}"))
    served = [act for act in node.acts if act[0] == "serve"]
    assert len(served) >= 5
    assert agent.enroller._locks == {}
    for index, act in enumerate(node.acts):
        if act[0] == "release":
            assert node.acts[index + 1][0] == "drop"


async def test_what_somebody_else_did_to_the_kernels_tables_is_repaired(
    agent: Agent, node: PaperNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciler, "_REPEAT", 0.05)
    node.show(a_pod())
    await agent.attachments.add(request())
    async with agent.reconciling():
        node.kernel.clear()
        await settled(node, lambda: "u1" in node.kernel)


async def test_a_kernel_that_refuses_is_read_again(
    agent: Agent, node: PaperNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(cookie: int, entry: PodEntry, namespace: NetworkNamespace, uid: str) -> None:
        node.kernel.pop(uid, None)
        raise EnvironmentLacks("map full")

    node.show(a_pod())
    await agent.attachments.add(request())
    monkeypatch.setattr(node, "enrol", refuse)
    node.paths["/run/netns/b"], node.held[12] = 12, {IP}
    with pytest.raises(EnvironmentLacks, match="map full"):
        await agent.attachments.add(request(container_id="c2", netns="/run/netns/b"))
    assert agent.enroller.actual() == {}


async def test_a_pod_once_enabled_is_never_pending_again(agent: Agent, node: PaperNode, tmp_path: Path) -> None:
    """While an agent restarts ztunnel is away for a moment; a peer told so would send in clear."""
    node.show(a_pod())
    await agent.attachments.add(request())
    node.acts.clear()
    node.ztunnel_failure = ZtunnelAway("away")
    successor = Agent(node, tmp_path)
    async with successor.reconciling():
        await trio.sleep(0.1)
        assert successor.ended.count(("enrol", False)) >= 2
        node.ztunnel_failure = None
        successor.reconciler.wake(impatient=True)
        await settled(node, lambda: node.acts == [("serve", "u1", "shop", "pod-u1", "client")])


async def test_an_annotation_that_was_lost_is_written_again_after_a_while(
    agent: Agent, node: PaperNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciler, "_SETTLING", 0.05)
    written: list[float] = []

    async def annotate_in_vain(pod: PodFacts, annotation: str, value: str | None) -> None:
        written.append(trio.current_time())

    node.show(a_pod())
    await agent.attachments.add(request())
    node.show(a_pod())
    monkeypatch.setattr(node, "annotate", annotate_in_vain)
    async with agent.reconciling():
        await trio.sleep(0.3)
    assert 3 <= len(written) <= 7


async def test_a_namespace_without_an_object_is_waited_for_then_has_no_labels(agent: Agent, node: PaperNode) -> None:
    elsewhere = a_pod(namespace="bare", addresses=())
    arguments = PodArguments(namespace="bare", name="pod-u1", uid="u1")
    node.show(elsewhere, complete=False)
    with pytest.raises(CniFailure, match="did not appear"):
        await agent.attachments.add(request(pod=arguments))
    node.show(elsewhere)
    begin = trio.current_time()
    await agent.attachments.add(request(pod=arguments))
    assert trio.current_time() - begin >= 0.2
    assert node.acts == []
    node.show(a_pod(namespace="bare", addresses=(), labels=IN))
    await agent.attachments.add(request(pod=arguments))
    assert node.acts[0] == ("capture", "u1", 11)
