"""Taking the mesh out of a cluster, so that nothing of it stays and no pod's traffic stops.

First the agents take the mesh off their nodes, with ztunnels and operator still running: each pod is let go, outbound
first, and from then on its new connections are plain; the CNI entry, the plugin, programs, pins and pods' annotations
go. Only when every node has said so, the rest is deleted: first the operator, which would make again what is deleted
while it runs, its Lease as well. Connections that are inside of ztunnels then have their drain.

What the operator has made (waypoints' parts, root certificates in namespaces) goes too; what users have written
(Gateways, policies, labels of namespaces) stays, and means nothing to anybody until a mesh is installed again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ambimesh.cluster.client_driver import Cluster, Json
from ambimesh.install import record as records
from ambimesh.install.installing_driver import Reporter, delete_all, wait_for
from ambimesh.install.planning import Key, Phase, key_of
from controlplane.kube.permissions import TRUST_BUNDLE
from controlplane.kube.trust_bundle import TAKEN_OUT, is_ours, is_shared
from mesh.errors import ObjectMissing

MANAGED_LABEL = "ambimesh.dev/managed"
"""On what the operator makes of Gateways, so that nobody else's is taken for it."""
_MADE_KINDS = (
    ("autoscaling/v2", "HorizontalPodAutoscaler"),
    ("policy/v1", "PodDisruptionBudget"),
    ("apps/v1", "Deployment"),
    ("v1", "Service"),
    ("v1", "ServiceAccount"),
)
_OPERATORS_OWN = (
    ("v1", "Secret", "ambimesh-root"),
    ("v1", "Secret", "ambimesh-root-given-kept"),
    ("coordination.k8s.io/v1", "Lease", "ambimesh-operator"),
)


def clean_nodes(cluster: Cluster, objects: Sequence[Json], seconds: float, report: Reporter) -> None:
    """Have the agents take the mesh off all nodes.

    Args:
        cluster: the cluster.
        objects: of the installation, rendered with ``agent.action: uninstall``.
        seconds: to wait.
        report: where progress goes.

    Raises:
        EnvironmentLacks: a node is not clean in time; everything is left as it is, and the mesh's traffic goes on.
        MeshError: as ``Cluster.request``.
    """
    agents = tuple(
        value
        for value in objects
        if value["metadata"].get("labels", {}).get("app.kubernetes.io/component") == "agent"
        and value["kind"] in ("ConfigMap", "DaemonSet")
    )
    report.step("taking the mesh off the nodes")
    for value in agents:
        cluster.apply(value)
    wait_for(cluster, Phase("agent", agents), seconds, report)


def remove(cluster: Cluster, namespace: str, objects: Sequence[Key], seconds: float, report: Reporter) -> None:
    """Delete what was installed and what the operator has made.

    Raises:
        EnvironmentLacks: something does not go.
        MeshError: as ``Cluster.request``.
    """
    report.step("stopping the operator")
    delete_all(cluster, [key for key in objects if key.kind == "Deployment"], report, seconds, owned_first=True)
    report.step("deleting waypoints and root certificates")
    for value in _bundles(cluster):
        if is_shared(value):
            cluster.merge("v1", "ConfigMap", TRUST_BUNDLE, dict(TAKEN_OUT), value["metadata"]["namespace"])
    delete_all(cluster, list(made_by_operator(cluster)), report, seconds)
    report.step("deleting the mesh")
    own = [Key(version, kind, namespace, name) for version, kind, name in _OPERATORS_OWN]
    keys = [*objects, *own, Key("v1", "ConfigMap", namespace, records.NAME)]
    # The record goes last but for the namespace: without it nobody knows what is left.
    delete_all(cluster, [key for key in keys if key.kind != "Namespace" and key.name != records.NAME], report, seconds)
    delete_all(cluster, [key for key in keys if key.kind == "Namespace" or key.name == records.NAME], report, seconds)


def made_by_operator(cluster: Cluster) -> Iterator[Key]:
    """What the operator has made, in all namespaces. Raises as ``Cluster.request``."""
    for version, kind in _MADE_KINDS:
        try:
            for value in cluster.all_of(version, kind, labels=f"{MANAGED_LABEL}=waypoint"):
                yield key_of(value)
        except ObjectMissing:
            continue
    for value in _bundles(cluster):
        if not is_shared(value):
            yield key_of(value)


def _bundles(cluster: Cluster) -> Iterator[Json]:
    """ConfigMaps into which the operator has written the root certificates."""
    return filter(is_ours, cluster.all_of("v1", "ConfigMap", fields=f"metadata.name={TRUST_BUNDLE}"))
