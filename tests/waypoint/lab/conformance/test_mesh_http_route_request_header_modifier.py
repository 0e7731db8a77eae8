"""MeshHTTPRouteRequestHeaderModifier (core of MESH-HTTP), MeshHTTPRouteBackendRequestHeaderModification (extended)."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.lab

CHANGES = {
    "/set": "{set: [{name: X-Header-Set, value: set-overwrites-values}]}",
    "/add": "{add: [{name: X-Header-Add, value: add-appends-values}]}",
    "/remove": "{remove: [X-Header-Remove]}",
    "/several": "{set: [{name: X-Header-Set-1, value: one}, {name: X-Header-Set-2, value: two}], "
    "add: [{name: X-Header-Add-1, value: one}, {name: X-Header-Add-2, value: two}], "
    "remove: [X-Header-Remove-1, X-Header-Remove-2]}",
    "/case": "{set: [{name: X-HEADER-set, value: set}], add: [{name: x-HEADER-Add, value: add}], "
    "remove: [x-header-REMOVE]}",
}
CASES: list[tuple[str, dict[str, str], dict[str, str | None]]] = [
    ("/set", {"Some-Other-Header": "val"}, {"some-other-header": "val", "x-header-set": "set-overwrites-values"}),
    ("/set", {"X-Header-Set": "some-other-value"}, {"x-header-set": "set-overwrites-values"}),
    ("/add", {"Some-Other-Header": "val"}, {"some-other-header": "val", "x-header-add": "add-appends-values"}),
    ("/add", {"X-Header-Add": "some-other-value"}, {"x-header-add": "some-other-value,add-appends-values"}),
    ("/remove", {"X-Header-Remove": "val", "Kept": "val"}, {"x-header-remove": None, "kept": "val"}),
    (
        "/several",
        {"X-Header-Set-2": "old", "X-Header-Add-2": "old", "X-Header-Remove-1": "a", "X-Header-Remove-2": "", "K": "1"},
        {
            "x-header-set-1": "one",
            "x-header-set-2": "two",
            "x-header-add-1": "one",
            "x-header-add-2": "old,two",
            "x-header-remove-1": None,
            "x-header-remove-2": None,
            "k": "1",
        },
    ),
    (
        "/case",
        {"x-header-set": "old", "x-header-add": "old", "X-Header-Remove": "old"},
        {"x-header-set": "set", "x-header-add": "old,add", "x-header-remove": None},
    ),
]


def route(name: str, where: str) -> str:
    rules = []
    for path, change in CHANGES.items():
        filters = f"filters: [{{type: RequestHeaderModifier, requestHeaderModifier: {change}}}]"
        of_rule, of_backend = (f"{filters}, ", "") if where == "rule" else ("", f", {filters}")
        rules.append(
            f"    - {{matches: [{{path: {{value: {path}}}}}], {of_rule}"
            f"backendRefs: [{{name: {name}-v1, port: 80{of_backend}}}]}}"
        )
    listed = "\n".join(rules)
    return f"""
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {name}, namespace: conformance}}
spec:
  parentRefs: [{{group: "", kind: Service, name: {name}, port: 80}}]
  rules:
{listed}
"""


@pytest.mark.parametrize("where", ["rule", "backend"])
def test_mesh_http_route_request_header_modifier(mesh: Any, where: str) -> None:
    name = f"change-{where}"
    with mesh.services(name), mesh.routes(route(name, where)):
        for path, sent, wanted in CASES:
            answer = mesh.served(name, path, version="v1", headers=sent)
            assert {header: answer.received(header) for header in wanted} == wanted, path
