"""Routes' statuses, as the commands show them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ambimesh.commands import route_status, waypoint
from controlplane.translate.status import CONTROLLER_NAME
from resources.base import Condition, ObjectMeta
from resources.folder_store import FolderStore
from resources.gateway import ParentReference
from resources.objects import GRPCRoute, HTTPRoute
from resources.routes import RouteParentStatus, RouteStatus

WEB = ParentReference(group="", kind="Service", name="web", port=80)
FAR = ParentReference(group="", kind="Service", name="far", namespace="other")


def condition(kind: str, status: str, reason: str, message: str = "") -> Condition:
    return Condition(type=kind, status=status, reason=reason, message=message)


def told(parent: ParentReference, *conditions: Condition, controller: str = CONTROLLER_NAME) -> RouteParentStatus:
    return RouteParentStatus(parent_ref=parent, controller_name=controller, conditions=conditions)


GOOD = (condition("Accepted", "True", "Accepted"), condition("ResolvedRefs", "True", "ResolvedRefs"))


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FolderStore:
    made = FolderStore(tmp_path)
    monkeypatch.setattr(waypoint, "store_of", lambda _lab, _context: made)
    return made


def put(store: FolderStore, name: str, *parents: RouteParentStatus, namespace: str = "demo") -> None:
    store.replace(
        HTTPRoute(metadata=ObjectMeta(name=name, namespace=namespace), status=RouteStatus(parents=parents))
    )


def test_every_parent_has_a_row_and_what_is_amiss_its_reason(store: FolderStore) -> None:
    put(store, "a", told(WEB, *GOOD), told(FAR, condition("Accepted", "False", "NoMatchingParent")))
    put(store, "b", told(WEB, GOOD[0], condition("ResolvedRefs", "False", "BackendNotFound", "no Service x")))
    put(store, "c", told(WEB, *GOOD, condition("PartiallyInvalid", "True", "UnsupportedValue", "a filter")))
    put(store, "d", told(WEB, *GOOD, controller="x.example/y"), namespace="other")
    store.replace(GRPCRoute(metadata=ObjectMeta(name="e", namespace="demo")))
    rows = [route_status.row(route) for route in route_status.routes(store)]
    nobody = "no parent is a Service or waypoint of the mesh, or the operator has not seen it yet"
    assert rows == [
        ["demo", "GRPCRoute/e", "-", "Unknown", "Unknown", nobody],
        ["demo", "HTTPRoute/a", "Service demo/web:80", "True", "True", "-"],
        ["demo", "HTTPRoute/a", "Service other/far", "False", "Unknown", "NoMatchingParent"],
        ["demo", "HTTPRoute/b", "Service demo/web:80", "True", "False", "BackendNotFound: no Service x"],
        ["demo", "HTTPRoute/c", "Service demo/web:80", "True", "True", "UnsupportedValue: a filter"],
        ["other", "HTTPRoute/d", "-", "Unknown", "Unknown", nobody],
    ]
    assert [route_status.serves(route) for route in route_status.routes(store)] == [False, True] + [False] * 4
    assert len(route_status.routes(store, "other")) == 1


def test_the_command_fails_if_a_route_does_not_serve(store: FolderStore) -> None:
    def run(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(waypoint.app, ["routes", *arguments])
        return result.exit_code, result.output

    assert run("-n", "demo") == (0, "No routes found.\n")
    put(store, "a", told(WEB, *GOOD))
    code, text = run("-n", "demo")
    assert code == 0
    assert "HTTPRoute/a" in text
    put(store, "b", told(WEB, condition("Accepted", "False", "NotAllowedByListeners")), namespace="other")
    assert run("-n", "demo")[0] == 0
    code, text = run("-A", "-o", "json")
    assert code == 1
    assert [route["name"] for route in json.loads(text)] == ["a", "b"]
