"""What tests run in a cluster: the application's server on every node, and a pod to run programs in."""

from __future__ import annotations

import json
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.kit.cluster import Cluster
from tests.e2e.kit.mesh_images import APPLICATION_IMAGE
from tests.e2e.kit.node import Node
from tests.e2e.kit.waiting import eventually

SERVER = ("python", "/application/server.py")
"""The command of the application's server; `application/server.py` names its ports."""
_WEB = Path(__file__).parent / "manifests/web.yaml"
_READY = "--timeout=150s"
_GET = "import sys,urllib.request;print(urllib.request.urlopen(sys.argv[1],timeout=5).read().decode())"
_ECHO = (
    "import socket,sys;c=socket.create_connection((sys.argv[1],9000),5);c.sendall(b'over the wire');"
    "print(c.recv(100).decode())"
)


PROBES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "http": ({"httpGet": {"path": "/ready", "port": 8080}}, {"httpGet": {"path": "/ready", "port": 1}}),
    "tcp": ({"tcpSocket": {"port": 9000}}, {"tcpSocket": {"port": 1}}),
    "grpc": ({"grpc": {"port": 9090}}, {"grpc": {"port": 9000}}),
    "exec": ({"exec": {"command": ["true"]}}, {"exec": {"command": ["false"]}}),
}
"""By kind one that succeeds and one that fails, with the application's server."""


def pod(name: str, command: Sequence[str], node: Node | None = None) -> dict[str, Any]:
    """A pod of the application's image that runs a command, on a node or on any; for tests to change and `apply`."""
    container = {"name": name, "image": APPLICATION_IMAGE, "imagePullPolicy": "Never", "command": list(command)}
    spec: dict[str, Any] = {"containers": [container], "terminationGracePeriodSeconds": 0}
    if node is not None:
        spec["nodeName"] = node.name
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}}, "spec": spec}


def probed(name: str, probe: dict[str, Any]) -> dict[str, Any]:
    """A pod of the application's server, ready when the probe says so."""
    made = pod(name, SERVER)
    made["spec"]["containers"][0]["readinessProbe"] = {**probe, "periodSeconds": 1, "failureThreshold": 1}
    return made


def stateful(name: str, account: str = "default") -> list[dict[str, Any]]:
    """A StatefulSet of two of the application's servers, and the Service by which each is known by name."""
    template = probed(name, PROBES["grpc"][0])
    labels = template["metadata"]["labels"]
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"clusterIP": "None", "selector": labels, "ports": [{"name": "http", "port": 8080}]},
    }
    spec = {
        "serviceName": name,
        "replicas": 2,
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {**template["spec"], "serviceAccountName": account}},
    }
    return [service, {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": name}, "spec": spec}]


def job(name: str, command: Sequence[str], account: str = "default") -> dict[str, Any]:
    """A Job that runs a command to its end in two pods at once, and tries no pod again."""
    asking = pod(name, command)["spec"] | {"restartPolicy": "Never", "serviceAccountName": account}
    spec = {"backoffLimit": 0, "completions": 2, "parallelism": 2, "template": {"spec": asking}}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": spec}


def apply(cluster: Cluster, namespace: str, *objects: dict[str, Any]) -> None:
    """Create or change objects in a namespace."""
    manifest = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    cluster.kubectl("apply", f"--namespace={namespace}", "-f", "-", manifest=manifest)


def wait_ready(cluster: Cluster, namespace: str, *pods: str) -> None:
    """Wait until these pods are ready."""
    names = [f"pod/{name}" for name in pods]
    cluster.kubectl("wait", f"--namespace={namespace}", "--for=condition=Ready", *names, _READY)


def start_web(cluster: Cluster, namespace: str) -> None:
    """The Deployment and Service ``web``: the application's server, one replica on each of two nodes."""
    manifest = string.Template(_WEB.read_text()).substitute(image=APPLICATION_IMAGE)
    cluster.kubectl("apply", f"--namespace={namespace}", "-f", "-", manifest=manifest)
    cluster.rolled_out("deployment/web", f"--namespace={namespace}")


def web_pods(cluster: Cluster, namespace: str) -> dict[str, dict[str, Any]]:
    """Its pods by the node they are on, without those that are ending."""
    pods = cluster.objects("pods", "--selector=app=web", f"--namespace={namespace}")
    return {found["spec"]["nodeName"]: found for found in pods if "deletionTimestamp" not in found["metadata"]}


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for one request (``application/ask.py``)."""

    status: int
    """0: nothing."""
    body: Any
    error: str

    @property
    def pod(self) -> str:
        """Which of the application's pods answered; empty if it was none of them."""
        return str(self.body.get("pod", "")) if isinstance(self.body, dict) else ""


class Client:
    """A pod to run programs in, on the first node unless told otherwise."""

    def __init__(
        self,
        cluster: Cluster,
        namespace: str,
        name: str = "client",
        node: Node | None = None,
        account: str = "default",
    ) -> None:
        self._cluster = cluster
        self.namespace = namespace
        self.name = name
        made = pod(name, ["sleep", "infinity"], node or cluster.nodes[0])
        made["spec"]["serviceAccountName"] = account
        apply(cluster, namespace, made)
        wait_ready(cluster, namespace, name)

    def run(self, *command: str) -> str:
        """Run a command in it and return what it printed.

        Raises:
            KubectlFailed: it failed.
        """
        return self._cluster.kubectl("exec", f"--namespace={self.namespace}", self.name, "--", *command)

    def get(self, url: str) -> dict[str, Any]:
        """What the application's server answers."""
        found: dict[str, Any] = json.loads(self.run("python", "-c", _GET, url))
        return found

    def ask(self, url: str, times: int = 1, **headers: str) -> list[Answer]:
        """What comes back for requests, each on a connection of its own; ``_`` in a header's name stands for ``-``."""
        given = [f"--header={name.replace('_', '-')}={value}" for name, value in headers.items()]
        said = self.run("python", "/application/ask.py", url, f"--times={times}", *given)
        return [Answer(**each) for each in json.loads(said)]

    def echo(self, host: str) -> str:
        """What the application's echo sends back of "over the wire"."""
        return self.run("python", "-c", _ECHO, host).strip()

    def asking(self, url: str) -> list[str]:
        """The command that asks a URL and prints the answer, for other pods."""
        return ["python", "-c", _GET, url]


def refused(client: Client, url: str, seconds: float = 30.0) -> None:
    """Wait until a client's connections to a URL end without an answer."""

    def look() -> None:
        (said,) = client.ask(url)
        assert re.search("reset by peer|RemoteDisconnected", said.error), said

    eventually(look, seconds=seconds)
