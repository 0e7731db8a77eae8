"""Running pods, against a node on paper."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trio

from cni.agent import reconciler
from cni.agent.captures import Captures
from cni.agent.enroller import Enroller
from cni.agent.sandboxes import Sandbox
from cni.pod import PodFacts
from ebpf.pods import Exclusions
from mesh.addresses import parse_ip
from mesh.zds.server_driver import ZtunnelAway

REDIRECTION = "ambient.istio.io/redirection"
IP = parse_ip("10.244.1.7")


def test_the_agent_under_test_is_the_products(agent: Any) -> None:
    assert isinstance(agent.reconciler, reconciler.Reconciler)
    assert isinstance(agent.enroller, Enroller)
    assert isinstance(agent.enroller._captures, Captures)


async def test_a_label_enrols_a_running_pod_by_its_remembered_sandbox_and_its_going_frees_it(
    agent: Any, node: Any, kit: Any
) -> None:
    node.show(kit.a_pod(), labels={})
    await agent.attachments.add(kit.request())
    async with agent.reconciling():
        node.show(kit.a_pod())
        await kit.settled(node, lambda: ("annotate", "u1", "enabled") in node.acts)
        assert [act[0] for act in node.acts] == ["capture", "serve", "annotate"]
        node.acts.clear()
        node.show(*node.view.pods.values(), labels={})
        await kit.settled(node, lambda: ("annotate", "u1", None) in node.acts)
        assert node.acts == [("release", "u1"), ("drop", "u1"), ("annotate", "u1", None)]
        # Its sandbox is still known: the label may come back.
        node.show(kit.a_pod())
        await kit.settled(node, lambda: node.acts[-1] == ("annotate", "u1", "enabled"))


async def test_a_pod_older_than_the_agent_is_found_by_its_processes(agent: Any, node: Any, kit: Any) -> None:
    node.processes["u1"] = 11
    node.show(kit.a_pod())
    async with agent.reconciling():
        await kit.settled(node, lambda: "u1" in node.kernel and node.acts[-1][0] == "annotate")


async def test_a_pod_whose_namespace_is_wrong_stays_out_until_it_is_right(agent: Any, node: Any, kit: Any) -> None:
    node.processes["u1"] = 12
    node.held[12] = {parse_ip("10.244.1.99")}
    node.show(kit.a_pod())
    async with agent.reconciling():
        await kit.settled(node, lambda: agent.ended.count(("enrol", False)) >= 3)
        assert node.acts == []
        node.held[12].add(IP)
        agent.reconciler.wake(impatient=True)
        await kit.settled(node, lambda: "u1" in node.kernel and node.acts[-1][0] == "annotate")


async def test_without_ztunnel_a_running_pod_is_captured_and_pending_and_served_when_it_comes(
    agent: Any, node: Any, kit: Any
) -> None:
    node.processes["u1"] = 11
    node.ztunnel_failure = ZtunnelAway("away")
    node.show(kit.a_pod())
    async with agent.reconciling():
        with trio.fail_after(3):
            while ("annotate", "u1", "pending") not in node.acts:  # noqa: ASYNC110 - has no event
                await trio.sleep(0.002)
        assert "u1" in node.kernel
        node.ztunnel_failure = None
        agent.reconciler.wake(impatient=True)
        await kit.settled(node, lambda: ("annotate", "u1", "enabled") in node.acts)
    assert node.acts.count(("capture", "u1", 11)) == 1


async def test_a_restarted_agent_keeps_what_is_captured_and_announces_it(
    agent: Any, node: Any, kit: Any, tmp_path: Path
) -> None:
    node.show(kit.a_pod())
    await agent.attachments.add(kit.request())
    node.acts.clear()
    successor = kit.Agent(node, tmp_path)
    assert successor.sandboxes.find("u1") == agent.sandboxes.find("u1")
    async with successor.reconciling():
        await kit.settled(node, lambda: ("serve", "u1", "shop", "pod-u1", "client") in node.acts)
    assert not any(act[0] in ("capture", "release") for act in node.acts)


async def test_a_refusal_of_ztunnel_later_on_is_followed_by_another_attempt(agent: Any, node: Any, kit: Any) -> None:
    node.show(kit.a_pod())
    await agent.attachments.add(kit.request())
    async with agent.reconciling():
        await kit.settled(node, lambda: True)
        node.acts.clear()
        agent.enroller.unacknowledged("u1")
        agent.reconciler.wake()
        await kit.settled(node, lambda: ("serve", "u1", "shop", "pod-u1", "client") in node.acts)


async def test_changed_exclusions_change_the_capture(agent: Any, node: Any, kit: Any) -> None:
    node.show(kit.a_pod())
    await agent.attachments.add(kit.request())
    async with agent.reconciling():
        annotations = {REDIRECTION: "enabled", "ambimesh.dev/exclude-outbound-ports": "5432"}
        node.show(kit.a_pod(annotations=annotations))
        await kit.settled(node, lambda: node.kernel["u1"].entry.exclusions == Exclusions(frozenset({5432})))


async def test_a_pod_that_is_gone_stays_captured_while_its_sandbox_lives(
    agent: Any, node: Any, kit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive = {"u1"}
    monkeypatch.setattr(Sandbox, "alive", lambda sandbox: bool(alive))
    node.show(kit.a_pod())
    await agent.attachments.add(kit.request())
    async with agent.reconciling():
        node.acts.clear()
        node.show()
        await trio.sleep(0.05)
        assert node.acts == []
        alive.clear()
        agent.reconciler.wake()
        await kit.settled(node, lambda: node.acts == [("release", "u1"), ("drop", "u1")])
    assert agent.sandboxes.find("u1") is None


async def test_an_unreadable_source_takes_nobody_out(agent: Any, node: Any, kit: Any) -> None:
    node.show(kit.a_pod())
    await agent.attachments.add(kit.request())
    async with agent.reconciling():
        await kit.settled(node, lambda: True)
        node.acts.clear()
        node.show(complete=False)
        await trio.sleep(0.05)
    assert node.acts == []


async def test_an_annotation_the_source_is_slow_to_show_is_written_once(agent: Any, node: Any, kit: Any) -> None:
    written: list[str | None] = []

    async def annotate_in_vain(pod: PodFacts, annotation: str, value: str | None) -> None:
        written.append(value)

    node.show(kit.a_pod())
    await agent.attachments.add(kit.request())
    node.show(kit.a_pod())
    node.annotate = annotate_in_vain
    async with agent.reconciling():
        await kit.settled(node, lambda: bool(written))
        await trio.sleep(0.2)
    assert written == ["enabled"]


async def test_attachment_and_reconciler_do_not_work_on_a_pod_at_the_same_time(agent: Any, node: Any, kit: Any) -> None:
    node.processes["u1"] = 11
    async with agent.reconciling(), trio.open_nursery() as nursery:
        node.show(kit.a_pod())
        for number in range(5):
            nursery.start_soon(agent.attachments.add, kit.request(container_id=f"c{number}"))
    served = [act for act in node.acts if act[0] == "serve"]
    assert len(served) >= 5
    assert agent.enroller._locks == {}
    for index, act in enumerate(node.acts):
        if act[0] == "release":
            assert node.acts[index + 1][0] == "drop"


async def test_what_somebody_else_did_to_the_kernels_tables_is_repaired(
    agent: Any, node: Any, kit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciler, "_REPEAT", 0.05)
    node.show(kit.a_pod())
    await agent.attachments.add(kit.request())
    async with agent.reconciling():
        node.kernel.clear()
        await kit.settled(node, lambda: "u1" in node.kernel)


async def test_a_pod_once_enabled_is_never_pending_again(agent: Any, node: Any, kit: Any, tmp_path: Path) -> None:
    """While an agent restarts ztunnel is away for a moment; a peer told so would send in clear."""
    node.show(kit.a_pod())
    await agent.attachments.add(kit.request())
    node.acts.clear()
    node.ztunnel_failure = ZtunnelAway("away")
    successor = kit.Agent(node, tmp_path)
    async with successor.reconciling():
        await kit.settled(node, lambda: successor.ended.count(("enrol", False)) >= 2)
        node.ztunnel_failure = None
        successor.reconciler.wake(impatient=True)
        await kit.settled(node, lambda: node.acts == [("serve", "u1", "shop", "pod-u1", "client")])


async def test_an_annotation_that_was_lost_is_written_again_after_a_while(
    agent: Any, node: Any, kit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciler, "_SETTLING", 0.05)
    written: list[float] = []

    async def annotate_in_vain(pod: PodFacts, annotation: str, value: str | None) -> None:
        written.append(trio.current_time())

    node.show(kit.a_pod())
    await agent.attachments.add(kit.request())
    node.show(kit.a_pod())
    monkeypatch.setattr(node, "annotate", annotate_in_vain)
    async with agent.reconciling():
        await kit.settled(node, lambda: len(written) >= 3)
    assert all(later - earlier >= 0.05 for earlier, later in pairwise(written))


async def test_what_fails_for_long_is_told_to_the_pods_owner_and_what_passes_is_not(
    agent: Any, node: Any, kit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.processes["u1"] = 12
    node.held[12] = {parse_ip("10.244.1.99")}
    node.show(kit.a_pod())
    async with agent.reconciling():
        await kit.settled(node, lambda: agent.ended.count(("enrol", False)) >= 2)
        assert node.told == []
        monkeypatch.setattr(reconciler, "_PATIENCE", 0.0)
        await kit.settled(node, lambda: bool(node.told))
    uid, reason = node.told[0]
    assert uid == "u1"
    assert reason.startswith("enrol: ")
