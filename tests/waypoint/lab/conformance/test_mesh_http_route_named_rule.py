"""MeshHTTPRouteNamedRule (extended): rules with names work as those without, beside them too."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.lab

ROUTE = """
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: named, namespace: conformance}
spec:
  parentRefs: [{group: "", kind: Service, name: named, port: 80}]
  rules:
    - name: named-rule
      matches: [{path: {value: /named}}]
      backendRefs: [{name: named-v1, port: 80}]
    - matches: [{path: {value: /unnamed}}]
      backendRefs: [{name: named-v2, port: 80}]
"""


def test_mesh_http_route_named_rule(mesh: Any) -> None:
    with mesh.services("named"), mesh.routes(ROUTE):
        mesh.served("named", "/named", version="v1")
        mesh.served("named", "/unnamed", version="v2")
        mesh.status("named", "/other", status=404)
