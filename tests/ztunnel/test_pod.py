"""A served pod: what is known of it, and tasks that end with it and fail alone."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import cast

import pytest
import trio
from structlog.testing import capture_logs

from mesh.addresses import parse_ip
from mesh.errors import ConnectionLost
from mesh.netns import NetworkNamespace
from mesh.relay.engine import Engine
from mesh.relay.owned_tasks import OwnedTasks
from mesh.zds.codec import WorkloadInfo
from ztunnel.pod import Pod


@pytest.fixture
def namespace() -> Iterator[NetworkNamespace]:
    own = NetworkNamespace.open("/proc/self/ns/net")
    yield own
    own.close()


def tasks(nursery: trio.Nursery) -> OwnedTasks:
    return OwnedTasks(nursery, cast("Engine", SimpleNamespace(hand_over=lambda: None)))


async def test_identity_name_and_addresses(namespace: NetworkNamespace) -> None:
    async with trio.open_nursery() as nursery:
        addresses = [parse_ip("fd00::1"), parse_ip("10.0.0.1"), parse_ip("10.0.0.2")]
        info = WorkloadInfo("web", "shop", "account")
        pod = Pod("uid", info, namespace, addresses, "cluster.local", tasks(nursery))
    assert str(pod.identity) == "spiffe://cluster.local/ns/shop/sa/account"
    assert pod.name == "shop/web"
    assert pod.cookie == namespace.cookie()
    assert pod.address(ipv4=True) == parse_ip("10.0.0.1")
    assert pod.address(ipv4=False) == parse_ip("fd00::1")
    assert Pod("uid", info, namespace, addresses[:1], "d", pod.tasks).address(ipv4=True) is None
    assert (pod.workload, pod.policies) == (None, None)


async def test_a_failing_task_costs_nobody_else() -> None:
    done = trio.Event()

    async def fail(error: Exception) -> None:
        raise error

    async def succeed() -> None:
        done.set()

    with capture_logs() as logs, trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            pod_tasks = tasks(nursery)
            pod_tasks.start(fail, ConnectionLost("gone"))
            pod_tasks.start(fail, ValueError("bug"))
            pod_tasks.start(succeed)
            await done.wait()
    assert sorted(line["log_level"] for line in logs) == ["error", "warning"]
    assert any(line.get("error") == "gone" for line in logs)


async def test_tasks_end_with_the_pod() -> None:
    ended = []

    async def stay(name: str) -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append(name)

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            pod_tasks = tasks(nursery)
            pod_tasks.start(stay, "running")
            await trio.testing.wait_all_tasks_blocked()
            pod_tasks.start(stay, "just started")
            pod_tasks.stop()
            await trio.testing.wait_all_tasks_blocked()
            pod_tasks.start(stay, "too late")
    assert sorted(ended) == ["just started", "running", "too late"]
