"""Objects from YAML, and a translator of them."""

from __future__ import annotations

import textwrap
from collections.abc import Callable

import pytest

from controlplane.translate.settings import MeshSettings
from controlplane.translate.translator import Translator
from resources.decode import decode_documents
from resources.object_set import ObjectSet

MESH = """
{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {istio.io/use-waypoint: waypoint}}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: waypoint, namespace: shop}
spec:
  gatewayClassName: ambimesh-waypoint
  listeners: [{name: mesh, port: 15008, protocol: HBONE}]
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.1, ports: [{name: http, port: 80, targetPort: 8080}, {name: any, port: 90}]}
---
{apiVersion: v1, kind: Service, metadata: {name: v1, namespace: shop}, spec: {ports: [{name: http, port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: v2, namespace: shop}, spec: {ports: [{name: http, port: 80}]}}
"""
"""A namespace with a waypoint, a Service with two ports and two more to route to."""


def objects_of(text: str) -> ObjectSet:
    objects, problems = decode_documents(textwrap.dedent(text), "f")
    assert [str(problem) for problem in problems] == []
    return ObjectSet(objects)


@pytest.fixture
def translated() -> Callable[..., Translator]:
    """A function from YAML to a translator of it; ``mesh=True`` puts the objects above before it."""

    def translate(text: str, *, mesh: bool = True, settings: MeshSettings | None = None) -> Translator:
        translator = Translator(settings or MeshSettings())
        translator.update(objects_of((MESH + "---\n" if mesh else "") + textwrap.dedent(text)))
        return translator

    return translate
