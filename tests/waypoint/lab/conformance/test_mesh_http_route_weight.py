"""MeshHTTPRouteWeight and MeshTrafficSplit (core of MESH-HTTP)."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.lab

WEIGHT = """
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: weight, namespace: conformance}
spec:
  parentRefs: [{group: "", kind: Service, name: weight, port: 80}]
  rules:
    - matches: [{path: {value: /none}}]
      backendRefs: [{name: weight-v1, port: 80, weight: 1}, {name: weight-v2, port: 80, weight: 0}]
    - backendRefs: [{name: weight-v1, port: 80, weight: 70}, {name: weight-v2, port: 80, weight: 30}]
"""
SPLIT = """
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: split, namespace: conformance}
spec:
  parentRefs: [{group: "", kind: Service, name: split, port: 80}]
  rules:
    - matches: [{path: {type: Exact, value: /v1}}]
      backendRefs: [{name: split-v1, port: 80}]
    - matches: [{path: {type: Exact, value: /v2}}]
      backendRefs: [{name: split-v2, port: 80}]
"""
REQUESTS = 1000
SPREAD = 0.09
"""Six standard deviations of a share of 0.7 among so many."""


def test_mesh_http_route_weight(mesh: Any) -> None:
    with mesh.services("weight"), mesh.routes(WEIGHT):
        mesh.served("weight", "/none", version="v1")
        assert mesh.shares("weight", 100, path="/none") == {"echo-v1": 1.0}
        shares = mesh.shares("weight", REQUESTS)
        assert abs(shares["echo-v1"] - 0.7) < SPREAD
        assert abs(shares["echo-v2"] - 0.3) < SPREAD


def test_mesh_traffic_split(mesh: Any) -> None:
    with mesh.services("split"), mesh.routes(SPLIT):
        mesh.served("split", "/v1", version="v1")
        mesh.served("split", "/v2", version="v2")
        mesh.status("split", "/v1/more", status=404)
        assert mesh.shares("split", 20, path="/v1") == {"echo-v1": 1.0}
        assert mesh.shares("split", 20, path="/v2") == {"echo-v2": 1.0}
