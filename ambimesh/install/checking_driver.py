"""Looks at a cluster for what ``checks`` judges. Nothing is changed; what cannot be looked at is a finding, too."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from email.utils import parsedate_to_datetime
from functools import partial
from importlib.metadata import version as installed_version

from ambimesh.cluster.client_driver import Cluster, Json
from ambimesh.cluster.readiness import COMPONENT_LABEL, not_ready_because, problems
from ambimesh.install import checks, neighbours
from ambimesh.install.checks import Finding, Level
from ambimesh.install.installing_driver import read_record
from controlplane.translate.status import CONTROLLER_NAME
from mesh.clock import utc_now
from mesh.errors import MeshError

_WANTED = (
    ("create", "", "namespaces"),
    ("create", "", "serviceaccounts"),
    ("create", "", "configmaps"),
    ("create", "", "services"),
    ("create", "apps", "deployments"),
    ("create", "apps", "daemonsets"),
    ("create", "policy", "poddisruptionbudgets"),
    ("create", "rbac.authorization.k8s.io", "roles"),
    ("create", "rbac.authorization.k8s.io", "rolebindings"),
    ("create", "rbac.authorization.k8s.io", "clusterroles"),
    ("create", "rbac.authorization.k8s.io", "clusterrolebindings"),
    ("escalate", "rbac.authorization.k8s.io", "clusterroles"),
)
_WAYPOINT_CLASS = "ambimesh-waypoint"
_GATEWAY_VERSION = "gateway.networking.k8s.io/v1"
_GATEWAYS = "gateways.gateway.networking.k8s.io"
_NODES_EVENTS = "default"
"""Where events of what is in no namespace are."""
_PART_OF = "app.kubernetes.io/part-of=ambimesh"


def check_cluster(cluster: Cluster, namespace: str, *, installation: bool = True) -> list[Finding]:
    """Everything, in the order in which one depends on the other.

    Args:
        cluster: the cluster.
        namespace: the mesh's.
        installation: whether to look at what is installed, too.

    Raises:
        ConnectFailed: the API server does not answer: there is nothing to look at.
        MeshError: it does not let the user ask for its version.
    """
    findings = [Finding("API server", Level.OK, cluster.server), checks.kubernetes_version(cluster.version())]
    findings += _looked("rights", lambda: [_rights(cluster)])
    nodes: list[Json] = []

    def look_at_nodes() -> list[Finding]:
        nodes.extend(cluster.all_of("v1", "Node"))
        return checks.nodes(nodes)

    findings += _looked("nodes", look_at_nodes)
    findings += _looked("clocks", lambda: [_clocks(cluster, nodes)])
    findings += _looked("Gateway API", lambda: [checks.gateway_api(_definition(cluster))])
    findings += _looked("other meshes", lambda: _neighbours(cluster, namespace))
    findings += _looked(
        "pod security", lambda: [checks.pod_security(cluster.find("v1", "Namespace", namespace), namespace)]
    )
    findings += _looked("NetworkPolicies", lambda: _policies(cluster))
    if installation:
        findings += _looked("installation", lambda: _installation(cluster, namespace, nodes))
    return findings


def failed(findings: Iterable[Finding]) -> list[Finding]:
    """Those that keep the mesh from working."""
    return [finding for finding in findings if finding.level is Level.FAILED]


def _looked(name: str, look: Callable[[], list[Finding]]) -> list[Finding]:
    try:
        return look()
    except MeshError as error:
        return [Finding(name, Level.FAILED, f"cannot be looked at: {error}")]


def _rights(cluster: Cluster) -> Finding:
    allowed = {(verb, plural): cluster.may(verb, group, plural) for verb, group, plural in _WANTED}
    return checks.rights([(verb, plural) for verb, _, plural in _WANTED], allowed)


def _clocks(cluster: Cluster, nodes: Iterable[Json]) -> Finding:
    server = parsedate_to_datetime(cluster.server_date())
    local = utc_now()
    ready = [node["metadata"]["name"] for node in nodes if checks.is_ready(node)]
    return checks.clocks(
        server, local, cluster.all_of("coordination.k8s.io/v1", "Lease", "kube-node-lease"), ready
    )


def _definition(cluster: Cluster) -> Json | None:
    return cluster.find("apiextensions.k8s.io/v1", "CustomResourceDefinition", _GATEWAYS)


def _neighbours(cluster: Cluster, namespace: str) -> list[Finding]:
    workloads = [*cluster.all_of("apps/v1", "DaemonSet"), *cluster.all_of("apps/v1", "Deployment")]
    istio_cni = next(_config_maps(cluster, "istio-cni-config"), None)
    webhooks = cluster.all_of("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration")
    gateway_class = None
    if cluster.has(_GATEWAY_VERSION, "GatewayClass"):
        gateway_class = cluster.find(_GATEWAY_VERSION, "GatewayClass", _WAYPOINT_CLASS)
    foreign_class = neighbours.gateway_class(gateway_class, CONTROLLER_NAME)
    return [
        neighbours.ambient_meshes(workloads, istio_cni, namespace),
        *neighbours.sidecar_injectors(webhooks, cluster.all_of("v1", "Namespace")),
        *neighbours.cilium(next(_config_maps(cluster, "cilium-config"), None)),
        *([foreign_class] if foreign_class is not None else ()),
    ]


def _config_maps(cluster: Cluster, name: str) -> Iterator[Json]:
    return cluster.all_of("v1", "ConfigMap", fields=f"metadata.name={name}")


def _policies(cluster: Cluster) -> list[Finding]:
    policies = list(cluster.all_of("networking.k8s.io/v1", "NetworkPolicy"))
    if not policies:
        return [Finding("NetworkPolicies", Level.OK, "none")]
    return checks.network_policies(policies, cluster.all_of("v1", "Pod"), cluster.all_of("v1", "Namespace"))


def _installation(cluster: Cluster, namespace: str, nodes: list[Json]) -> list[Finding]:
    client = installed_version("ambimesh")
    pods = list(cluster.all_of("v1", "Pod", namespace, labels=_PART_OF))
    record = read_record(cluster, namespace)
    images = [one["image"] for pod in pods for one in pod["spec"]["containers"]]
    findings = [checks.versions(client, None if record is None else record.version, images)]
    if record is None and not pods:
        return findings
    if record is not None and not record.complete:
        findings.append(
            Finding("installation", Level.FAILED, "the last attempt did not come to its end", "ambimesh install")
        )
    why = partial(not_ready_because, cluster)
    operators = [pod for pod in pods if pod["metadata"]["labels"].get(COMPONENT_LABEL) == "operator"]
    findings.append(checks.operators(operators, why))
    findings += [checks.coverage(nodes, pods, component, why) for component in ("agent", "ztunnel")]
    ready = next(filter(checks.is_ready, operators), None)
    if ready is not None:
        findings += _looked("objects and rights", lambda: [checks.unread(problems(cluster, ready))])
    return findings + _looked("CNI of nodes", lambda: _of_nodes(cluster, nodes))


def _of_nodes(cluster: Cluster, nodes: Iterable[Json]) -> list[Finding]:
    fields = "involvedObject.kind=Node,type=Warning,reportingComponent=ambimesh.dev/agent"
    events = cluster.all_of("v1", "Event", _NODES_EVENTS, fields=fields)
    return checks.node_events(events, [node["metadata"]["name"] for node in nodes])
