from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from cni.agent.api_pods import ApiPods, kinds_of
from cni.agent.app import pods_of
from cni.agent.configuration import AgentSettings, BpfGroup, KubernetesGroup, NodeGroup, SourceGroup
from cni.agent.folder_pods import FolderPods
from cni.agent.object_pods import ObjectPods
from cni.pod import NodeView, PodName
from mesh.addresses import parse_ip
from mesh.errors import ConfigurationError, MeshError
from resources.kube.credentials_driver import ApiSettings
from resources.testing.api_server import ApiServer


def pod(name: str, node: str = "node1", uid: str = "") -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": "shop", "uid": uid or f"uid-{name}", "labels": {"app": name}},
        "spec": {"containers": [{"name": "c"}], "nodeName": node, "serviceAccountName": "client"},
        "status": {"phase": "Running", "podIPs": [{"ip": "10.244.1.7"}]},
    }


@pytest.fixture
async def server() -> AsyncIterator[ApiServer]:
    async with ApiServer().serve() as running:
        running.cluster.put("/namespaces", {"metadata": {"name": "shop", "labels": {"a": "b"}}})
        running.cluster.put("/pods", pod("client"))
        running.cluster.put("/pods", pod("other", "node2"))
        yield running


@pytest.fixture
async def pods(server: ApiServer, tmp_path: Path) -> AsyncIterator[ApiPods]:
    source = ApiPods(ApiSettings(kubeconfig=server.kubeconfig(tmp_path / "kubeconfig")), "node1")
    async with trio.open_nursery() as nursery:
        await nursery.start(source.run)
        yield source
        nursery.cancel_scope.cancel()


async def newer(source: ApiPods, view: NodeView) -> NodeView:
    with trio.fail_after(10):
        return await source.changed(view.serial)


async def test_the_nodes_pods_and_no_others_are_asked_for(server: ApiServer, pods: ApiPods) -> None:
    view = pods.view
    assert view.complete
    assert view.namespaces == {"shop": {"a": "b"}}
    assert set(view.pods) == {PodName("shop", "client")}
    facts = view.pods[PodName("shop", "client")]
    assert (facts.uid, facts.service_account, facts.addresses) == ("uid-client", "client", (parse_ip("10.244.1.7"),))
    asked = {one.query.get("fieldSelector") for one in server.requests if one.path == "/api/v1/pods"}
    assert asked == {"spec.nodeName=node1"}
    server.cluster.put("/pods", pod("new"))
    view = await newer(pods, view)
    assert PodName("shop", "new") in view.pods
    server.cluster.put("/pods", pod("elsewhere", "node2"))
    server.cluster.delete(("/pods", "shop", "new"))
    assert set((await newer(pods, view)).pods) == {PodName("shop", "client")}


async def test_while_the_api_is_away_nothing_is_gone_and_nothing_complete(server: ApiServer, pods: ApiPods) -> None:
    view = pods.view
    server.faults.away = True
    await server.break_connections()
    view = await newer(pods, view)
    assert not view.complete
    assert set(view.pods) == {PodName("shop", "client")}
    server.faults.away = False
    while not view.complete:
        view = await newer(pods, view)


async def test_annotations(server: ApiServer, pods: ApiPods) -> None:
    facts = pods.view.pods[PodName("shop", "client")]

    def annotations() -> dict[str, str]:
        found: dict[str, str] = server.cluster.get(("/pods", "shop", "client"))["metadata"].get("annotations", {})
        return found

    await pods.annotate(facts, "ambient.istio.io/redirection", "enabled")
    assert annotations() == {"ambient.istio.io/redirection": "enabled"}
    await pods.annotate(facts, "ambient.istio.io/redirection", None)
    assert annotations() == {}
    await pods.annotate(replace(facts, name="gone"), "x", "y")
    server.faults.denied.add("patch /pods")
    with pytest.raises(MeshError, match="403"):
        await pods.annotate(facts, "x", "y")


def test_one_source_is_named() -> None:
    def settings(source: SourceGroup) -> AgentSettings:
        return AgentSettings(node=NodeGroup(name="n"), source=source, bpf=BpfGroup(ztunnel_cgroups=()))

    assert isinstance(pods_of(settings(SourceGroup(folder=Path("/x")))), FolderPods)
    assert isinstance(pods_of(settings(SourceGroup(kubernetes=KubernetesGroup()))), ApiPods)
    assert issubclass(ApiPods, ObjectPods)
    for wrong in (SourceGroup(), SourceGroup(folder=Path("/x"), kubernetes=KubernetesGroup())):
        with pytest.raises(ConfigurationError, match="name one of folder and kubernetes"):
            pods_of(settings(wrong))
    assert [kind.name for kind in kinds_of("n")] == ["Pod", "Namespace"]


async def test_a_pod_that_cannot_be_captured_has_an_event(server: ApiServer, pods: ApiPods) -> None:
    facts = pods.view.pods[PodName("shop", "client")]
    for _ in range(3):
        pods.tell_failure(facts, "enrol: its network namespace is not to be found")
    with trio.fail_after(10):
        while not server.cluster.of("events.k8s.io/events"):  # noqa: ASYNC110 -- of the double's state
            await trio.sleep(0.01)
    await trio.sleep(0.05)
    [(_, event)] = server.cluster.of("events.k8s.io/events")
    assert event["regarding"] == {
        "apiVersion": "v1", "kind": "Pod", "namespace": "shop", "name": "client", "uid": "uid-client",
    }  # fmt: skip
    assert (event["type"], event["reason"]) == ("Warning", "EnrolmentFailed")
    assert event["note"].startswith("enrol: ")


async def test_what_is_wrong_with_the_node_is_an_event_of_the_node(server: ApiServer, pods: ApiPods) -> None:
    pods.tell_node("CniConfigurationUnusable", "05-broken.conflist: not JSON")
    with trio.fail_after(10):
        while not server.cluster.of("events.k8s.io/events"):  # noqa: ASYNC110 -- of the double's state
            await trio.sleep(0.01)
    [(_, event)] = server.cluster.of("events.k8s.io/events")
    assert event["regarding"] == {"apiVersion": "v1", "kind": "Node", "name": "node1", "uid": "node1"}
    assert (event["metadata"]["namespace"], event["reason"]) == ("default", "CniConfigurationUnusable")
