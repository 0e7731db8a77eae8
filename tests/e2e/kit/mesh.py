"""The mesh in a test cluster: installed as a user does, and asked what it saw."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

from ambimesh.cluster import readiness, ztunnels
from ambimesh.cluster.client_driver import Cluster as Api
from resources.kube.kinds import API_KINDS
from tests.e2e.kit.cluster import Cluster
from tests.e2e.kit.definitions import definition
from tests.e2e.kit.node import Node
from tests.e2e.kit.waiting import eventually
from tests.e2e.kit.workloads import apply

NAMESPACE = "ambimesh-system"
PARTS = ("deployment/ambimesh-operator", "daemonset/ambimesh-agent", "daemonset/ambimesh-ztunnel")
AMBIENT = "istio.io/dataplane-mode=ambient"
_POLICIES = ("PeerAuthentication", "AuthorizationPolicy")
_GATEWAYS = ("GatewayClass", "Gateway", "HTTPRoute")
_TRAFFIC = ("DestinationRule",)
_SECONDS = 240.0
_FIELD = re.compile(r'([a-z_.]+)="?([^" ]*)"?')


class Mesh:
    """The ``ambimesh`` command on a cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.kubectl = cluster.kubectl

    def install(self) -> None:
        """Install it with the cluster's own images.

        Raises:
            AssertionError: it did not become ready; the message holds what the command and the parts said.
        """
        self.run("install", "--set", "images.pullPolicy=Never", "--timeout", "120")

    def uninstall(self) -> None:
        """Take it out.

        Raises:
            AssertionError: something stayed.
        """
        self.run("uninstall", "--yes", "--timeout", "120")

    @property
    def is_installed(self) -> bool:
        """Whether anything of it is in the cluster."""
        return bool(self.cluster.objects("namespaces", "--selector=app.kubernetes.io/part-of=ambimesh"))

    def logs(self, component: str, node: Node | None = None) -> str:
        """What a component's processes have logged since they were started; of all nodes, or of one."""
        selector = f"--selector=app.kubernetes.io/name=ambimesh-{component}"
        place = (f"--namespace={NAMESPACE}", selector)
        if node is None:
            return self.kubectl("logs", *place, "--tail=-1", "--prefix")
        pods = self.cluster.objects("pods", *place, f"--field-selector=spec.nodeName={node.name}")
        return "".join(self.kubectl("logs", place[0], found["metadata"]["name"]) for found in pods)

    def connections(self, node: Node | None = None) -> list[dict[str, str]]:
        """The access log of the ztunnels that run, of all nodes or of one."""
        lines = (line for line in self.logs("ztunnel", node).splitlines() if " connection complete " in line)
        return [dict(_FIELD.findall(line)) for line in lines]

    def dumps(self) -> dict[str, dict[str, Any]]:
        """By node, what its ztunnel works from."""
        with self.cluster.network.entered():
            api = Api(kubeconfig=str(self.cluster.plane.kubeconfig))
            return {on: ztunnels.fetch(api, NAMESPACE, name) for on, name in ztunnels.pods(api, NAMESPACE).items()}

    def served(self, namespace: str) -> set[str]:
        """Names of a namespace's pods that the nodes' ztunnels serve."""
        pods = (pod.get("name", "").partition("/") for dump in self.dumps().values() for pod in dump["pods"])
        return {name for space, _, name in pods if space == namespace}

    def bug_report(self, file: Path) -> dict[str, str]:
        """Have a bug report written, and read what it holds."""
        assert str(file) in self.run("bug-report", "-f", str(file))
        with tarfile.open(file) as archive:
            return {
                name.removeprefix("ambimesh-bug-report/"): opened.read().decode()
                for name in archive.getnames()
                if (opened := archive.extractfile(name)) is not None
            }

    def asked(self, *command: str) -> Any:
        """What a command answers in JSON.

        Raises:
            AssertionError: it failed.
        """
        done = self.attempt(*command, "-o", "json")
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
        return json.loads(done.stdout)

    def captured(self, namespace: str) -> dict[str, bool]:
        """The pods of a namespace, and whether the agent calls each captured."""
        pods = self.cluster.objects("pods", f"--namespace={namespace}")
        found = {pod["metadata"]["name"]: pod["metadata"].get("annotations", {}) for pod in pods}
        return {name: each.get("ambient.istio.io/redirection") == "enabled" for name, each in found.items()}

    def wait_captured(self, namespace: str, seconds: float) -> None:
        """Wait until the agent calls all pods of a namespace captured. Raises AssertionError: not in that time."""

        def all_are() -> None:
            found = self.captured(namespace)
            assert found
            assert all(found.values()), found

        eventually(all_are, seconds=seconds)

    def define_policies(self) -> None:
        """Have the API server know the kinds of policies."""
        self._define(*_POLICIES)

    def forget_policies(self) -> None:
        """Take those kinds, with all policies, away."""
        self._forget(*_POLICIES)

    def define_gateways(self) -> None:
        """Have the API server know the Gateway API, as far as waypoints need it."""
        self._define(*_GATEWAYS)

    def forget_gateways(self) -> None:
        """Take those kinds, with all waypoints, away."""
        self._forget(*_GATEWAYS)

    def define_traffic(self) -> None:
        """Have the API server know Istio's rules for destinations."""
        self._define(*_TRAFFIC)

    def forget_traffic(self) -> None:
        """Take that kind, with all rules, away."""
        self._forget(*_TRAFFIC)

    def checked(self) -> dict[str, dict[str, Any]]:
        """What ``check --cluster`` finds, by the name of the check; some may have failed."""
        found: list[dict[str, Any]] = json.loads(self.attempt("check", "--cluster", "-o", "json").stdout)
        return {each["name"]: each for each in found}

    def not_ready_because(self, component: str, node: Node) -> str:
        """What a component's pod of a node says of why it is not ready; empty if it is."""
        selector = f"--selector=app.kubernetes.io/name=ambimesh-{component}"
        place = (f"--namespace={NAMESPACE}", selector, f"--field-selector=spec.nodeName={node.name}")
        with self.cluster.network.entered():
            api = Api(kubeconfig=str(self.cluster.plane.kubeconfig))
            return " ".join(readiness.not_ready_because(api, pod) for pod in self.cluster.objects("pods", *place))

    def _define(self, *kinds: str) -> None:
        for name in kinds:
            kind = API_KINDS[name]
            self.kubectl("apply", "-f", "-", manifest=json.dumps(definition(kind)))
            place = f"customresourcedefinition/{kind.plural}.{kind.group}"
            self.kubectl("wait", "--for=condition=Established", place, "--timeout=60s")

    def _forget(self, *kinds: str) -> None:
        places = (f"customresourcedefinition/{API_KINDS[name].plural}.{API_KINDS[name].group}" for name in kinds)
        self.kubectl("delete", *places, "--ignore-not-found")

    def apply_policy(self, namespace: str, kind: str, name: str, spec: dict[str, Any]) -> None:
        """Make a policy."""
        version = f"{API_KINDS[kind].group}/{API_KINDS[kind].versions[0]}"
        apply(self.cluster, namespace, {"apiVersion": version, "kind": kind, "metadata": {"name": name}, "spec": spec})

    def run(self, *command: str) -> str:
        """Run the command, and return what it said.

        Raises:
            AssertionError: it failed; the message holds what it and the parts said.
        """
        done = self.attempt(*command)
        if done.returncode:
            parts = "\n".join(self.logs(part)[-3000:] for part in ("operator", "agent", "ztunnel"))
            raise AssertionError(f"{command[0]}: {done.stdout}{done.stderr}\n{parts}\n{self.cluster.trouble()}")
        return done.stdout + done.stderr

    def attempt(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run the command, which may fail."""
        program = Path(sys.executable).with_name("ambimesh")
        return subprocess.run(
            self.cluster.command(program, *command),
            capture_output=True,
            text=True,
            check=False,
            timeout=_SECONDS * 2,
            # A lab that runs on this machine is not meant.
            env={**self.cluster.plane.environment(), "AMBIMESH_LAB": "none-of-these"},
        )
