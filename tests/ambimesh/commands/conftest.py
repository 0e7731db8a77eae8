"""A real API server for the commands that are about a cluster."""

from __future__ import annotations

import pytest

from tests.e2e.kit.control_plane import ControlPlane
from tests.e2e.kit.fixtures import kubernetes_api, kubernetes_namespace

__all__ = ["kubernetes_api", "kubernetes_namespace"]

GATEWAYS = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: {plural}.gateway.networking.k8s.io
  annotations:
    api-approved.kubernetes.io: "https://github.com/kubernetes-sigs/gateway-api/pull/2997"
    gateway.networking.k8s.io/bundle-version: v1.3.0
spec:
  group: gateway.networking.k8s.io
  scope: {scope}
  names: {{plural: {plural}, singular: {singular}, kind: {kind}}}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {{status: {{}}}}
    schema:
      openAPIV3Schema: {{type: object, x-kubernetes-preserve-unknown-fields: true}}
"""
"""The kinds, without the Gateway API's own rules about their fields."""


@pytest.fixture(scope="session")
def gateway_api(kubernetes_api: ControlPlane) -> ControlPlane:
    for kind, scope in (("Gateway", "Namespaced"), ("GatewayClass", "Cluster")):
        singular = kind.lower()
        plural = singular + ("es" if singular.endswith("s") else "s")
        manifest = GATEWAYS.format(plural=plural, singular=singular, kind=kind, scope=scope)
        kubernetes_api.kubectl("apply", "-f", "-", manifest=manifest)
        kubernetes_api.kubectl("wait", "--for=condition=Established", f"crd/{plural}.gateway.networking.k8s.io")
    return kubernetes_api
