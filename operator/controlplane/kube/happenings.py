"""What is told as events: findings, what cannot be read or written, other meshes, refused callers. Pure."""

from __future__ import annotations

from controlplane.kube.permissions import TRUST_BUNDLE
from controlplane.translate.finding import Finding
from resources.kube.event_codec import Notice
from resources.kube.kinds import API_KINDS
from resources.objects import KubernetesObject, ObjectKey, Pod
from resources.problem import Problem

REPORTER = "ambimesh.dev/operator"
DEPLOYMENT = "ambimesh-operator"
"""Where what concerns the mesh as a whole is told."""
_OTHERS = {
    ("app", "ztunnel"): "Istio's ztunnel",
    ("app.kubernetes.io/name", "ambimesh-agent"): "the agent of another ambimesh",
    ("app.kubernetes.io/name", "ambimesh-ztunnel"): "the ztunnel of another ambimesh",
    ("app.kubernetes.io/name", "ambimesh-operator"): "the operator of another ambimesh",
}


def of_finding(finding: Finding, value: KubernetesObject | None) -> Notice:
    """An object asks for what it does not get; ``value`` is the object, where it is known."""
    return _at(finding.object, value, finding.condition.value, "Translate", finding.message)


def of_problem(problem: Problem, value: KubernetesObject | None, own_namespace: str) -> Notice:
    """An object that cannot be read; or a whole kind, which is told at the operator."""
    text = f"{problem.message}{f', at {problem.field}' if problem.field else ''}"
    text += f"; {problem.remedy}" if problem.remedy else ""
    if problem.key is None or not problem.key.name or problem.key.kind not in API_KINDS:
        return of_operator(own_namespace, "NotRead", "Read", text)
    return _at(problem.key, value, "Invalid", "Read", f"{text}; its last good version, if any, stays in force")


def of_other_mesh(what: str, where: ObjectKey, own_namespace: str) -> Notice:
    """A pod of another mesh runs in this cluster."""
    note = (
        f"{what} runs in this cluster (in namespace {where.namespace}): both answer to istio.io/dataplane-mode and "
        "would capture the same pods; uninstall one of them (ambimesh check --cluster tells more)"
    )
    return of_operator(own_namespace, "OtherMesh", "Observe", note)


def of_refusal(pod: Pod, reason: str) -> Notice:
    """A pod asked for a certificate that it does not get."""
    return _at(pod.key, pod, "CertificateRefused", "Sign", reason)


def of_unpublished_roots(namespace: str, reason: str) -> Notice:
    """A namespace does not get the root certificates; the ConfigMap may not even be there."""
    kind = API_KINDS["ConfigMap"]
    return Notice(
        about=ObjectKey("ConfigMap", namespace, TRUST_BUNDLE),
        api_version=kind.api_version(kind.versions[0]),
        reason="RootsNotPublished",
        action="Publish",
        note=f"ztunnels and waypoints of this namespace are not told whom to trust: {reason}",
    )


def of_operator(own_namespace: str, reason: str, action: str, note: str) -> Notice:
    """Something about the mesh as a whole."""
    kind = API_KINDS["Deployment"]
    return Notice(
        about=ObjectKey("Deployment", own_namespace, DEPLOYMENT),
        api_version=kind.api_version(kind.versions[0]),
        path=kind.path(kind.versions[0], own_namespace, DEPLOYMENT),
        reason=reason,
        action=action,
        note=note,
    )


def other_mesh(pod: Pod, own_namespace: str) -> str | None:
    """What of another ambient mesh a pod is; None for all others."""
    if pod.metadata.namespace == own_namespace or pod.status.ended:
        return None
    labels = pod.metadata.labels
    return next((what for (key, value), what in _OTHERS.items() if labels.get(key) == value), None)


def _at(key: ObjectKey, value: KubernetesObject | None, reason: str, action: str, note: str) -> Notice:
    kind = API_KINDS[key.kind]
    version = value.api_version.rpartition("/")[2] if value is not None else kind.versions[0]
    return Notice(
        about=key,
        api_version=kind.api_version(version),
        uid=value.metadata.uid if value is not None else "",
        path=kind.path(version, key.namespace, key.name),
        reason=reason,
        action=action,
        note=note,
    )
