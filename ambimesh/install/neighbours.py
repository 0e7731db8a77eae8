"""What else in a cluster has a hand in pods' traffic or in the mesh's objects: the judgements. Pure, on raw objects.

Two ambient meshes cannot share a cluster: they answer to the same labels, listen on the same port of the same pods, and
write the same annotation. Meshes with sidecars can: a pod has either. What is beside the mesh otherwise must leave its
CNI entry, and sockets before their Service addresses are translated, alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ambimesh.install.checks import MODE_LABEL, Finding, Level, some

Json = dict[str, Any]

_AMBIENT = {
    ("k8s-app", "istio-cni-node"): "Istio's CNI agent",
    ("app", "ztunnel"): "Istio's ztunnel",
    ("app.kubernetes.io/name", "ambimesh-agent"): "another ambimesh's agent",
    ("app.kubernetes.io/name", "ambimesh-ztunnel"): "another ambimesh's ztunnel",
    ("app.kubernetes.io/name", "ambimesh-operator"): "another ambimesh's operator",
}
"""Labels that ambient meshes put on their workloads, whatever these are called."""
_NAMES = {
    "istio-cni-node": "Istio's CNI agent",
    "ztunnel": "Istio's ztunnel",
    "ambimesh-agent": "another ambimesh's agent",
    "ambimesh-ztunnel": "another ambimesh's ztunnel",
    "ambimesh-operator": "another ambimesh's operator",
}
_ISTIO_CNI = "Istio's CNI agent"
_INJECTORS = {"istio-sidecar-injector": "Istio", "linkerd-proxy-injector": "Linkerd"}
"""Beginnings of the names of webhooks that put sidecars into pods."""


def ambient_meshes(workloads: Iterable[Json], istio_cni: Json | None, namespace: str) -> Finding:
    """Whether another ambient mesh captures pods by the same labels, a second installation of this one included.

    Args:
        workloads: DaemonSets and Deployments of all namespaces.
        istio_cni: the ConfigMap ``istio-cni-config``, which tells whether Istio's CNI agent does more than sidecars.
        namespace: the mesh's own.
    """
    name = "other meshes"
    found: dict[str, list[str]] = {}
    for one in workloads:
        what = _which(one)
        if what is not None and one["metadata"].get("namespace") != namespace:
            found.setdefault(what, []).append(f"{one['metadata'].get('namespace')}/{one['metadata']['name']}")
    if set(found) == {_ISTIO_CNI} and _says_no(istio_cni):
        detail = f"Istio's CNI agent ({some(found[_ISTIO_CNI])}) for sidecars only, whose pods stay out of this mesh"
        return Finding(name, Level.WARNING, detail, "keep its ambient mode off (AMBIENT_ENABLED in istio-cni-config)")
    if found:
        detail = "; ".join(f"{what}: {some(places)}" for what, places in sorted(found.items()))
        remedy = (
            f"one mesh only may answer to {MODE_LABEL}: uninstall the other (of an ambimesh: ambimesh uninstall "
            "--mesh-namespace with its namespace)"
        )
        return Finding(name, Level.FAILED, detail, remedy)
    return Finding(name, Level.OK, "none")


def sidecar_injectors(webhooks: Iterable[Json], namespaces: Iterable[Json]) -> list[Finding]:
    """Whether pods could get a sidecar and be captured as well.

    Args:
        webhooks: MutatingWebhookConfigurations.
        namespaces: all.
    """
    there = {
        mesh
        for one in webhooks
        for beginning, mesh in _INJECTORS.items()
        if str(one["metadata"]["name"]).startswith(beginning)
    }
    if not there:
        return []
    name = "sidecars"
    both = [
        str(one["metadata"]["name"])
        for one in namespaces
        if (one["metadata"].get("labels") or {}).get(MODE_LABEL) == "ambient" and _injects(one)
    ]
    meshes = " and ".join(sorted(there))
    if both:
        remedy = f"take one of the labels away: {MODE_LABEL}, or that of the injector"
        detail = f"{meshes} puts sidecars into pods of enrolled namespaces ({some(both)}), which keeps them out"
        return [Finding(name, Level.WARNING, detail, remedy)]
    return [Finding(name, Level.OK, f"{meshes} has an injector, and no enrolled namespace asks for it")]


def cilium(configuration: Json | None) -> list[Finding]:
    """Whether Cilium leaves the CNI entry and sockets alone; ``configuration`` is the ConfigMap ``cilium-config``."""
    if configuration is None:
        return []
    data: Mapping[str, str] = configuration.get("data") or {}
    name = "Cilium"
    findings = []
    if data.get("cni-exclusive") == "true":
        detail = "takes every other plugin's entry out of the nodes' CNI configuration (cni-exclusive)"
        findings.append(Finding(name, Level.FAILED, detail, "Cilium's value cni.exclusive=false"))
    balances = data.get("bpf-lb-sock") == "true" or data.get("kube-proxy-replacement") in ("true", "strict")
    if balances and data.get("bpf-lb-sock-hostns-only") != "true":
        detail = "translates Services' addresses in pods' sockets, so the mesh may not see which Service was called"
        findings.append(Finding(name, Level.WARNING, detail, "Cilium's value socketLB.hostNamespaceOnly=true"))
    return findings or [Finding(name, Level.OK, "leaves CNI entries and pods' sockets alone")]


def gateway_class(found: Json | None, controller: str) -> Finding | None:
    """Whether a GatewayClass of ours is somebody else's already."""
    if found is None or (found.get("spec") or {}).get("controllerName") in (None, controller):
        return None
    name, other = found["metadata"]["name"], found["spec"]["controllerName"]
    remedy = f"delete it, or leave it to its controller (of {name} of Istio: waypoints.istioClass=false)"
    return Finding("GatewayClass", Level.FAILED, f"{name} belongs to the controller {other}", remedy)


def _which(workload: Json) -> str | None:
    labels = workload["metadata"].get("labels") or {}
    template = ((workload.get("spec") or {}).get("template") or {}).get("metadata") or {}
    for (key, value), what in _AMBIENT.items():
        if value in (labels.get(key), (template.get("labels") or {}).get(key)):
            return what
    return _NAMES.get(workload["metadata"]["name"])


def _says_no(istio_cni: Json | None) -> bool:
    return istio_cni is not None and str((istio_cni.get("data") or {}).get("AMBIENT_ENABLED", "")).lower() == "false"


def _injects(namespace: Json) -> bool:
    metadata = namespace["metadata"]
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    asks: Sequence[str | None] = (labels.get("istio-injection"), annotations.get("linkerd.io/inject"))
    return "enabled" in asks or "ingress" in asks or ("istio.io/rev" in labels and asks[0] != "disabled")
