"""MeshFrontend and MeshFrontendHostname (MeshClusterIPMatching, extended): a route is for who dials the Service's
address, whatever name is said, and not for who dials a pod.
"""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.lab

ROUTE = """
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: front, namespace: conformance}
spec:
  parentRefs: [{group: "", kind: Service, name: front, port: 80}]
  rules:
    - filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: X-Header-Set, value: set}]}}]
      backendRefs: [{name: front-v2, port: 80}]
"""


def test_mesh_frontend(mesh: Any) -> None:
    with mesh.services("front"), mesh.routes(ROUTE):
        assert mesh.served("front", version="v2").header("x-header-set") == "set"
        address = mesh.pod_address("echo-v2")
        answer = mesh.served("front", version="v2", address=address, port=8080)
        assert answer.header("x-header-set") is None
        assert answer.received("x-forwarded-for") is None, "a waypoint for services has nothing to do with it"


def test_mesh_frontend_hostname(mesh: Any) -> None:
    with mesh.services("front", "other"), mesh.routes(ROUTE):
        for host in ("front", "front.conformance.svc.cluster.local", "other", "other.example.org"):
            answer = mesh.served("front", version="v2", host=host)
            assert (answer.header("x-header-set"), answer.received("host")) == ("set", host)
        answer = mesh.status("other", status=200, host="front")
        assert answer.header("x-header-set") is None, "the name said makes it no call to the other Service"
