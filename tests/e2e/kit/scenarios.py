"""What happens to clusters: machines that reboot, an API server that is away, rollouts and restarts under load."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.e2e.kit.cluster import Cluster
from tests.e2e.kit.node import Node
from tests.e2e.kit.waiting import eventually
from tests.e2e.kit.workloads import apply, pod, wait_ready

AWAY_SECONDS = float(os.environ.get("AMBIMESH_E2E_AWAY_SECONDS", "120"))
"""How long the API server is away in tests."""
_RESTART_SECONDS = 180.0
_LOAD_SECONDS = 900
_FIRST_REQUESTS = 20


def reboot(cluster: Cluster, node: Node) -> None:
    """Switch a node off without warning and on again; wait until it is ready and its pods run again."""
    with rebooting(cluster, node):
        pass


@contextmanager
def rebooting(cluster: Cluster, node: Node) -> Iterator[None]:
    """A reboot; the block runs while the node is off and known to be.

    That it was not ready must have been noticed in between, or "ready" would be the old news; and of its pods only
    containers that were not there before count, for the same reason.
    """
    before = {container for pod in _pods_of(cluster, node) for container in _running(pod)}
    node.kill()
    cluster.wait_node(node, "False", "Unknown")
    try:
        yield
    finally:
        node.boot()
        node.start_runtime()
        node.start_services(cluster.plane)
    cluster.wait_node(node, "True")

    def runs_again() -> None:
        for found in _pods_of(cluster, node):
            name, running = found["metadata"]["name"], _running(found)
            assert len(running) == len(found["spec"]["containers"]), f"{name} on {node.name} does not run"
            assert not running & before, f"{name} on {node.name} has not been started again"

    eventually(runs_again, seconds=_RESTART_SECONDS)


def _pods_of(cluster: Cluster, node: Node) -> list[dict[str, Any]]:
    """The pods that a node is to run, also those it has not begun with."""
    selected = f"--field-selector=spec.nodeName={node.name},status.phase!=Succeeded,status.phase!=Failed"
    found = cluster.objects("pods", "--all-namespaces", selected)
    return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]


def _running(pod: dict[str, Any]) -> set[str]:
    """The containers of a pod that run and are ready."""
    statuses = pod["status"].get("containerStatuses", [])
    return {each["containerID"] for each in statuses if each["ready"] and "running" in each["state"]}


@contextmanager
def api_server_away(cluster: Cluster, seconds: float = AWAY_SECONDS) -> Iterator[None]:
    """Let the API server be away for ``seconds``, in which the block runs, and then come back.

    Controllers and scheduler go with it, as they do where they have a lease to lose. One that lived through it would
    take all nodes for silent before they were heard, and call every pod not ready.
    """
    cluster.plane.stop_api_server()
    cluster.plane.stop_others()
    deadline = time.monotonic() + seconds
    try:
        yield
        time.sleep(max(0.0, deadline - time.monotonic()))
    finally:
        cluster.plane.start_api_server()
        cluster.plane.start_others()


def restart_pods(cluster: Cluster, what: str, namespace: str) -> None:
    """Have all pods of a DaemonSet, Deployment or StatefulSet replaced, as it replaces them after a change."""
    cluster.kubectl("rollout", "restart", what, f"--namespace={namespace}")
    cluster.rolled_out(what, f"--namespace={namespace}")


@dataclass(frozen=True, slots=True)
class Totals:
    """What a load came to."""

    requests: int
    failed: int
    answered_by: Mapping[str, int]
    """Requests by the pod that answered."""
    failures: Mapping[str, int]
    """Failed ones by what was wrong."""


class LoadPod:
    """A pod that asks a URL steadily; made by `load`."""

    def __init__(self, cluster: Cluster, namespace: str, name: str) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self.name = name

    def totals(self) -> Totals:
        """So far, to a second."""
        return self._last(done=False)

    def more(self, requests: int) -> Totals:
        """Wait until so many more requests have been made."""
        before = self.totals().requests

        def enough() -> Totals:
            now = self.totals()
            assert now.requests >= before + requests, f"{now.requests} requests, {before} before: {now}"
            return now

        return eventually(enough, seconds=_RESTART_SECONDS)

    def stop(self) -> Totals:
        """End it: all there was."""
        self._cluster.kubectl("exec", f"--namespace={self._namespace}", self.name, "--", "touch", "/tmp/stop")
        return eventually(lambda: self._last(done=True), seconds=_RESTART_SECONDS)

    def _last(self, *, done: bool) -> Totals:
        said = self._cluster.kubectl("logs", f"--namespace={self._namespace}", self.name, "--tail=1").strip()
        assert said, f"{self.name} has said nothing yet"
        found = json.loads(said)
        assert found.pop("done") or not done, f"{self.name} goes on: {said}"
        return Totals(**found)


@contextmanager
def load(
    cluster: Cluster,
    namespace: str,
    url: str,
    name: str = "load",
    node: Node | None = None,
    account: str = "default",
    options: Sequence[str] = (),
) -> Iterator[LoadPod]:
    """A load for the length of the block, which begins when the first requests have ended.

    Args:
        cluster: where.
        namespace: of its pod.
        url: what it asks.
        name: of its pod.
        node: where it runs; None: anywhere.
        account: the service account it runs as.
        options: more of `application/load.py`.
    """
    command = ["python", "/application/load.py", url, f"--seconds={_LOAD_SECONDS}", *options]
    made = pod(name, command, node)
    made["spec"]["serviceAccountName"] = account
    apply(cluster, namespace, made)
    try:
        wait_ready(cluster, namespace, name)
        running = LoadPod(cluster, namespace, name)
        eventually(running.totals, seconds=_RESTART_SECONDS)
        running.more(_FIRST_REQUESTS)
        yield running
    finally:
        cluster.kubectl("delete", "pod", name, f"--namespace={namespace}", "--now", "--wait=false")
