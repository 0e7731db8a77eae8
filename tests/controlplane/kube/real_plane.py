"""A real API server with the operator's rights and no others, and what tests do on it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import trio

from controlplane.kube.permissions import OPERATOR_CLUSTER, OPERATOR_NAMESPACE, TRUST_BUNDLE, Rule
from controlplane.testing.replica import NAMESPACE, Replica
from resources.kube.kinds import API_KINDS
from tests.e2e.kit.control_plane import ControlPlane
from tests.e2e.kit.definitions import definition

ACCOUNT = "ambimesh-operator"
LATER = {"TLSRoute", "TCPRoute"}
"""Kinds whose definitions are installed by a test."""
CUSTOM = [kind for kind in API_KINDS.values() if "." in kind.group and kind.group != "discovery.k8s.io"]


def role(kind: str, name: str, rules: Iterable[Rule], who: str = ACCOUNT) -> list[dict[str, Any]]:
    metadata = {"name": name, **({"namespace": NAMESPACE} if kind == "Role" else {})}
    group = "rbac.authorization.k8s.io"
    listed = [
        {
            "apiGroups": [rule.group],
            "resources": list(rule.resources),
            "verbs": list(rule.verbs),
            **({"resourceNames": list(rule.names)} if rule.names else {}),
        }
        for rule in rules
    ]
    subject = {"kind": "ServiceAccount", "name": who, "namespace": NAMESPACE}
    reference = {"apiGroup": group, "kind": kind, "name": name}
    return [
        {"apiVersion": f"{group}/v1", "kind": kind, "metadata": metadata, "rules": listed},
        {
            "apiVersion": f"{group}/v1",
            "kind": f"{kind}Binding",
            "metadata": metadata,
            "roleRef": reference,
            "subjects": [subject],
        },
    ]


def apply(plane: ControlPlane, *objects: dict[str, Any]) -> None:
    manifest = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    plane.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", manifest=manifest)


def namespace(name: str, **labels: str) -> dict[str, Any]:
    metadata = {"name": name, "labels": {key.replace("_", "/", 1): text for key, text in labels.items()}}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}


def account(where: str, name: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": where}}


def run_pod(plane: ControlPlane, where: str, name: str, who: str, node: str, address: str) -> str:
    """Make a pod and say of it what a kubelet would; its uid."""
    spec = {"serviceAccountName": who, "nodeName": node, "containers": [{"name": "c", "image": "none"}]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": where}, "spec": spec}
    apply(plane, account(where, who), pod)
    status = {
        "phase": "Running",
        "podIP": address,
        "podIPs": [{"ip": address}],
        "conditions": [{"type": "Ready", "status": "True"}],
    }
    patch = ("patch", "pod", name, "-n", where, "--subresource=status", "--type=merge", "-p")
    plane.kubectl(*patch, json.dumps({"status": status}))
    return plane.kubectl("get", "pod", name, "-n", where, "-o", "jsonpath={.metadata.uid}")


def pod_token(plane: ControlPlane, where: str, who: str, name: str, uid: str, audience: str = "istio-ca") -> str:
    bound = ("--bound-object-kind=Pod", f"--bound-object-name={name}", f"--bound-object-uid={uid}")
    return plane.token(where, who, *bound, f"--audience={audience}")


def prepare(plane: ControlPlane) -> None:
    """Definitions, namespaces and the operator's account with its rights."""
    apply(plane, namespace(NAMESPACE), namespace("shop", **{"istio.io_dataplane-mode": "ambient"}))
    installed = [kind for kind in CUSTOM if kind.name not in LATER]
    apply(plane, *map(definition, installed))
    for kind in installed:
        plane.kubectl("wait", "--for=condition=Established", f"crd/{kind.plural}.{kind.group}")
    apply(plane, account(NAMESPACE, ACCOUNT))
    apply(plane, *role("ClusterRole", ACCOUNT, OPERATOR_CLUSTER), *role("Role", ACCOUNT, OPERATOR_NAMESPACE))


def replica_of(
    plane: ControlPlane, folder: Path, name: str, waypoints: str = "", authority: str = "", who: str = ACCOUNT
) -> Replica:
    """An operator with the rights it has in a cluster; `waypoints` are settings beside the program and its image."""
    kubeconfig = plane.kubeconfig_with_token(f"operator-{name}", plane.token(NAMESPACE, who))

    def roots() -> bytes:
        return plane.kubectl(
            "get", "configmap", TRUST_BUNDLE, "-n", NAMESPACE, "-o", r"jsonpath={.data.root-cert\.pem}"
        ).encode()

    return Replica(folder, kubeconfig, name, roots, waypoints, authority)


def told(plane: ControlPlane, where: str) -> dict[tuple[str, str], list[str]]:
    """Notes of warnings, by object and reason."""
    found: dict[tuple[str, str], list[str]] = {}
    for event in json.loads(plane.kubectl("get", "events.events.k8s.io", "-n", where, "-o", "json"))["items"]:
        key = f"{event['regarding']['kind']} {event['regarding']['name']}", event["reason"]
        found.setdefault(key, []).append(event["note"])
    return found


async def eventually(condition: Callable[[], bool], seconds: float = 30) -> None:
    with trio.fail_after(seconds):
        while not await trio.to_thread.run_sync(condition):  # noqa: ASYNC110 -- of another process's state
            await trio.sleep(0.1)
