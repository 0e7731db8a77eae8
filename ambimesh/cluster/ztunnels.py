"""The ztunnels of a cluster: where they run, and what each works from."""

from __future__ import annotations

from ambimesh.cluster import port_forward_driver
from ambimesh.cluster.client_driver import Cluster
from ambimesh.dump_codec import ADMIN_PORT, Dump, body_of, read_dump
from mesh.errors import ConfigurationError

_SELECTOR = "app.kubernetes.io/component=ztunnel,app.kubernetes.io/part-of=ambimesh"


def pods(cluster: Cluster, namespace: str, node: str = "") -> dict[str, str]:
    """Names of the pods by node: of each node the newest that runs; of one node if it is named.

    Raises:
        ConfigurationError: there is none.
        MeshError: as ``Cluster.request``.
    """
    fields = f"spec.nodeName={node}" if node else ""
    found: dict[str, tuple[str, str]] = {}
    for pod in cluster.all_of("v1", "Pod", namespace, labels=_SELECTOR, fields=fields):
        on = pod.get("spec", {}).get("nodeName")
        if on and pod.get("status", {}).get("phase") == "Running":
            made = pod["metadata"].get("creationTimestamp", "")
            found[on] = max(found.get(on, ("", "")), (made, pod["metadata"]["name"]))
    if not found:
        place = f"on node {node}" if node else f"in namespace {namespace}"
        raise ConfigurationError(f"no ztunnel runs {place}; remedy: ambimesh check, or --mesh-namespace")
    return {on: name for on, (_, name) in found.items()}


def ask(cluster: Cluster, namespace: str, pod: str, path: str, method: str = "GET") -> bytes:
    """What a ztunnel's admin port answers.

    Raises:
        ConnectFailed: it cannot be reached.
        InvalidMessage: it refuses; the message holds why.
    """
    status, body = port_forward_driver.get(cluster, namespace, pod, ADMIN_PORT, path, method=method)
    return body_of(pod, f"{method} {path}", status, body)


def fetch(cluster: Cluster, namespace: str, pod: str) -> Dump:
    """The ``/config_dump`` of a ztunnel.

    Raises:
        ConnectFailed: it cannot be reached.
        InvalidMessage: its answer is no dump.
    """
    return read_dump(ask(cluster, namespace, pod, "/config_dump"), f"{pod} answered 200 and")
