"""MeshHTTPRouteSimpleSameNamespace (core of MESH-HTTP): a route of the Service's namespace decides who answers."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.lab

ROUTE = """
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: simple, namespace: conformance}
spec:
  parentRefs: [{group: "", kind: Service, name: simple}]
  rules: [{backendRefs: [{name: simple-v1, port: 80}]}]
"""


def test_mesh_http_route_simple_same_namespace(mesh: Any) -> None:
    with mesh.services("simple"):
        with mesh.routes(ROUTE):
            mesh.served("simple", version="v1")
            assert mesh.shares("simple", 20) == {"echo-v1": 1.0}
            assert mesh.shares("simple", 20, client="consumer") == {"echo-v1": 1.0}, "it holds for all clients"
        mesh.expect("simple", wanted=lambda answer: answer.pod == "echo-v2")
        assert mesh.shares("simple", 40).keys() == {"echo-v1", "echo-v2"}, "with the route its effect is gone"
