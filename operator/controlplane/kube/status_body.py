"""What is sent to an object's ``status``, so that others' part of it stays. Pure.

Where the API merges conditions by their type (its own kinds and Gateways), ours alone are sent, and apply keeps the
others. A route's parents, a policy's ancestors and the conditions of Istio's kinds are one field to the API, owned as a
whole: there others' entries are sent along, as they were just read, with the version that was read, so that a change
meanwhile is refused instead of undone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from controlplane.translate.status import CONTROLLER_NAME, ObjectStatus, StatusCondition
from resources.gateway import GatewayStatus
from resources.objects import Gateway

OUR_TYPES = frozenset({"istio.io/WaypointBound", "ambimesh.dev/Accepted"})
"""Condition types that nobody else writes, so that they are ours to take away."""
MERGED_BY_TYPE = frozenset({"Namespace", "Service", "Gateway", "GatewayClass"})
"""Kinds whose conditions the API merges by their type."""
ROUTES = frozenset({"HTTPRoute", "GRPCRoute", "TCPRoute", "TLSRoute"})
_LISTS = {**dict.fromkeys(ROUTES, ("parents", "parentRef")), "BackendTLSPolicy": ("ancestors", "ancestorRef")}
"""Kinds whose status has an entry for each parent: the list, and what names the parent in an entry."""
_OUR_GATEWAY_TYPES = ("Accepted", "Programmed")


def gateway_status_body(gateway: Gateway, status: GatewayStatus) -> dict[str, Any]:
    """What is applied to a Gateway's status: its addresses and our two conditions."""
    conditions = [
        {
            "type": one.type,
            "status": one.status,
            "reason": one.reason,
            "message": one.message,
            "lastTransitionTime": one.last_transition_time,
            **({"observedGeneration": gateway.metadata.generation} if gateway.metadata.generation else {}),
        }
        for one in status.conditions
        if one.type in _OUR_GATEWAY_TYPES
    ]
    return {
        "apiVersion": gateway.api_version,
        "kind": gateway.kind,
        "metadata": {"name": gateway.metadata.name, "namespace": gateway.metadata.namespace},
        "status": {"addresses": msgspec.to_builtins(status.addresses), "conditions": conditions},
    }


def status_body(found: Mapping[str, Any], kind: str, wished: ObjectStatus, now: str) -> dict[str, Any] | None:
    """What is applied to an object's status; None when it says all of it already.

    Args:
        found: the object as the API has it.
        kind: its kind.
        wished: what is to be said.
        now: the wall clock as the API writes it; a condition keeps its time while its status does.
    """
    metadata = found["metadata"]
    generation = metadata.get("generation")
    status = found.get("status") or {}
    if kind in _LISTS:
        field, naming = _LISTS[kind]
        before = list(status.get(field) or ())
        after = _parents(before, wished, naming, now, generation)
        body = {field: after}
    else:
        before = list(status.get("conditions") or ())
        ours = _conditions(before, wished.conditions, now, generation)
        types = {one["type"] for one in ours}
        after = [
            *(one for one in before if one.get("type") not in types | OUR_TYPES),
            *ours,
        ]
        body = {"conditions": ours if kind in MERGED_BY_TYPE else after}
    if _sorted(before) == _sorted(after):
        return None
    sent = {"name": metadata["name"]}
    if metadata.get("namespace"):
        sent["namespace"] = metadata["namespace"]
    if kind not in MERGED_BY_TYPE:
        sent["resourceVersion"] = metadata["resourceVersion"]
    return {"apiVersion": found["apiVersion"], "kind": kind, "metadata": sent, "status": body}


def _parents(
    before: Iterable[dict[str, Any]], wished: ObjectStatus, naming: str, now: str, generation: int | None
) -> list[dict[str, Any]]:
    before = list(before)
    others = [one for one in before if one.get("controllerName") != CONTROLLER_NAME]
    mine = [one for one in before if one.get("controllerName") == CONTROLLER_NAME]
    ours = []
    for parent in wished.parents:
        reference = msgspec.to_builtins(parent.parent)
        old = next((one.get("conditions") or () for one in mine if _same_parent(one.get(naming), reference)), ())
        ours.append(
            {
                naming: reference,
                "controllerName": CONTROLLER_NAME,
                "conditions": _conditions(old, parent.conditions, now, generation),
            }
        )
    return [*others, *ours]


def _same_parent(named: Mapping[str, Any] | None, reference: Mapping[str, Any]) -> bool:
    defaults = {"group": "gateway.networking.k8s.io", "kind": "Gateway"}
    return {**defaults, **(named or {})} == {**defaults, **reference}


def _conditions(
    before: Iterable[Mapping[str, Any]], wished: Iterable[StatusCondition], now: str, generation: int | None
) -> list[dict[str, Any]]:
    made = []
    for one in wished:
        status = "True" if one.status else "False"
        old = next((each for each in before if each.get("type") == one.type), None)
        since = old.get("lastTransitionTime") if old is not None and old.get("status") == status else None
        condition: dict[str, Any] = {
            "type": one.type,
            "status": status,
            "reason": one.reason,
            "message": one.message[:32768],
            "lastTransitionTime": since or now,
        }
        if generation:
            condition["observedGeneration"] = generation
        made.append(condition)
    return made


def _sorted(entries: Iterable[Mapping[str, Any]]) -> list[bytes]:
    return sorted(msgspec.json.encode(entry, order="sorted") for entry in entries)
