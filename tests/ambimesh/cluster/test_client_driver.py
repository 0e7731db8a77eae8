"""Requests against a real API server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ambimesh.cluster import client_driver
from ambimesh.cluster.client_driver import Cluster, Resource
from mesh.errors import ConfigurationError, ObjectMissing
from tests.e2e.kit.control_plane import ControlPlane


def _settings(namespace: str, name: str = "c", **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace}, "data": data}


@pytest.mark.kubernetes
def test_objects_are_applied_read_changed_and_deleted(cluster: Cluster, kubernetes_namespace: str) -> None:
    space = kubernetes_namespace
    assert cluster.find("v1", "ConfigMap", "c", space) is None
    cluster.apply(_settings(space, a="1", b="2"), dry_run=True)
    assert cluster.find("v1", "ConfigMap", "c", space) is None
    cluster.apply(_settings(space, a="1", b="2"))
    cluster.merge("v1", "ConfigMap", "c", {"data": {"theirs": "3"}}, space)
    cluster.apply(_settings(space, a="9"))
    # What is no longer wished goes, what another request has added stays.
    assert cluster.get("v1", "ConfigMap", "c", space)["data"] == {"a": "9", "theirs": "3"}
    assert cluster.delete("v1", "ConfigMap", "c", space)
    assert not cluster.delete("v1", "ConfigMap", "c", space)


@pytest.mark.kubernetes
def test_lists_are_read_page_by_page(
    cluster: Cluster, kubernetes_namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_driver, "_PAGE", 2)
    for number in range(5):
        cluster.apply(_settings(kubernetes_namespace, f"c{number}"))
    found = list(cluster.all_of("v1", "ConfigMap", kubernetes_namespace, fields="metadata.name!=kube-root-ca.crt"))
    assert [value["metadata"]["name"] for value in found] == [f"c{number}" for number in range(5)]
    assert found[0]["kind"] == "ConfigMap"


@pytest.mark.kubernetes
def test_another_writer_of_a_field_is_told(
    cluster: Cluster, kubernetes_namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.apply(_settings(kubernetes_namespace, a="1"))
    monkeypatch.setattr(client_driver, "FIELD_MANAGER", "somebody")
    with pytest.raises(ConfigurationError, match="another writer owns"):
        cluster.apply(_settings(kubernetes_namespace, a="2"), force=False)
    cluster.apply(_settings(kubernetes_namespace, a="2"))
    assert cluster.get("v1", "ConfigMap", "c", kubernetes_namespace)["data"] == {"a": "2"}


@pytest.mark.kubernetes
def test_who_may_not_is_told_so(kubernetes_api: ControlPlane, kubernetes_namespace: str) -> None:
    nobody = Cluster(kubeconfig=str(kubernetes_api.kubeconfig_of("somebody", [])))
    assert not nobody.may("create", "", "configmaps", kubernetes_namespace)
    with pytest.raises(ConfigurationError, match="--context"):
        nobody.apply(_settings(kubernetes_namespace))


@pytest.mark.kubernetes
def test_kinds_and_the_clock_are_the_servers_own(cluster: Cluster) -> None:
    assert cluster.resource("apps/v1", "Deployment") == Resource("/apis/apps/v1", "deployments", namespaced=True)
    assert not cluster.has("gateway.networking.k8s.io/v1", "Gateway")
    with pytest.raises(ObjectMissing, match="CRD"):
        cluster.get("apps/v1", "Nosuch", "x", "y")
    assert cluster.server_date().endswith("GMT")
    assert cluster.may("create", "apps", "deployments")


def test_paths_hold_no_more_than_names() -> None:
    pods = Resource("/api/v1", "pods", namespaced=True)
    assert pods.url() == "/api/v1/pods"
    assert pods.url("a", "b", "log") == "/api/v1/namespaces/a/pods/b/log"
    assert pods.url("a", "../../secrets") == "/api/v1/namespaces/a/pods/..%2F..%2Fsecrets"
    assert Resource("/api/v1", "nodes", namespaced=False).url("ignored", "n") == "/api/v1/nodes/n"


def test_without_any_configuration_that_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no cluster to talk to: .*kube-config"):
        Cluster(kubeconfig=str(tmp_path / "none"))


def test_a_context_that_is_not_there_is_told_with_those_that_are(tmp_path: Path) -> None:
    file = tmp_path / "kubeconfig"
    context = {"context": {"cluster": "c", "user": "u"}}
    file.write_text(
        json.dumps(
            {
                "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:9"}}],
                "users": [{"name": "u", "user": {}}],
                "contexts": [{"name": "one", **context}, {"name": "two", **context}],
                "current-context": "one",
            }
        )
    )
    assert Cluster("two", kubeconfig=str(file)).context == "two"
    with pytest.raises(ConfigurationError, match="has no context three; it has: one, two; remedy: --context"):
        Cluster("three", kubeconfig=str(file))
