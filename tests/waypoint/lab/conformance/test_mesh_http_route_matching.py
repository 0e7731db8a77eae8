"""MeshHTTPRouteMatching (core of MESH-HTTP): path prefixes by element, and headers; the more specific match counts."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.lab

ROUTE = """
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: matching, namespace: conformance}
spec:
  parentRefs: [{group: "", kind: Service, name: matching, port: 80}]
  rules:
    - matches:
        - path: {type: PathPrefix, value: /}
        - headers: [{name: version, value: one}]
      backendRefs: [{name: matching-v1, port: 80}]
    - matches:
        - path: {type: PathPrefix, value: /v2}
        - headers: [{name: Version, value: two}]
      backendRefs: [{name: matching-v2, port: 80}]
"""
CASES = [
    ("/", {}, "v1"),
    ("/example", {}, "v1"),
    ("/", {"Version": "one"}, "v1"),
    ("/v2", {}, "v2"),
    ("/v2/", {}, "v2"),
    ("/v2/example", {}, "v2"),
    ("/v2example", {}, "v1"),
    ("/foo/v2/example", {}, "v1"),
    ("/", {"version": "two"}, "v2"),
    ("/", {"VERSION": "two"}, "v2"),
    ("/", {"version": "Two"}, "v1"),
    ("/v2", {"version": "one"}, "v2"),
]


def test_mesh_http_route_matching(mesh: Any) -> None:
    with mesh.services("matching"), mesh.routes(ROUTE):
        for path, headers, version in CASES:
            mesh.served("matching", path, version=version, headers=headers)
