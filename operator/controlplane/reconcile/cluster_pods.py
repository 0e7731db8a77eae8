"""How waypoints' pods run in a Kubernetes cluster: closed, and with what they prove themselves by. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from resources.pod import PodSpec, Probe

USER = 1337
"""As Istio's proxies; any but root's would do."""
ROLLOUT = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": 0}}
"""No replica goes before another one is ready."""
ROOTS_FOLDER = "/var/lib/ambimesh/roots"
TOKEN_FOLDER = "/var/lib/ambimesh/token"  # noqa: S105 -- a folder's name
_TOKEN_SECONDS = 43200


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterPods:
    """What an installation says of them."""

    image_pull_policy: str = "IfNotPresent"
    image_pull_secrets: tuple[str, ...] = ()
    """In the waypoints' own namespaces."""
    resources: dict[str, dict[str, str]] = field(default_factory=dict)
    """Requests and limits."""
    max_replicas: int | None = None
    """Of the autoscaler; None: there is none, and a Gateway's annotation says how many replicas there are."""
    cpu_utilization: int = 70
    """Per cent of the request that the autoscaler keeps to."""
    token_audience: str = "ambimesh"  # noqa: S105 -- whom a token is for
    root_bundle: str = "ambimesh-root-cert"
    """The ConfigMap of the root certificates, which is in every namespace with a waypoint."""


def closed(spec: PodSpec, pods: ClusterPods, selector: dict[str, str]) -> PodSpec:
    """A waypoint's pod, hardened, with its token and root certificates.

    Args:
        spec: with one container.
        pods: how they run.
        selector: of the Deployment's pods.
    """
    (container,) = spec.containers
    assert container.readiness_probe is not None
    start = Probe(http_get=container.readiness_probe.http_get, period_seconds=1, failure_threshold=60)
    container = msgspec.structs.replace(
        container,
        image_pull_policy=pods.image_pull_policy,
        resources=pods.resources or None,
        startup_probe=start,
        security_context={
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        volume_mounts=[
            {"name": "roots", "mountPath": ROOTS_FOLDER, "readOnly": True},
            {"name": "token", "mountPath": TOKEN_FOLDER, "readOnly": True},
            {"name": "scratch", "mountPath": "/tmp"},
        ],
    )
    token: dict[str, Any] = {"audience": pods.token_audience, "expirationSeconds": _TOKEN_SECONDS, "path": "token"}
    return msgspec.structs.replace(
        spec,
        containers=(container,),
        automount_service_account_token=False,
        image_pull_secrets=[{"name": name} for name in pods.image_pull_secrets] or None,
        security_context={
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        volumes=[
            {"name": "roots", "configMap": {"name": pods.root_bundle}},
            {"name": "token", "projected": {"sources": [{"serviceAccountToken": token}]}},
            {"name": "scratch", "emptyDir": {"medium": "Memory", "sizeLimit": "16Mi"}},
        ],
        topology_spread_constraints=[
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": selector},
                # Those that are being replaced do not count: the new ones would all go where these are not.
                "matchLabelKeys": ["pod-template-hash"],
            }
        ],
    )
