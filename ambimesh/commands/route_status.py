"""What became of routes, as their ``status`` says: one row for each route and parent."""

from __future__ import annotations

from typing import Any

from ambimesh.cluster.object_store import ObjectStore
from controlplane.translate.status import CONTROLLER_NAME
from resources.base import Condition
from resources.gateway import ParentReference
from resources.objects import GRPCRoute, HTTPRoute, TCPRoute, TLSRoute

_Route = HTTPRoute | GRPCRoute | TLSRoute | TCPRoute
COLUMNS = ["NAMESPACE", "ROUTE", "PARENT", "ACCEPTED", "RESOLVED", "REASON"]
_ACCEPTED, _RESOLVED = "Accepted", "ResolvedRefs"


def routes(store: ObjectStore, namespace: str | None = None) -> list[dict[str, Any]]:
    """All routes and what the operator has made of them; of one namespace, or of all."""
    found: list[dict[str, Any]] = []
    for kind in (HTTPRoute, GRPCRoute, TLSRoute, TCPRoute):
        for route in store.of_kind(kind):
            assert isinstance(route, _Route)
            if namespace not in (None, route.metadata.namespace):
                continue
            name = {"namespace": route.metadata.namespace, "kind": kind.__name__, "name": route.metadata.name}
            parents = () if route.status is None else route.status.parents
            told = [
                {
                    **name,
                    "parent": _parent(one.parent_ref, route.metadata.namespace),
                    "conditions": [_condition(condition) for condition in one.conditions],
                }
                for one in parents
                if one.controller_name == CONTROLLER_NAME
            ]
            # No parent is ours, or the operator has not seen it yet.
            found += told or [{**name, "parent": "", "conditions": []}]
    return sorted(found, key=lambda one: (one["namespace"], one["kind"], one["name"], one["parent"]))


def row(route: dict[str, Any]) -> list[str]:
    """Of the table with :data:`COLUMNS`."""
    conditions = {one["type"]: one for one in route["conditions"]}

    def status(kind: str) -> str:
        return str(conditions[kind]["status"]) if kind in conditions else "Unknown"

    wrong = [
        f"{one['reason']}: {one['message']}" if one["message"] else str(one["reason"])
        for one in route["conditions"]
        # Any other condition says that something is amiss where it is true.
        if one["status"] != ("True" if one["type"] in (_ACCEPTED, _RESOLVED) else "False")
    ]
    reason = "; ".join(wrong)
    if not route["conditions"]:
        reason = "no parent is a Service or waypoint of the mesh, or the operator has not seen it yet"
    return [
        route["namespace"], f"{route['kind']}/{route['name']}", route["parent"] or "-", status(_ACCEPTED),
        status(_RESOLVED), reason or "-",
    ]  # fmt: skip


def serves(route: dict[str, Any]) -> bool:
    """Whether nothing is amiss with it."""
    return bool(route["conditions"]) and row(route)[-1] == "-"


def _parent(reference: ParentReference, namespace: str) -> str:
    place = f"{reference.kind} {reference.namespace or namespace}/{reference.name}"
    return place if reference.port is None else f"{place}:{reference.port}"


def _condition(value: Condition) -> dict[str, str]:
    return {"type": value.type, "status": value.status, "reason": value.reason, "message": value.message}
