"""MeshConsumerRoute (extended): a route in a client's namespace holds for clients of that namespace only."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.lab

ROUTE = """
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: consumed, namespace: consumer}
spec:
  parentRefs: [{group: "", kind: Service, name: consumed, namespace: conformance, port: 80}]
  rules:
    - filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: X-Header-Set, value: set}]}}]
      backendRefs: [{name: consumed-v1, namespace: conformance, port: 80}]
"""
GRANT = """
---
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: consumed, namespace: conformance}
spec:
  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: consumer}]
  to: [{group: "", kind: Service}]
"""
PRODUCED = """
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: produced, namespace: conformance}
spec:
  parentRefs: [{group: "", kind: Service, name: consumed, port: 80}]
  rules: [{backendRefs: [{name: consumed-v2, port: 80}]}]
"""


def test_mesh_consumer_route(mesh: Any) -> None:
    with mesh.services("consumed"):
        with mesh.routes(ROUTE + GRANT):
            answer = mesh.served("consumed", version="v1", client="consumer")
            assert answer.header("x-header-set") == "set"
            assert mesh.status("consumed", status=200).header("x-header-set") is None, "the producer's own clients"
        with mesh.routes(ROUTE + GRANT + PRODUCED):
            mesh.served("consumed", version="v2")
            mesh.served("consumed", version="v1", client="consumer")


def test_a_consumer_route_to_a_service_that_does_not_admit_it_leads_nowhere(mesh: Any) -> None:
    with mesh.services("consumed"):
        mesh.apply(ROUTE)
        try:
            mesh.status("consumed", status=500, client="consumer")
            mesh.status("consumed", status=200)
        finally:
            mesh.delete(ROUTE)
