"""Who is translated again: each relation, both ways, and nothing left behind by what has gone."""

from __future__ import annotations

import textwrap

import pytest

from controlplane.translate.index import Index
from controlplane.translate.settings import MeshSettings
from resources.decode import decode_documents
from resources.objects import KubernetesObject, ObjectKey

WEB = ObjectKey("Pod", "shop", "web")
DB = ObjectKey("Pod", "shop", "db")
FAR = ObjectKey("Pod", "far", "web")
SLICE = ObjectKey("EndpointSlice", "shop", "web-x")


def read(text: str) -> list[KubernetesObject]:
    objects, problems = decode_documents(textwrap.dedent(text), "f")
    assert problems == []
    return list(objects)


def pod(key: ObjectKey, app: str) -> str:
    return (
        f"---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {key.name}, namespace: {key.namespace}, "
        f"labels: {{app: {app}}}}}\nspec: {{containers: [{{name: c}}]}}\n"
    )


PODS = pod(WEB, "web") + pod(DB, "db") + pod(FAR, "web")
ENDPOINTS = """
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-x, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints:
- {addresses: [10.0.0.1], targetRef: {kind: Pod, name: web}}
- {addresses: [192.0.2.1]}
"""


def policy(kind: str, namespace: str, spec: str, name: str = "p") -> str:
    return (
        f"---\napiVersion: security.istio.io/v1\nkind: {kind}\n"
        f"metadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
    )


def service(name: str, namespace: str = "shop") -> str:
    return (
        f"---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\n"
        "spec: {ports: [{port: 80}]}\n"
    )


SELECTED = "{selector: {matchLabels: {app: web}}}"
WITH_PORTS = policy(
    "PeerAuthentication", "shop", "{selector: {matchLabels: {app: web}}, portLevelMtls: {'80': {}}}", "ports"
)
PORTS = ObjectKey("PeerAuthentication", "shop", "ports")


def index_of(text: str) -> Index:
    index = Index(MeshSettings())
    for value in read(text):
        index.add(value)
    return index


@pytest.mark.parametrize(
    ("changed", "concerned"),
    [
        (ENDPOINTS, {WEB}),
        (service("web"), {SLICE, WEB}),
        (service("other"), set()),
        (service("web", "far"), set()),
        # Without selector it is no workload's own: nobody's translation names it.
        (policy("AuthorizationPolicy", "shop", "{}"), set()),
        (policy("AuthorizationPolicy", "shop", SELECTED), {WEB}),
        (policy("AuthorizationPolicy", "istio-system", SELECTED), {WEB, FAR}),
        (policy("AuthorizationPolicy", "nowhere", "{}"), set()),
        (policy("PeerAuthentication", "shop", SELECTED), {WEB}),
        (policy("PeerAuthentication", "shop", "{}"), {WEB, DB, PORTS}),
        (policy("PeerAuthentication", "istio-system", "{}"), {WEB, DB, FAR, PORTS}),
        (policy("PeerAuthentication", "far", "{}"), {FAR}),
        (pod(WEB, "web"), set()),
        ("---\napiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n", set()),
    ],
)
def test_whom_a_change_concerns(changed: str, concerned: set[ObjectKey]) -> None:
    [value] = read(changed)
    assert set(index_of(PODS + ENDPOINTS + WITH_PORTS).concerned_by(value)) == concerned


def test_slices_and_policies_are_found() -> None:
    index = index_of(PODS + ENDPOINTS + WITH_PORTS)
    assert set(index.slices_of_pod(WEB)) == {"web-x"}
    assert set(index.slices_of_pod(DB)) == set()
    assert set(index.policies("PeerAuthentication", "shop")) == {PORTS}
    assert set(index.policies("AuthorizationPolicy", "shop")) == set()


def test_what_has_gone_leaves_nothing() -> None:
    text = PODS + ENDPOINTS + WITH_PORTS + service("web") + policy("AuthorizationPolicy", "shop", SELECTED)
    index, fresh = index_of(text), Index(MeshSettings())
    for value in read(text):
        index.remove(value)
    assert vars(index) == vars(fresh)
