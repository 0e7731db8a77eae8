from __future__ import annotations

from typing import Any

import pytest

from controlplane.kube.happenings import (
    of_finding,
    of_other_mesh,
    of_problem,
    of_refusal,
    of_unpublished_roots,
    other_mesh,
)
from controlplane.translate.finding import Condition, Finding
from resources.base import ObjectMeta
from resources.objects import HTTPRoute, ObjectKey, Pod
from resources.pod import Container, PodSpec, PodStatus
from resources.problem import Problem
from resources.routes import HttpRouteSpec

KEY = ObjectKey("HTTPRoute", "shop", "web")
ROUTE = HTTPRoute(
    metadata=ObjectMeta(name="web", namespace="shop", uid="u"),
    spec=HttpRouteSpec(),
    api_version="gateway.networking.k8s.io/v1beta1",
)


def pod(namespace: str = "shop", phase: str = "Running", **labels: Any) -> Pod:
    metadata = ObjectMeta(name="p", namespace=namespace, uid="u-p", labels=labels)
    return Pod(metadata=metadata, spec=PodSpec(containers=(Container(name="c"),)), status=PodStatus(phase=phase))


def test_a_finding_is_told_at_its_object_as_it_was_read() -> None:
    told = of_finding(Finding(KEY, Condition.UNSUPPORTED_VALUE, "timeouts.idle has no effect"), ROUTE)
    assert (told.about, told.api_version, told.uid) == (KEY, "gateway.networking.k8s.io/v1beta1", "u")
    assert (told.reason, told.note) == ("UnsupportedValue", "timeouts.idle has no effect")


def test_an_object_that_was_never_read_is_told_at_its_name() -> None:
    told = of_problem(Problem(place="x", message="expected int", field="$.spec.weight", key=KEY), None, "m")
    assert told.about == KEY
    assert told.path == "/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes/web"
    assert told.note.startswith("expected int, at $.spec.weight")


def test_a_kind_that_may_not_be_read_is_told_at_the_operator() -> None:
    told = of_problem(Problem(place="x", message="httproutes may not be read: cannot list", remedy="grant"), None, "m")
    assert told.about == ObjectKey("Deployment", "m", "ambimesh-operator")
    assert told.note == "httproutes may not be read: cannot list; grant"


@pytest.mark.parametrize(
    ("found", "what"),
    [
        (pod("istio-system", app="ztunnel"), "Istio's ztunnel"),
        (pod("else", **{"app.kubernetes.io/name": "ambimesh-agent"}), "the agent of another ambimesh"),
        (pod("m", **{"app.kubernetes.io/name": "ambimesh-agent"}), None),
        (pod("istio-system", "Succeeded", app="ztunnel"), None),
        (pod("shop", app="web"), None),
    ],
)
def test_other_meshes_are_known_by_their_pods(found: Pod, what: str | None) -> None:
    assert other_mesh(found, "m") == what
    if what is not None:
        told = of_other_mesh(what, found.key, "m")
        assert told.about.namespace == "m"
        assert f"in namespace {found.metadata.namespace}" in told.note


def test_a_refused_caller_is_told_at_its_pod() -> None:
    told = of_refusal(pod(), "may not")
    assert (told.about, told.uid, told.note) == (ObjectKey("Pod", "shop", "p"), "u-p", "may not")


def test_a_namespace_without_roots_is_told_so_although_there_is_no_object() -> None:
    told = of_unpublished_roots("shop", "exceeded quota")
    assert (told.about, told.path) == (ObjectKey("ConfigMap", "shop", "ambimesh-root-cert"), "")
    assert "exceeded quota" in told.note
