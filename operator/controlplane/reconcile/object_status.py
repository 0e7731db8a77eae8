"""What the operator says of routes and of whatever asks for a waypoint, as the API's ``status`` fields. Pure.

A route's status has an entry for each controller and parent; those of other controllers are left as they are.
Conditions keep their time while their status does, so an object that is said the same of is not written again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from controlplane.translate.status import CONTROLLER_NAME, ObjectStatus, StatusCondition
from resources.base import Condition
from resources.network import ServiceStatus
from resources.object_set import ObjectSet
from resources.objects import (
    GRPCRoute,
    HTTPRoute,
    KubernetesObject,
    ObjectKey,
    Service,
    ServiceEntry,
    TCPRoute,
    TLSRoute,
)
from resources.routes import RouteParentStatus, RouteStatus
from resources.service_entry import ServiceEntryStatus

Route = HTTPRoute | GRPCRoute | TCPRoute | TLSRoute
_OURS = ("istio.io/WaypointBound",)
"""Condition types of Services and ServiceEntries that are ours to take away."""


def object_statuses(
    objects: ObjectSet, statuses: Mapping[ObjectKey, ObjectStatus], now: str
) -> list[KubernetesObject]:
    """The objects whose status is to be written, with it.

    Args:
        objects: of the cluster.
        statuses: ``Translator.statuses``, of the same objects.
        now: the wall clock as the API writes it.
    """
    changed: list[KubernetesObject] = []
    nothing = ObjectStatus()
    for kind in (HTTPRoute, GRPCRoute, TCPRoute, TLSRoute):
        for route in objects.of_kind(kind):
            assert isinstance(route, Route)
            wished = _route_status(route, statuses.get(route.key, nothing), now)
            if wished != (route.status or RouteStatus()):
                changed.append(msgspec.structs.replace(route, status=wished))
    for service in objects.of_kind(Service):
        before = service.status or ServiceStatus()
        conditions = _merged(before.conditions, statuses.get(service.key, nothing).conditions, now, None)
        if conditions != before.conditions:
            status = msgspec.structs.replace(before, conditions=conditions)
            changed.append(msgspec.structs.replace(service, status=status))
    for entry in objects.of_kind(ServiceEntry):
        told = entry.status or ServiceEntryStatus()
        conditions = _merged(told.conditions, statuses.get(entry.key, nothing).conditions, now, None)
        if conditions != told.conditions:
            changed.append(
                msgspec.structs.replace(entry, status=msgspec.structs.replace(told, conditions=conditions))
            )
    return changed


def _route_status(route: Route, status: ObjectStatus, now: str) -> RouteStatus:
    before = route.status or RouteStatus()
    others = [one for one in before.parents if one.controller_name != CONTROLLER_NAME]
    mine = {one.parent_ref: one.conditions for one in before.parents if one.controller_name == CONTROLLER_NAME}
    ours = [
        RouteParentStatus(
            parent_ref=parent.parent,
            controller_name=CONTROLLER_NAME,
            conditions=tuple(
                _condition(mine.get(parent.parent, ()), one, now, route.metadata.generation)
                for one in parent.conditions
            ),
        )
        for parent in status.parents
    ]
    return RouteStatus(parents=(*others, *ours))


def _merged(
    before: tuple[Condition, ...], told: Iterable[StatusCondition], now: str, generation: int | None
) -> tuple[Condition, ...]:
    """Ours in place, others' kept, ours that hold no more taken away."""
    wished = {one.type: _condition(before, one, now, generation) for one in told}
    kept = [wished.pop(one.type, one) for one in before if one.type in wished or one.type not in _OURS]
    return (*kept, *wished.values())


def _condition(before: Iterable[Condition], told: StatusCondition, now: str, generation: int | None) -> Condition:
    status = "True" if told.status else "False"
    old = next((one for one in before if one.type == told.type), None)
    since = old.last_transition_time if old is not None and old.status == status else now
    return Condition(
        type=told.type,
        status=status,
        reason=told.reason,
        message=told.message,
        observed_generation=generation,
        last_transition_time=since,
    )
