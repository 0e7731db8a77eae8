"""A cluster with controllers but without machines: what kubelets would write, the test writes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ambimesh.cluster.client_driver import Cluster, Json
from ambimesh.install.installing_driver import Reporter
from ambimesh.install.rollout import Problem
from mesh.errors import MeshError, ObjectMissing
from tests.e2e.kit.control_plane import ControlPlane
from tests.e2e.kit.fixtures import kubernetes_controllers

__all__ = ["kubernetes_controllers"]

NODES = ("node1", "node2")
Fate = Callable[[Json], Json | None]
"""From a pod to what its container says of itself; None leaves the pod unscheduled."""


def running(_pod: Json) -> Json:
    """A container that is well."""
    return {"ready": True, "restartCount": 0, "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}


class Kubelets:
    """Binds pods to nodes and writes their statuses, until it is told to stop."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._play)
        self.fate: Fate = running
        self.failure: BaseException | None = None

    def __enter__(self) -> Kubelets:
        for name in NODES:
            self._cluster.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
            facts = {"operatingSystem": "linux", "architecture": "amd64", "kernelVersion": "6.1.0-18-amd64"}
            identities = ("machineID", "systemUUID", "bootID", "osImage", "containerRuntimeVersion", "kubeletVersion")
            info = {**dict.fromkeys((*identities, "kubeProxyVersion"), ""), **facts}
            self._status("Node", name, "", {"nodeInfo": info, "conditions": [_ready()]})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()
        if self.failure is not None:
            raise self.failure

    def _play(self) -> None:
        try:
            while not self._stopped.wait(0.2):
                for pod in list(self._cluster.all_of("v1", "Pod")):
                    try:
                        self._look_after(pod)
                    except ObjectMissing:
                        continue  # deleted meanwhile
                    except MeshError as error:
                        if "changed meanwhile" not in str(error):
                            raise
        except BaseException as error:
            self.failure = error

    def _look_after(self, pod: Json) -> None:
        name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
        path = self._cluster.resource("v1", "Pod").url(namespace, name)
        if "deletionTimestamp" in pod["metadata"]:
            self._cluster.request("DELETE", path, body={"gracePeriodSeconds": 0})
            return
        fate = self.fate(pod)
        if fate is None:
            self._status("Pod", name, namespace, {"conditions": [_unscheduled()]})
            return
        if "nodeName" not in pod["spec"]:
            wishes = pod["spec"].get("affinity", {}).get("nodeAffinity", {})
            terms = wishes.get("requiredDuringSchedulingIgnoredDuringExecution", {}).get("nodeSelectorTerms")
            node = terms[0]["matchFields"][0]["values"][0] if terms else NODES[hash(name) % 2]
            target = {"apiVersion": "v1", "kind": "Node", "name": node}
            binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": target}
            self._cluster.request("POST", f"{path}/binding", body=binding)
        containers = [
            {"name": one["name"], "image": one["image"], "imageID": "", **fate} for one in pod["spec"]["containers"]
        ]
        conditions = [_ready()] if fate.get("ready") else [{**_ready(), "status": "False"}]
        status = {"phase": "Running", "containerStatuses": containers, "conditions": conditions, "podIP": "10.0.0.9"}
        known = {key: pod.get("status", {}).get(key) for key in ("containerStatuses",)}
        if known["containerStatuses"] != containers:
            self._status("Pod", name, namespace, status)

    def _status(self, kind: str, name: str, namespace: str, status: Json) -> None:
        path = self._cluster.resource("v1", kind).url(namespace, name, "status")
        self._cluster.request(
            "PATCH", path, body={"status": status}, content_type="application/strategic-merge-patch+json"
        )


def _ready() -> Json:
    return {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}


def _unscheduled() -> Json:
    text = "0/2 nodes are available: 2 Insufficient memory."
    return {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": text}


@pytest.fixture
def cluster(kubernetes_controllers: ControlPlane) -> Cluster:
    return Cluster(kubeconfig=str(kubernetes_controllers.kubeconfig))


@pytest.fixture
def kubelets(cluster: Cluster) -> Iterator[Kubelets]:
    with Kubelets(cluster) as found:
        yield found


class Told:
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.details: list[str] = []
        self.problems: list[Problem] = []
        self.reporter = Reporter(self.steps.append, self.details.append, self.problems.append)


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def kubeconfig(kubernetes_controllers: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a user's environment says."""
    monkeypatch.setenv("KUBECONFIG", str(kubernetes_controllers.kubeconfig))
    return kubernetes_controllers.kubeconfig


def pod(name: str, *, node: str = "", labels: dict[str, str] | None = None, **status: Any) -> Json:
    """A pod as the API shows it."""
    metadata = {"name": name, "namespace": "demo", "uid": f"uid-of-{name}", "labels": labels or {}}
    return {"metadata": metadata, "spec": {"nodeName": node} if node else {}, "status": status}
