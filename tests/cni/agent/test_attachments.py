"""What the container runtime asks, against a node on paper."""

from typing import Any

import pytest
import trio

from cni.agent.attachments import Attachments
from cni.protocol_codec import CniCode, CniFailure, Command, PodArguments
from ebpf.pods import EnrolledPod, PodEntry
from mesh.addresses import parse_ip
from mesh.errors import EnvironmentLacks
from mesh.netns import NetworkNamespace
from mesh.zds.server_driver import ZtunnelAway, ZtunnelRefused

IN = {"istio.io/dataplane-mode": "ambient"}
IP = parse_ip("10.244.1.7")


def test_the_agent_under_test_is_the_products(agent: Any) -> None:
    assert isinstance(agent.attachments, Attachments)


async def test_add_captures_then_serves_then_annotates(agent: Any, node: Any, kit: Any) -> None:
    node.show(kit.a_pod(addresses=()))
    await agent.attachments.add(kit.request())
    assert node.acts == [
        ("capture", "u1", 11),
        ("serve", "u1", "shop", "pod-u1", "client"),
        ("annotate", "u1", "enabled"),
    ]
    assert agent.sandboxes.find("u1") is not None
    assert node.all_closed()
    await agent.attachments.check(kit.request(Command.CHECK))


async def test_add_of_a_pod_outside_the_mesh_remembers_its_sandbox_only(agent: Any, node: Any, kit: Any) -> None:
    node.show(kit.a_pod(addresses=()), labels={})
    await agent.attachments.add(kit.request())
    assert node.acts == []
    sandbox = agent.sandboxes.find("u1")
    assert sandbox is not None
    assert (sandbox.netns, sandbox.container_id, sandbox.cookie) == ("/run/netns/a", "c1", 11)


async def test_what_is_no_pod_of_ours_passes_without_a_look(agent: Any, node: Any, kit: Any) -> None:
    await agent.attachments.add(kit.request(pod=None))
    await agent.attachments.add(kit.request(pod=PodArguments(namespace="kube-system", name="dns", uid="")))
    assert node.acts == []
    assert list(agent.sandboxes.items()) == []


async def test_add_waits_for_the_source_and_fails_closed(agent: Any, node: Any, kit: Any) -> None:
    with pytest.raises(CniFailure, match="did not appear") as raised:
        await agent.attachments.add(kit.request())
    assert raised.value.code is CniCode.TRY_AGAIN_LATER
    async with trio.open_nursery() as nursery:
        nursery.start_soon(agent.attachments.add, kit.request())
        await trio.sleep(0.02)
        node.show(kit.a_pod("an-earlier-one", name="pod-u1"))
        await trio.sleep(0.02)
        node.show(kit.a_pod(ended=True))
        await trio.sleep(0.02)
        assert node.acts == []
        node.show(kit.a_pod())
    assert node.acts[0] == ("capture", "u1", 11)


@pytest.mark.parametrize("failure", [ZtunnelAway("ztunnel is not connected"), ZtunnelRefused("no")])
async def test_add_without_ztunnel_fails_and_leaves_nothing(
    agent: Any, node: Any, kit: Any, failure: EnvironmentLacks
) -> None:
    node.show(kit.a_pod())
    node.ztunnel_failure = failure
    with pytest.raises(type(failure)):
        await agent.attachments.add(kit.request())
    assert node.acts == [("capture", "u1", 11), ("release", "u1"), ("drop", "u1")]
    assert agent.enroller.actual() == {}
    assert node.all_closed()


async def test_add_that_is_cancelled_leaves_nothing(agent: Any, node: Any, kit: Any) -> None:
    node.show(kit.a_pod())
    with trio.CancelScope() as scope:
        scope.cancel()
        await agent.attachments.add(kit.request())
    assert node.kernel == {}
    assert node.all_closed()


async def test_add_with_a_namespace_that_lacks_the_address_is_refused(agent: Any, node: Any, kit: Any) -> None:
    node.show(kit.a_pod())
    node.held[11] = {parse_ip("10.244.1.8")}
    with pytest.raises(CniFailure) as raised:
        await agent.attachments.add(kit.request())
    assert raised.value.code is CniCode.REFUSED
    assert node.kernel == {}


async def test_add_succeeds_when_only_the_annotation_fails(agent: Any, node: Any, kit: Any) -> None:
    node.show(kit.a_pod())
    node.annotation_failure = EnvironmentLacks("disk full")
    await agent.attachments.add(kit.request())
    async with agent.reconciling():
        await trio.sleep(0.02)
        node.annotation_failure = None
        await kit.settled(node, lambda: ("annotate", "u1", "enabled") in node.acts)
    assert node.acts.count(("capture", "u1", 11)) == 1


async def test_delete_takes_out_and_an_old_sandboxs_delete_does_not(agent: Any, node: Any, kit: Any) -> None:
    node.show(kit.a_pod())
    await agent.attachments.add(kit.request())
    node.paths["/run/netns/b"], node.held[12] = 12, {IP}
    await agent.attachments.add(kit.request(container_id="c2", netns="/run/netns/b"))
    assert node.kernel["u1"].cookie == 12
    node.acts.clear()
    await agent.attachments.delete(kit.request(Command.DEL, container_id="c1"))
    assert node.acts == []
    await agent.attachments.delete(kit.request(Command.DEL, container_id="c2", netns=""))
    assert node.acts == [("release", "u1"), ("drop", "u1")]
    assert agent.sandboxes.find("u1") is None
    await agent.attachments.delete(kit.request(Command.DEL, container_id="c2"))


async def test_delete_of_a_pod_whose_add_we_never_saw(agent: Any, node: Any, kit: Any) -> None:
    node.kernel["u1"] = EnrolledPod(11, 1, PodEntry((IP,)))
    agent.enroller.refresh()
    await agent.attachments.delete(kit.request(Command.DEL))
    assert node.acts == [("release", "u1"), ("drop", "u1")]


async def test_check_says_what_is_missing(agent: Any, node: Any, kit: Any) -> None:
    node.show(kit.a_pod())
    with pytest.raises(CniFailure, match="not captured"):
        await agent.attachments.check(kit.request(Command.CHECK))
    await agent.attachments.add(kit.request())
    agent.enroller.unacknowledged("u1")
    with pytest.raises(CniFailure, match="ztunnel does not serve"):
        await agent.attachments.check(kit.request(Command.CHECK))
    node.show(kit.a_pod(), labels={})
    await agent.attachments.check(kit.request(Command.CHECK))


async def test_a_kernel_that_refuses_is_read_again(
    agent: Any, node: Any, kit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(cookie: int, entry: PodEntry, namespace: NetworkNamespace, uid: str) -> None:
        node.kernel.pop(uid, None)
        raise EnvironmentLacks("map full")

    node.show(kit.a_pod())
    await agent.attachments.add(kit.request())
    monkeypatch.setattr(node, "enrol", refuse)
    node.paths["/run/netns/b"], node.held[12] = 12, {IP}
    with pytest.raises(EnvironmentLacks, match="map full"):
        await agent.attachments.add(kit.request(container_id="c2", netns="/run/netns/b"))
    assert agent.enroller.actual() == {}


async def test_a_namespace_without_an_object_is_waited_for_then_has_no_labels(agent: Any, node: Any, kit: Any) -> None:
    elsewhere = kit.a_pod(namespace="bare", addresses=())
    arguments = PodArguments(namespace="bare", name="pod-u1", uid="u1")
    node.show(elsewhere, complete=False)
    with pytest.raises(CniFailure, match="did not appear"):
        await agent.attachments.add(kit.request(pod=arguments))
    node.show(elsewhere)
    begin = trio.current_time()
    await agent.attachments.add(kit.request(pod=arguments))
    assert trio.current_time() - begin >= 0.2
    assert node.acts == []
    node.show(kit.a_pod(namespace="bare", addresses=(), labels=IN))
    await agent.attachments.add(kit.request(pod=arguments))
    assert node.acts[0] == ("capture", "u1", 11)
