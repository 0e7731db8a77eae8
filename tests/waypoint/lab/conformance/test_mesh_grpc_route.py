"""MeshGRPCRouteWeight and MeshGRPCRouteRequestHeaderModifier (core of MESH-GRPC), and matches of methods."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.lab

ROUTE = """
apiVersion: gateway.networking.k8s.io/v1
kind: GRPCRoute
metadata: {{name: {name}, namespace: conformance}}
spec:
  parentRefs: [{{group: "", kind: Service, name: {name}, port: 7070}}]
  rules:
{rules}
"""
WEIGHT = """
    - backendRefs: [{name: grpc-weight-v1, port: 7070, weight: 70}, {name: grpc-weight-v2, port: 7070, weight: 30}]
"""
CHANGES = {
    "Set": "{set: [{name: X-Header-Set, value: set-overwrites-values}]}",
    "Add": "{add: [{name: X-Header-Add, value: add-appends-values}]}",
    "Remove": "{remove: [X-Header-Remove]}",
}
MATCHING = """
    - matches: [{method: {service: a.First, method: Get}}, {headers: [{name: version, value: two}]}]
      backendRefs: [{name: grpc-match-v2, port: 7070}]
    - matches: [{method: {service: a.First}}]
      backendRefs: [{name: grpc-match-v1, port: 7070}]
"""
UNIMPLEMENTED = 12
REQUESTS, SPREAD = 1000, 0.09
CASES: list[tuple[str, dict[str, str], dict[str, str]]] = [
    ("Set", {"some-other": "val"}, {"x-header-set": "set-overwrites-values", "some-other": "val"}),
    ("Set", {"x-header-set": "other"}, {"x-header-set": "set-overwrites-values"}),
    ("Add", {"some-other": "val"}, {"x-header-add": "add-appends-values", "some-other": "val"}),
    ("Add", {"x-header-add": "other"}, {"x-header-add": "other,add-appends-values"}),
    ("Remove", {"x-header-remove": "val", "kept": "val"}, {"kept": "val"}),
]


def test_mesh_grpc_route_weight(mesh: Any) -> None:
    with mesh.services("grpc-weight"), mesh.routes(ROUTE.format(name="grpc-weight", rules=WEIGHT)):
        mesh.until(
            lambda: 0.5 < mesh.shares("grpc-weight", 200, path="/a.S/Get", port=7070).get("echo-v1", 0) < 0.9,
            lambda: "the weights have no effect",
        )
        shares = mesh.shares("grpc-weight", REQUESTS, path="/a.S/Get", port=7070)
        assert abs(shares["echo-v1"] - 0.7) < SPREAD
        assert abs(shares["echo-v2"] - 0.3) < SPREAD


def test_mesh_grpc_route_request_header_modifier(mesh: Any) -> None:
    name = "grpc-change"
    rules = "\n".join(
        f"    - {{matches: [{{method: {{service: a.Service, method: {method}}}}}], "
        f"filters: [{{type: RequestHeaderModifier, requestHeaderModifier: {change}}}], "
        f"backendRefs: [{{name: {name}-v1, port: 7070}}]}}"
        for method, change in CHANGES.items()
    )
    with mesh.services(name), mesh.routes(ROUTE.format(name=name, rules=rules)):
        for method, sent, wanted in CASES:
            answer = mesh.served(name, f"/a.Service/{method}", version="v1", port=7070, headers=sent)
            names = {*wanted, *sent}
            got = {each: answer.received(each) for each in names}
            assert {each: value for each, value in got.items() if value is not None} == wanted, method


def test_matches_of_grpc_methods(mesh: Any) -> None:
    with mesh.services("grpc-match"), mesh.routes(ROUTE.format(name="grpc-match", rules=MATCHING)):
        mesh.served("grpc-match", "/a.First/Get", version="v2", port=7070)
        mesh.served("grpc-match", "/a.First/Put", version="v1", port=7070)
        mesh.served("grpc-match", "/a.Other/Put", version="v2", port=7070, headers={"version": "two"})
        mesh.status("grpc-match", "/a.Other/Put", port=7070, status=UNIMPLEMENTED)
