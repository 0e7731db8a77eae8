"""Statuses as fields of the API: written once, others' left alone."""

from __future__ import annotations

import msgspec

from controlplane.reconcile.object_status import object_statuses
from controlplane.testing.routes import V1, objects_of, route, translated
from controlplane.translate.status import CONTROLLER_NAME
from controlplane.translate.translator import Translator
from resources.base import Condition
from resources.gateway import ParentReference
from resources.network import ServiceStatus
from resources.objects import HTTPRoute, Service
from resources.routes import RouteParentStatus, RouteStatus

NOW = "2026-01-01T00:00:00Z"
LATER = "2026-01-02T00:00:00Z"


def told(translator: Translator, now: str) -> None:
    """Write what is to be written, and take it over."""
    objects = translator.objects
    translator.update(objects.with_changes(object_statuses(objects, translator.statuses, now)))


def http_route(translator: Translator) -> HTTPRoute:
    [found] = translator.objects.of_kind(HTTPRoute)
    return found


def test_a_route_is_told_of_each_parent_once() -> None:
    translator = translated(route(f"[{{{V1}}}]", meta=", generation: 3"))
    told(translator, NOW)
    status = http_route(translator).status
    assert status is not None
    [parent] = status.parents
    assert parent.controller_name == CONTROLLER_NAME
    assert parent.parent_ref.name == "web"
    assert [(one.type, one.status, one.observed_generation) for one in parent.conditions] == [
        ("Accepted", "True", 3),
        ("ResolvedRefs", "True", 3),
    ]
    assert {one.last_transition_time for one in parent.conditions} == {NOW}
    assert object_statuses(translator.objects, translator.statuses, LATER) == []


def test_a_condition_keeps_its_time_while_its_status_does() -> None:
    translator = translated(route(f"[{{{V1}}}]"))
    told(translator, NOW)
    [changed] = objects_of(route("[{backendRefs: [{name: absent, port: 80}]}]")).of_kind(HTTPRoute)
    changed = msgspec.structs.replace(changed, status=http_route(translator).status)
    translator.update(translator.objects.with_changes([changed]))
    told(translator, LATER)
    status = http_route(translator).status
    assert status is not None
    assert [(one.status, one.reason, one.last_transition_time) for one in status.parents[0].conditions] == [
        ("True", "Accepted", NOW),
        ("False", "BackendNotFound", LATER),
    ]


def test_other_controllers_entries_are_left_alone() -> None:
    other = RouteParentStatus(parent_ref=ParentReference(name="gw"), controller_name="x.example/y")
    stale = RouteParentStatus(parent_ref=ParentReference(name="gone"), controller_name=CONTROLLER_NAME)
    translator = translated(route(f"[{{{V1}}}]"))
    before = msgspec.structs.replace(http_route(translator), status=RouteStatus(parents=(other, stale)))
    translator.update(translator.objects.with_changes([before]))
    told(translator, NOW)
    status = http_route(translator).status
    assert status is not None
    assert [one.parent_ref.name for one in status.parents] == ["gw", "web"]


def web(translator: Translator) -> Service:
    found = translator.objects.find(Service, "shop", "web")
    assert found is not None
    return found


def test_services_are_told_whether_they_are_bound() -> None:
    translator = translated()
    theirs = Condition(type="x.example/Other", status="True")
    translator.update(
        translator.objects.with_changes(
            [msgspec.structs.replace(web(translator), status=ServiceStatus(conditions=(theirs,)))]
        )
    )
    told(translator, NOW)
    status = web(translator).status
    assert status is not None
    assert [(one.type, one.status) for one in status.conditions] == [
        ("x.example/Other", "True"),
        ("istio.io/WaypointBound", "True"),
    ]
    freed = msgspec.structs.replace(
        web(translator),
        metadata=msgspec.structs.replace(web(translator).metadata, labels={"istio.io/use-waypoint": "none"}),
    )
    translator.update(translator.objects.with_changes([freed]))
    told(translator, LATER)
    status = web(translator).status
    assert status is not None
    assert status.conditions == (theirs,)


def test_entries_are_told_too() -> None:
    text = """
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: e, namespace: shop}
spec: {hosts: [e.example], resolution: STATIC, ports: [{number: 80, name: http}]}
"""
    translator = translated(text)
    told(translator, NOW)
    assert object_statuses(translator.objects, translator.statuses, LATER) == []
    [entry] = [one for one in translator.objects.values() if one.key.kind == "ServiceEntry"]
    assert "istio.io/WaypointBound" in str(entry)
