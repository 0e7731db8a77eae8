"""Looking at a real API server, and at one that refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ambimesh.__main__ import app as cli
from ambimesh.cluster.client_driver import Cluster
from ambimesh.install.checking_driver import check_cluster, failed
from ambimesh.install.checks import Level
from ambimesh.install.installing_driver import read_record
from ambimesh.install.planning import key_of
from ambimesh.install.reporting_driver import collect
from mesh.errors import ConfigurationError, ConnectFailed
from tests.e2e.kit.control_plane import ControlPlane

pytestmark = pytest.mark.kubernetes


def test_an_administrator_sees_a_cluster_that_is_fit(cluster: Cluster, kubelets: Any) -> None:
    found = {finding.name: finding for finding in check_cluster(cluster, "ambimesh-system")}
    assert found["kernel"].detail == "2 nodes with 5.18 or newer"
    assert {name: one.level for name, one in found.items() if one.level is not Level.OK} == {
        "Gateway API": Level.WARNING
    }
    assert read_record(cluster, "ambimesh-system") is None
    assert "installation" not in found


def test_other_meshes_of_a_cluster_are_named_and_refused(
    cluster: Cluster, kubelets: Any, kubeconfig: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = {"metadata": {"labels": {"app": "ztunnel"}}, "spec": {"containers": [{"name": "z", "image": "none"}]}}
    spec = {"selector": {"matchLabels": {"app": "ztunnel"}}, "template": template}
    metadata = {"name": "blue", "namespace": "default"}
    others: list[dict[str, Any]] = [
        {"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": metadata, "spec": spec},
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "cilium-config", "namespace": "kube-system"},
            "data": {"cni-exclusive": "true"},
        },
        {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingWebhookConfiguration",
            "metadata": {"name": "istio-sidecar-injector"},
        },
    ]
    for one in others:
        cluster.apply(one)
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(kubeconfig))
    try:
        found = {finding.name: finding for finding in check_cluster(cluster, "ambimesh-system")}
        assert found["other meshes"].level is Level.FAILED
        assert "Istio's ztunnel: default/blue" in found["other meshes"].detail
        assert found["Cilium"].level is Level.FAILED
        assert found["sidecars"].level is Level.OK
        with pytest.raises(ConfigurationError, match="--skip-checks goes on") as refused:
            CliRunner().invoke(cli, ["install"], catch_exceptions=False)
        assert any("default/blue" in note and "uninstall" in note for note in refused.value.__notes__)
        assert cluster.find("v1", "Namespace", "ambimesh-system") is None
    finally:
        for one in others:
            key = key_of(one)
            cluster.delete(key.api_version, key.kind, key.name, key.namespace)


def test_who_may_do_little_is_told_what(kubernetes_controllers: ControlPlane) -> None:
    nobody = Cluster(kubeconfig=str(kubernetes_controllers.kubeconfig_of("somebody", [])))
    found = failed(check_cluster(nobody, "ambimesh-system"))
    assert any(finding.name == "rights" and "create namespaces" in finding.detail for finding in found)
    assert any(finding.name == "nodes" and "cannot be looked at" in finding.detail for finding in found)
    parts = list(collect(nobody, "ambimesh-system", 10, lambda _step: None))
    refused = {part.name for part in parts if part.failed}
    assert "mesh/pod.yaml" in refused
    assert "version.yaml" not in refused


def test_a_server_that_is_not_there_is_told(cluster: Cluster) -> None:
    cluster.server = "https://127.0.0.1:9"
    with pytest.raises(ConnectFailed, match=r"127\.0\.0\.1:9"):
        check_cluster(cluster, "ambimesh-system")
    with pytest.raises(ConfigurationError, match="no cluster to talk to"):
        Cluster("no-such-context")
