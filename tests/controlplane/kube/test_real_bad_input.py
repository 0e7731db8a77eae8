"""What is wrong in a cluster, told where its user looks, by a real API server's own words; the rest goes on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from controlplane.kube import lease_driver
from controlplane.kube.permissions import OPERATOR_CLUSTER, OPERATOR_NAMESPACE
from controlplane.testing.replica import NAMESPACE
from mesh.grpc.driver import GrpcError, StatusCode
from mesh.identity import SpiffeId
from resources.kube.kinds import API_KINDS
from tests.controlplane.kube.real_plane import account, apply, eventually, pod_token, replica_of, role, run_pod, told
from tests.e2e.kit.control_plane import ControlPlane
from tests.e2e.kit.definitions import definition

pytestmark = pytest.mark.kubernetes

LIMITED = "operator-that-may-less"
IDENTITY = SpiffeId("cluster.local", "shop", "web")


def policy(name: str, spec: dict[str, Any]) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "shop"}
    return {"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": metadata, "spec": spec}


def deployment() -> dict[str, Any]:
    labels = {"app": "operator"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "none"}]}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "ambimesh-operator", "namespace": NAMESPACE},
        "spec": {"selector": {"matchLabels": labels}, "template": template},
    }


def prepare_trouble(plane: ControlPlane) -> None:
    """An operator that may not read HTTPRoutes, TCPRoutes of a version from the future, and objects of wrong types."""
    rules = [
        replace(rule, resources=tuple(each for each in rule.resources if each != "httproutes"))
        for rule in OPERATOR_CLUSTER
    ]
    apply(plane, account(NAMESPACE, LIMITED), deployment())
    apply(plane, *role("ClusterRole", LIMITED, rules, LIMITED), *role("Role", LIMITED, OPERATOR_NAMESPACE, LIMITED))
    future = definition(API_KINDS["TCPRoute"])
    future["spec"]["versions"][0]["name"] = "v7"
    apply(plane, future)
    large = {"ca.crt": "x" * 900_000}
    metadata = {"name": "large", "namespace": "shop"}
    apply(plane, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": large})
    apply(plane, policy("typed", {"rules": "all"}), policy("named", {"rulez": []}))


async def test_each_fault_is_told_and_the_rest_goes_on(
    plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_driver, "RETRY_SECONDS", 0.2)
    near = run_pod(plane, NAMESPACE, "ztunnel-1", "ztunnel", "node1", "10.0.0.9")
    far = run_pod(plane, NAMESPACE, "ztunnel-2", "ztunnel", "node2", "10.0.0.10")
    run_pod(plane, "shop", "web", "web", "node1", "10.0.0.1")
    await trio.to_thread.run_sync(prepare_trouble, plane)
    name = f"{API_KINDS['TCPRoute'].plural}.{API_KINDS['TCPRoute'].group}"
    try:
        replica = replica_of(plane, tmp_path, "limited", who=LIMITED)
        async with replica.running():
            token = await trio.to_thread.run_sync(pod_token, plane, NAMESPACE, "ztunnel", "ztunnel-1", near)
            other = await trio.to_thread.run_sync(pod_token, plane, NAMESPACE, "ztunnel", "ztunnel-2", far)
            await eventually(lambda: b"CERTIFICATE" in replica.roots())
            async with replica.reading(token) as known:
                await eventually(lambda: "Kubernetes//Pod/shop/web" in known)
            await replica.certificate(IDENTITY, token)

            with pytest.raises(GrpcError, match=r"no live pod of .*shop/sa/web runs on node node2") as refused:
                await replica.certificate(IDENTITY, other)
            assert refused.value.status is StatusCode.PERMISSION_DENIED
            with pytest.raises(GrpcError, match="the token is not good") as refused:
                await replica.certificate(IDENTITY, token[:-8] + "AAAAAAAA")
            assert refused.value.status is StatusCode.UNAUTHENTICATED

            operator = "Deployment ambimesh-operator", "NotRead"
            await eventually(lambda: len(told(plane, NAMESPACE).get(operator, ())) >= 2)
            await eventually(lambda: ("Pod ztunnel-2", "CertificateRefused") in told(plane, NAMESPACE))
            notes = sorted(await trio.to_thread.run_sync(lambda: told(plane, NAMESPACE)[operator]))
            assert "httproutes may not be read" in notes[0]
            assert 'cannot list resource "httproutes"' in notes[0]
            assert "tcproutes cannot be read" in notes[1]
            assert "v7" in notes[1]
            await eventually(lambda: {"typed", "named"} <= {key[0].split()[1] for key in told(plane, "shop")})
            invalid = await trio.to_thread.run_sync(told, plane, "shop")
            assert "$.spec.rules" in invalid["AuthorizationPolicy typed", "Invalid"][0]
            assert "$.spec.rulez" in invalid["AuthorizationPolicy named", "Invalid"][0]
    finally:
        plane.kubectl("delete", "crd", name, "--wait=false", "--ignore-not-found")
        for one in ("authorizationpolicy/typed", "authorizationpolicy/named", "configmap/large"):
            plane.kubectl("delete", one, "-n", "shop", "--ignore-not-found")
