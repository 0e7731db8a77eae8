"""MeshPorts (with HTTPRouteParentRefPort; run, and counted in no profile): a route is for one port, or for all."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.lab


def route(service: str, more: str, value: str) -> str:
    return f"""
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {service}-{value}, namespace: conformance}}
spec:
  parentRefs: [{{group: "", kind: Service, name: {service}{more}}}]
  rules:
    - filters: [{{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: X-Header, value: {value}}}]}}}}]
      backendRefs: [{{name: {service}-v1, port: 80}}]
"""


def told(mesh: Any, service: str, port: int, value: str | None) -> None:
    def wanted(answer: Any) -> bool:
        return bool(answer.status == 200 and answer.header("x-header") == value)

    mesh.expect(service, port=port, wanted=wanted)


def test_a_route_of_one_port(mesh: Any) -> None:
    with mesh.services("ports"), mesh.routes(route("ports", ", port: 80", "one")):
        told(mesh, "ports", 80, "one")
        told(mesh, "ports", 8080, None)


def test_a_route_of_each_port(mesh: Any) -> None:
    routes = route("ports", ", port: 80", "one") + route("ports", ", port: 8080", "two")
    with mesh.services("ports"), mesh.routes(routes):
        told(mesh, "ports", 80, "one")
        told(mesh, "ports", 8080, "two")


def test_a_route_of_a_port_s_name(mesh: Any) -> None:
    with mesh.services("ports"), mesh.routes(route("ports", ", sectionName: http-alt", "named")):
        told(mesh, "ports", 8080, "named")
        told(mesh, "ports", 80, None)


def test_a_route_of_no_port_is_for_all(mesh: Any) -> None:
    with mesh.services("ports"), mesh.routes(route("ports", "", "all")):
        told(mesh, "ports", 80, "all")
        told(mesh, "ports", 8080, "all")


def test_a_route_of_a_port_that_is_not_there_is_not_accepted(mesh: Any) -> None:
    text = route("ports", ", port: 81", "none")
    with mesh.services("ports"):
        (made,) = mesh.apply(text)
        try:
            mesh.until(lambda: mesh.reason(made, "Accepted") == "NoMatchingParent", lambda: "it is not refused")
            told(mesh, "ports", 80, None)
        finally:
            mesh.delete(text)
