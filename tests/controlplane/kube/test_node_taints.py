from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio

from controlplane.kube import node_taint_driver
from controlplane.kube.node_taint_driver import NodeTaints
from controlplane.kube.node_taints import AGENT_LABEL, freed_nodes, without_taint
from resources.base import Condition, ObjectMeta
from resources.kube.client_driver import ApiClient
from resources.node import NOT_READY_TAINT, NodeSpec, Taint
from resources.object_set import ObjectSet
from resources.objects import Node, Pod
from resources.pod import PodSpec, PodStatus
from resources.testing.api_server import ApiServer

OWN = "ambimesh-system"
NODES = "/nodes"
OTHER = {"key": "dedicated", "value": "db", "effect": "NoSchedule"}
OURS = {"key": NOT_READY_TAINT, "effect": "NoSchedule"}


def node(name: str, *taints: str) -> Node:
    return Node(metadata=ObjectMeta(name=name), spec=NodeSpec(taints=tuple(Taint(key=key) for key in taints)))


def agent(node_name: str, ready: str = "True", **changes: Any) -> Pod:
    metadata: dict[str, Any] = {"name": f"agent-{node_name}", "namespace": OWN, "labels": dict([AGENT_LABEL])}
    return Pod(
        metadata=ObjectMeta(**(metadata | changes)),
        spec=PodSpec(containers=(), node_name=node_name),
        status=PodStatus(conditions=(Condition(type="Ready", status=ready),)),
    )


def test_a_node_is_freed_when_its_own_agent_is_ready() -> None:
    tainted, free = node("tainted", NOT_READY_TAINT), node("free")
    assert freed_nodes(ObjectSet([tainted, free, agent("tainted"), agent("free")]), OWN) == {"tainted"}
    assert freed_nodes(ObjectSet([tainted, free, agent("free")]), OWN) == frozenset()


@pytest.mark.parametrize(
    "pod",
    [
        agent("n", "False"),
        agent("n", "Unknown"),
        agent("n", namespace="somebody"),
        agent("n", labels={AGENT_LABEL[0]: "ambimesh-ztunnel"}),
        agent("n", deletion_timestamp="2026-01-01T00:00:00Z"),
    ],
)
def test_what_is_no_ready_agent_frees_nobody(pod: Pod) -> None:
    assert freed_nodes(ObjectSet([node("n", NOT_READY_TAINT), pod]), OWN) == frozenset()


def test_other_taints_stay() -> None:
    assert without_taint({"metadata": {"name": "n"}, "spec": {"taints": [OTHER]}}) is None
    assert without_taint({"metadata": {"name": "n"}}) is None
    for taints, left in (([OURS], None), ([OTHER, OURS], [OTHER]), ([OURS, {**OURS, "effect": "NoExecute"}], None)):
        read = {"metadata": {"name": "n", "resourceVersion": "7"}, "spec": {"taints": taints}}
        assert without_taint(read) == {"metadata": {"resourceVersion": "7"}, "spec": {"taints": left}}


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(10):
        while not condition():  # noqa: ASYNC110 -- of the double's state
            await trio.sleep(0.01)


def put(server: ApiServer, name: str, *taints: dict[str, str]) -> None:
    body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {"taints": list(taints)}}
    server.cluster.put(NODES, body)


def taints_of(server: ApiServer, name: str) -> list[str]:
    spec = server.cluster.get((NODES, "", name)).get("spec") or {}
    return [taint["key"] for taint in spec.get("taints") or ()]


async def test_taints_go_whatever_fails_at_first(
    server: ApiServer, client: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_taint_driver, "RETRY_SECONDS", 0.02)
    put(server, "a", OTHER, OURS)
    put(server, "b", OURS)
    put(server, "c", OURS)
    taints = NodeTaints(client)
    server.faults.errors = [500, 403, 409]
    taints.update(frozenset({"a", "b", "gone"}))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(taints.run)
        await until(lambda: (taints_of(server, "a"), taints_of(server, "b")) == ([OTHER["key"]], []))
        assert taints_of(server, "c") == [NOT_READY_TAINT]
        taints.update(frozenset({"c"}))
        await until(lambda: taints_of(server, "c") == [])
        # Put back before the source told that it had gone: nothing has changed, but it is still wanted.
        put(server, "c", OURS)
        await until(lambda: taints_of(server, "c") == [])
        nursery.cancel_scope.cancel()
