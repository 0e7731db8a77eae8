"""What is beside the mesh, and whether it is in the way."""

from __future__ import annotations

from typing import Any

import pytest

from ambimesh.install import neighbours
from ambimesh.install.checks import MODE_LABEL, Level

Json = dict[str, Any]


def _workload(place: str, **labels: str) -> Json:
    namespace, _, name = place.partition("/")
    return {"metadata": {"namespace": namespace, "name": name}, "spec": {"template": {"metadata": {"labels": labels}}}}


@pytest.mark.parametrize(
    ("workload", "said"),
    [
        (_workload("istio-system/istio-cni-node"), "Istio's CNI agent: istio-system/istio-cni-node"),
        (_workload("kube-system/cni-canary", **{"k8s-app": "istio-cni-node"}), "Istio's CNI agent: kube-system/"),
        (_workload("istio-system/tunnel-blue", app="ztunnel"), "Istio's ztunnel: istio-system/tunnel-blue"),
        (_workload("else/ambimesh-agent"), "another ambimesh's agent: else/ambimesh-agent"),
        (_workload("else/control", **{"app.kubernetes.io/name": "ambimesh-operator"}), "another ambimesh's operator"),
    ],
)
def test_another_mesh_that_answers_to_the_same_label_is_named(workload: Json, said: str) -> None:
    ours = _workload("m/ambimesh-agent", **{"app.kubernetes.io/name": "ambimesh-agent"})
    found = neighbours.ambient_meshes([ours, workload, _workload("kube-system/cni")], None, "m")
    assert found.level is Level.FAILED
    assert said in found.detail
    assert "uninstall" in found.remedy


def test_a_cluster_without_another_mesh_is_fit() -> None:
    ours = _workload("m/ambimesh-agent", **{"app.kubernetes.io/name": "ambimesh-agent"})
    beside = _workload("istio-system/istiod", app="istiod")
    assert neighbours.ambient_meshes([ours, beside], None, "m").level is Level.OK


@pytest.mark.parametrize(
    ("told", "ztunnel", "level"),
    [
        ("false", False, Level.WARNING),
        ("true", False, Level.FAILED),
        (None, False, Level.FAILED),
        ("false", True, Level.FAILED),
    ],
)
def test_an_istio_with_sidecars_only_may_stay(told: str | None, ztunnel: bool, level: Level) -> None:
    workloads = [_workload("istio-system/istio-cni-node")]
    if ztunnel:
        workloads.append(_workload("istio-system/ztunnel"))
    configuration = {"data": {"AMBIENT_ENABLED": told}} if told is not None else None
    assert neighbours.ambient_meshes(workloads, configuration, "m").level is level


@pytest.mark.parametrize(
    ("labels", "annotations", "level"),
    [
        ({MODE_LABEL: "ambient", "istio-injection": "enabled"}, {}, Level.WARNING),
        ({MODE_LABEL: "ambient", "istio.io/rev": "blue"}, {}, Level.WARNING),
        ({MODE_LABEL: "ambient"}, {"linkerd.io/inject": "enabled"}, Level.WARNING),
        ({MODE_LABEL: "ambient", "istio.io/rev": "blue", "istio-injection": "disabled"}, {}, Level.OK),
        ({"istio-injection": "enabled"}, {}, Level.OK),
        ({MODE_LABEL: "ambient"}, {"linkerd.io/inject": "disabled"}, Level.OK),
    ],
)
def test_namespaces_that_ask_for_both_kinds_of_mesh_are_named(
    labels: dict[str, str], annotations: dict[str, str], level: Level
) -> None:
    namespace = {"metadata": {"name": "shop", "labels": labels, "annotations": annotations}}
    webhooks = [{"metadata": {"name": "linkerd-proxy-injector-webhook-config"}}]
    [found] = neighbours.sidecar_injectors(webhooks, [namespace])
    assert found.level is level
    assert ("shop" in found.detail) is (level is Level.WARNING)
    assert neighbours.sidecar_injectors([{"metadata": {"name": "cert-manager"}}], [namespace]) == []


@pytest.mark.parametrize(
    ("data", "levels"),
    [
        ({"cni-exclusive": "true", "bpf-lb-sock": "true"}, [Level.FAILED, Level.WARNING]),
        ({"cni-exclusive": "false", "kube-proxy-replacement": "true"}, [Level.WARNING]),
        ({"cni-exclusive": "false", "bpf-lb-sock": "true", "bpf-lb-sock-hostns-only": "true"}, [Level.OK]),
        ({}, [Level.OK]),
    ],
)
def test_cilium_must_leave_entries_and_sockets_alone(data: dict[str, str], levels: list[Level]) -> None:
    assert [one.level for one in neighbours.cilium({"data": data})] == levels
    assert neighbours.cilium(None) == []


def test_a_gateway_class_of_another_controller_is_left_to_it() -> None:
    def named(controller: str) -> Json:
        return {"metadata": {"name": "istio-waypoint"}, "spec": {"controllerName": controller}}

    assert neighbours.gateway_class(None, "ours") is None
    assert neighbours.gateway_class(named("ours"), "ours") is None
    found = neighbours.gateway_class(named("istio.io/mesh-controller"), "ours")
    assert found is not None
    assert found.level is Level.FAILED
    assert "istio.io/mesh-controller" in found.detail
