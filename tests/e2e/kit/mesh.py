"""The mesh in a test cluster: installed as a user does, and asked what it saw."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from resources.kube.kinds import API_KINDS
from tests.e2e.kit.cgroups import find_hierarchies
from tests.e2e.kit.cluster import Cluster
from tests.e2e.kit.definitions import definition
from tests.e2e.kit.workloads import apply

NAMESPACE = "ambimesh-system"
PARTS = ("deployment/ambimesh-operator", "daemonset/ambimesh-agent", "daemonset/ambimesh-ztunnel")
AMBIENT = "istio.io/dataplane-mode=ambient"
_POLICIES = ("PeerAuthentication", "AuthorizationPolicy")
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
        (unified,) = (each.mounted for each in find_hierarchies() if each.kind == "cgroup2")
        self._run("install", "--set", "images.pullPolicy=Never", "--set", f"agent.cgroup={unified}", "--timeout", "120")

    def uninstall(self) -> None:
        """Take it out.

        Raises:
            AssertionError: something stayed.
        """
        self._run("uninstall", "--yes", "--timeout", "120")

    def logs(self, component: str) -> str:
        """What a component's processes have logged, of all nodes."""
        selector = f"--selector=app.kubernetes.io/name=ambimesh-{component}"
        return self.kubectl("logs", f"--namespace={NAMESPACE}", selector, "--tail=-1", "--prefix")

    def connections(self) -> list[dict[str, str]]:
        """The access log of all nodes' ztunnels that run."""
        lines = (line for line in self.logs("ztunnel").splitlines() if " connection complete " in line)
        return [dict(_FIELD.findall(line)) for line in lines]

    def captured(self, namespace: str) -> dict[str, bool]:
        """The pods of a namespace, and whether the agent calls each captured."""
        pods = self.cluster.objects("pods", f"--namespace={namespace}")
        found = {pod["metadata"]["name"]: pod["metadata"].get("annotations", {}) for pod in pods}
        return {name: each.get("ambient.istio.io/redirection") == "enabled" for name, each in found.items()}

    def define_policies(self) -> None:
        """Have the API server know the kinds of policies."""
        for name in _POLICIES:
            kind = API_KINDS[name]
            self.kubectl("apply", "-f", "-", manifest=json.dumps(definition(kind)))
            place = f"customresourcedefinition/{kind.plural}.{kind.group}"
            self.kubectl("wait", "--for=condition=Established", place, "--timeout=60s")

    def forget_policies(self) -> None:
        """Take those kinds, with all policies, away."""
        places = (f"customresourcedefinition/{API_KINDS[name].plural}.{API_KINDS[name].group}" for name in _POLICIES)
        self.kubectl("delete", *places, "--ignore-not-found")

    def apply_policy(self, namespace: str, kind: str, name: str, spec: dict[str, Any]) -> None:
        """Make a policy."""
        version = f"{API_KINDS[kind].group}/{API_KINDS[kind].versions[0]}"
        apply(self.cluster, namespace, {"apiVersion": version, "kind": kind, "metadata": {"name": name}, "spec": spec})

    def _run(self, *command: str) -> None:
        program = Path(sys.executable).with_name("ambimesh")
        done = subprocess.run(
            self.cluster.command(program, *command),
            capture_output=True,
            text=True,
            check=False,
            timeout=_SECONDS * 2,
            env=self.cluster.plane.environment(),
        )
        if done.returncode:
            parts = "\n".join(self.logs(part)[-3000:] for part in ("operator", "agent", "ztunnel"))
            raise AssertionError(f"{command[0]}: {done.stdout}{done.stderr}\n{parts}\n{self.cluster.trouble()}")
