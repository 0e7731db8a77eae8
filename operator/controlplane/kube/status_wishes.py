"""What is to be said in the status of which objects. Pure.

Routes tell it of each parent, BackendTLSPolicies of each target, Services and ServiceEntries of their waypoint,
GatewayClasses that they are ours. Istio's kinds get one condition, ``ambimesh.dev/Accepted``: true, or else why not,
with every field that has no effect by name; and so does an object that could not even be read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from controlplane.kube.status_body import ROUTES
from controlplane.translate.binding import BOUND
from controlplane.translate.finding import Condition, Finding
from controlplane.translate.status import CONTROLLER_NAME, ObjectStatus, ParentStatus, StatusCondition
from resources.gateway import ParentReference
from resources.objects import GatewayClass, KubernetesObject, ObjectKey
from resources.problem import Problem

ACCEPTED = "ambimesh.dev/Accepted"
_ACCEPTED_KINDS = frozenset(
    {
        "AuthorizationPolicy", "PeerAuthentication", "RequestAuthentication", "VirtualService", "DestinationRule",
        "ServiceEntry", "WorkloadEntry", "Telemetry",
    }
)  # fmt: skip
_MAX_MESSAGE = 4096
SPOKEN_KINDS = _ACCEPTED_KINDS | ROUTES | {"BackendTLSPolicy", "Service", "Gateway", "GatewayClass"}
"""Kinds in whose status we say anything."""


def wished_status(
    key: ObjectKey,
    value: KubernetesObject | None,
    said: tuple[ObjectStatus, tuple[Finding, ...]],
    problem: Problem | None,
) -> ObjectStatus | None:
    """What an object's status should say of ours; None where we have no say.

    Args:
        key: the object.
        value: as it was last read; None when it never could be.
        said: its status and findings by the translation.
        problem: why its present version cannot be read.
    """
    status, findings = said
    if key.kind in ROUTES or key.kind == "BackendTLSPolicy":
        return ObjectStatus(parents=status.parents) if value is not None else None
    if key.kind == "GatewayClass":
        if not isinstance(value, GatewayClass) or value.spec.controller_name != CONTROLLER_NAME:
            return None
        return ObjectStatus(conditions=(StatusCondition("Accepted", True, "Accepted"),))
    if key.kind == "Service":
        return ObjectStatus(conditions=status.conditions)
    if key.kind == "Gateway":
        # Accepted and Programmed are the reconciler's; fields without effect are told beside them.
        return ObjectStatus(conditions=(_accepted(findings, problem),)) if status.conditions or problem else None
    if key.kind in _ACCEPTED_KINDS:
        bound = tuple(one for one in status.conditions if one.type == BOUND)
        return ObjectStatus(conditions=(*bound, _accepted(findings, problem)))
    return None


def broken_route_status(
    found: Mapping[str, Any], problem: Problem, ours: Callable[[ObjectKey], bool]
) -> ObjectStatus:
    """What a route is told that cannot be read, at each of its parents that is ours.

    Args:
        found: the route as the API has it.
        problem: why it cannot be read.
        ours: whether a Gateway is.
    """
    namespace = (found.get("metadata") or {}).get("namespace", "")
    spec = found.get("spec")
    references = spec.get("parentRefs") if isinstance(spec, dict) else None
    parents = []
    for reference in references if isinstance(references, list) else ():
        try:
            parent = msgspec.convert(reference, ParentReference)
        except msgspec.ValidationError:
            continue
        gateway = ObjectKey("Gateway", parent.namespace or namespace, parent.name)
        if parent.kind in ("Service", "ServiceEntry") or (parent.kind == "Gateway" and ours(gateway)):
            told = StatusCondition("Accepted", False, Condition.UNSUPPORTED_VALUE.value, _told(problem))
            parents.append(ParentStatus(parent, (told,)))
    return ObjectStatus(parents=tuple(parents))


def _told(problem: Problem) -> str:
    where = f", at {problem.field}" if problem.field else ""
    remedy = f"; {problem.remedy}" if problem.remedy else ""
    return f"{problem.message}{where}{remedy}; its last good version, if any, stays in force"


def _accepted(findings: Iterable[Finding], problem: Problem | None) -> StatusCondition:
    if problem is not None:
        return StatusCondition(ACCEPTED, False, "Invalid", _told(problem))
    told = [one for one in findings if not one.message.startswith(f"{BOUND}:")]
    if not told:
        return StatusCondition(ACCEPTED, True, "Accepted")
    none = any(one.condition is Condition.NOT_APPLIED for one in told)
    reason = Condition.NOT_APPLIED if none else Condition.UNSUPPORTED_VALUE
    return StatusCondition(ACCEPTED, False, reason.value, "; ".join(one.message for one in told)[:_MAX_MESSAGE])
