"""``ambimesh lab status``."""

from __future__ import annotations

from typing import Any

from ambimesh import output
from ambimesh.commands import route_status
from ambimesh.lab.processes import Processes
from ambimesh.lab.record import Lab
from ambimesh.output import OutputFormat, console
from resources.folder_store import FolderStore
from resources.objects import SERVICE_NAME_LABEL, EndpointSlice, Namespace, Pod, Service

_MODE_LABEL = "istio.io/dataplane-mode"
_REDIRECTION = "ambient.istio.io/redirection"


def show(lab: Lab, out: OutputFormat) -> None:
    """Print the lab's nodes, processes, pods, Services and routes."""
    facts = collect(lab)
    if out is not OutputFormat.SHORT:
        output.print_value(facts, out)
        return
    for title, columns, rows in sections(facts):
        if title == "routes" and not rows:
            continue
        console.print(f"[bold cyan]{title}[/bold cyan]")
        output.print_table(columns, rows)
        console.print()


def collect(lab: Lab) -> dict[str, Any]:
    """The lab's state as plain values."""
    store = FolderStore(lab.layout.cluster)
    endpoints: dict[tuple[str, str], list[str]] = {}
    for entry in store.of_kind(EndpointSlice):
        owner = (entry.metadata.namespace, entry.metadata.labels.get(SERVICE_NAME_LABEL, ""))
        ready = [ip for one in entry.endpoints if one.conditions.ready is not False for ip in one.addresses]
        endpoints.setdefault(owner, []).extend(ready)
    return {
        "lab": lab.layout.name,
        "nodes": [
            {"name": node.name, "addresses": [node.ipv4, node.ipv6], "pods": [node.pods_ipv4, node.pods_ipv6]}
            for node in lab.nodes
        ],
        "processes": [
            {"name": status.spec.name, "running": status.running, "pid": status.pid}
            for status in Processes(lab.layout).statuses()
        ],
        "namespaces": [
            {"name": one.metadata.name, "mode": one.metadata.labels.get(_MODE_LABEL, "")}
            for one in store.of_kind(Namespace)
        ],
        "pods": [_pod(pod) for pod in store.of_kind(Pod)],
        "services": [
            {
                "namespace": one.metadata.namespace,
                "name": one.metadata.name,
                "addresses": list(one.spec.virtual_addresses),
                "ports": [f"{port.port}/{port.protocol}" for port in one.spec.ports],
                "endpoints": sorted(endpoints.get((one.metadata.namespace, one.metadata.name), [])),
            }
            for one in store.of_kind(Service)
        ],
        "routes": route_status.routes(store),
    }


def sections(facts: dict[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, column heads and rows of each table."""
    return [
        (
            "nodes",
            ["NAME", "ADDRESSES", "POD RANGES"],
            [[one["name"], " ".join(one["addresses"]), " ".join(one["pods"])] for one in facts["nodes"]],
        ),
        (
            "processes",
            ["NAME", "STATE", "PID"],
            [
                [one["name"], "running" if one["running"] else "stopped", str(one["pid"] or "-")]
                for one in facts["processes"]
            ],
        ),
        (
            "pods",
            ["NAMESPACE", "NAME", "READY", "STATUS", "RESTARTS", "NODE", "MESH", "ADDRESSES"],
            [
                [
                    one["namespace"],
                    one["name"],
                    one["ready"],
                    one["status"],
                    str(one["restarts"]),
                    one["node"] or "-",
                    one["mesh"] or "-",
                    " ".join(one["addresses"]) or "-",
                ]
                for one in facts["pods"]
            ],
        ),
        (
            "services",
            ["NAMESPACE", "NAME", "ADDRESSES", "PORTS", "ENDPOINTS"],
            [
                [
                    one["namespace"],
                    one["name"],
                    " ".join(one["addresses"]) or "none",
                    " ".join(one["ports"]),
                    " ".join(one["endpoints"]) or "none",
                ]
                for one in facts["services"]
            ],
        ),
        ("routes", route_status.COLUMNS, [route_status.row(one) for one in facts["routes"]]),
    ]


def _pod(pod: Pod) -> dict[str, Any]:
    containers = pod.status.container_statuses or []
    return {
        "namespace": pod.metadata.namespace,
        "name": pod.metadata.name,
        "ready": f"{sum(1 for one in containers if one.get('ready'))}/{len(pod.spec.containers)}",
        "status": _state(pod, containers),
        "message": pod.status.message or "",
        "restarts": sum(one.get("restartCount", 0) for one in containers),
        "node": pod.spec.node_name,
        "mesh": pod.metadata.annotations.get(_REDIRECTION, ""),
        "addresses": list(pod.status.addresses),
    }


def _state(pod: Pod, containers: list[dict[str, Any]]) -> str:
    """As kubectl: a waiting container's reason says more than the phase."""
    if pod.status.reason:
        return pod.status.reason
    for one in containers:
        waiting = one.get("state", {}).get("waiting")
        if waiting and waiting.get("reason") not in (None, "ContainerCreating"):
            return str(waiting["reason"])
    return pod.status.phase or "Pending"
