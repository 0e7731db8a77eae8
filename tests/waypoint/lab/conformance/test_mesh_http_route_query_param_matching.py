"""MeshHTTPRouteQueryParamMatching (extended): exact names and values, all of a match at once, more before fewer."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.lab

ROUTE = """
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: query, namespace: conformance}
spec:
  parentRefs: [{group: "", kind: Service, name: query, port: 80}]
  rules:
    - matches: [{queryParams: [{name: animal, value: whale}]}]
      backendRefs: [{name: query-v1, port: 80}]
    - matches: [{queryParams: [{name: animal, value: dolphin}]}]
      backendRefs: [{name: query-v2, port: 80}]
    - matches:
        - queryParams: [{name: animal, value: dolphin}, {name: color, value: blue}]
        - queryParams: [{name: ANIMAL, value: Whale}]
      backendRefs: [{name: query-v1, port: 80}]
    - matches:
        - {path: {value: /path}, queryParams: [{name: animal, value: whale}]}
        - {headers: [{name: version, value: one}], queryParams: [{name: animal, value: whale}]}
      backendRefs: [{name: query-v2, port: 80}]
"""
CASES = [
    ("/?animal=whale", {}, "v1"),
    ("/?animal=whale&other=irrelevant", {}, "v1"),
    ("/?animal=dolphin", {}, "v2"),
    ("/?animal=dolphin&color=yellow", {}, "v2"),
    ("/?animal=dolphin&color=blue", {}, "v1"),
    ("/?color=blue&animal=dolphin", {}, "v1"),
    ("/?ANIMAL=Whale", {}, "v1"),
    ("/path?animal=whale", {}, "v2"),
    ("/?animal=whale", {"version": "one"}, "v2"),
]
NO_MATCH = ["/", "/?animal=dog", "/?animal=whaledolphin", "/?animal=Whale", "/?color=blue", "/?animals=whale"]


def test_mesh_http_route_query_param_matching(mesh: Any) -> None:
    with mesh.services("query"), mesh.routes(ROUTE):
        for path, headers, version in CASES:
            mesh.served("query", path, version=version, headers=headers)
        for path in NO_MATCH:
            mesh.status("query", path, status=404)
