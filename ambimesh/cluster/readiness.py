"""What the mesh's own pods say of themselves: whether they are ready, and of what they cannot read."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import msgspec

from ambimesh.cluster import port_forward_driver
from ambimesh.cluster.client_driver import Cluster, Json
from mesh.errors import InvalidMessage, MeshError

COMPONENT_LABEL = "app.kubernetes.io/component"
OPERATOR_PORT = 15014
_PORTS: Mapping[str, int] = MappingProxyType({"operator": OPERATOR_PORT, "agent": 15014, "ztunnel": 15021})
_MOST = 400


class _Findings(msgspec.Struct, frozen=True):
    problems: list[str] = []


def not_ready_because(cluster: Cluster, pod: Json) -> str:
    """Why a pod of the mesh says that it is not ready; empty if it does not say so, or cannot be asked."""
    labels = pod["metadata"].get("labels") or {}
    port = _PORTS.get(labels.get(COMPONENT_LABEL, ""))
    if port is None or pod.get("status", {}).get("phase") != "Running":
        return ""
    metadata = pod["metadata"]
    try:
        status, body = port_forward_driver.get(cluster, metadata["namespace"], metadata["name"], port, "/healthz/ready")
    except MeshError:
        return ""
    return body.decode(errors="replace").strip()[:_MOST] if status != 200 else ""


def problems(cluster: Cluster, operator: Json) -> list[str]:
    """What an operator cannot read: kinds and objects, with the reason and the remedy.

    Raises:
        ConnectFailed: it cannot be reached.
        InvalidMessage: its answer is none.
    """
    metadata = operator["metadata"]
    place = metadata["namespace"], metadata["name"]
    status, body = port_forward_driver.get(cluster, *place, OPERATOR_PORT, "/debug/findings")
    try:
        return msgspec.json.decode(body, type=_Findings).problems
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidMessage(f"{'/'.join(place)} answered {status} to /debug/findings: {body[:100]!r}") from error
