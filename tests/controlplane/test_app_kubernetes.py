"""The whole operator on an API server's double: what proxies, users and other replicas see of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from controlplane import platform
from controlplane.config import OperatorSettings
from controlplane.kube import lease_driver
from controlplane.kube.permissions import LEASE, ROOT_SECRET, TRUST_BUNDLE
from controlplane.platform import open_platform
from controlplane.testing.replica import NAMESPACE, Replica
from mesh import config
from mesh.errors import ConfigurationError
from mesh.grpc.driver import GrpcError, StatusCode
from mesh.identity import SpiffeId
from resources.testing.api_server import ApiServer

CONFIG_MAPS, SECRETS, LEASES = "/configmaps", "/secrets", "coordination.k8s.io/leases"
WEB = "Kubernetes//Pod/shop/web"


def pod(namespace: str, name: str, account: str, node: str = "node1", address: str = "10.0.0.1") -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": namespace, "uid": f"uid-{name}"},
        "spec": {"containers": [{"name": "c"}], "nodeName": node, "serviceAccountName": account},
        "status": {"phase": "Running", "podIP": address, "conditions": [{"type": "Ready", "status": "True"}]},
    }


def review(namespace: str, account: str, name: str) -> dict[str, Any]:
    extra = {
        "authentication.kubernetes.io/pod-name": [name],
        "authentication.kubernetes.io/pod-uid": [f"uid-{name}"],
    }
    user = {"username": f"system:serviceaccount:{namespace}:{account}", "extra": extra}
    return {"authenticated": True, "audiences": ["istio-ca"], "user": user}


def replica_of(server: ApiServer, folder: Path, name: str) -> Replica:
    def roots() -> bytes:
        bundle = server.cluster.get((CONFIG_MAPS, NAMESPACE, TRUST_BUNDLE))
        return str(bundle["data"]["root-cert.pem"]).encode()

    return Replica(folder, server.kubeconfig(folder / "kubeconfig"), name, roots)


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(15):
        while not condition():  # noqa: ASYNC110 -- of the double's state
            await trio.sleep(0.01)


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ApiServer]:
    monkeypatch.setattr(lease_driver, "RETRY_SECONDS", 0.05)
    async with ApiServer().serve() as running:
        labels = {"istio.io/dataplane-mode": "ambient"}
        running.cluster.put("/namespaces", {"metadata": {"name": "shop", "labels": labels}})
        running.cluster.put("/pods", pod(NAMESPACE, "ztunnel-1", "ztunnel", address="10.0.0.9"))
        running.cluster.put("/pods", pod("shop", "web", "web"))
        running.reviews["of-ztunnel"] = review(NAMESPACE, "ztunnel", "ztunnel-1")
        running.reviews["of-web"] = review("shop", "web", "web")
        yield running


def has(server: ApiServer, collection: str, namespace: str, name: str) -> bool:
    return (collection, namespace, name) in server.cluster.objects


async def test_a_proxy_learns_the_mesh_and_gets_certificates_for_its_node(server: ApiServer, tmp_path: Path) -> None:
    replica = replica_of(server, tmp_path, "one")
    async with replica.running():
        # The roots are where enrolled pods and the mesh's own find them.
        await until(lambda: has(server, CONFIG_MAPS, NAMESPACE, TRUST_BUNDLE))
        await until(lambda: has(server, CONFIG_MAPS, "shop", TRUST_BUNDLE))
        web = SpiffeId("cluster.local", "shop", "web")
        answer = await replica.certificate(web, "of-ztunnel")
        assert answer.cert_chain[-1].encode() == replica.roots()
        async with replica.reading("of-ztunnel") as known:
            await until(lambda: WEB in known)
            server.cluster.put("/pods", pod("shop", "api", "api", address="10.0.0.2"))
            await until(lambda: "Kubernetes//Pod/shop/api" in known)
            server.cluster.delete(("/pods", "shop", "api"))
            await until(lambda: "Kubernetes//Pod/shop/api" not in known)


@pytest.mark.parametrize(
    ("token", "identity", "status", "text"),
    [
        ("of-web", "other", StatusCode.PERMISSION_DENIED, "shop/web may not act for"),
        ("of-ztunnel", "elsewhere", StatusCode.PERMISSION_DENIED, "no live pod of .* runs on node node1"),
        ("made-up", "web", StatusCode.UNAUTHENTICATED, "invalid bearer token"),
        ("of-ztunnel-before", "web", StatusCode.UNAUTHENTICATED, "was given to an earlier pod"),
    ],
)
async def test_who_is_refused_and_why(
    server: ApiServer, tmp_path: Path, token: str, identity: str, status: StatusCode, text: str
) -> None:
    server.cluster.put("/pods", pod("shop", "far", "elsewhere", node="node2", address="10.0.0.3"))
    earlier = review(NAMESPACE, "ztunnel", "ztunnel-1")
    earlier["user"]["extra"]["authentication.kubernetes.io/pod-uid"] = ["uid-of-before"]
    server.reviews["of-ztunnel-before"] = earlier
    replica = replica_of(server, tmp_path, "one")
    async with replica.running():
        await until(lambda: has(server, CONFIG_MAPS, NAMESPACE, TRUST_BUNDLE))
        with pytest.raises(GrpcError, match=text) as caught:
            await replica.certificate(SpiffeId("cluster.local", "shop", identity), token)
        assert caught.value.status is status


async def test_two_replicas_have_one_root_serve_both_and_one_writes(server: ApiServer, tmp_path: Path) -> None:
    one, other = replica_of(server, tmp_path, "one"), replica_of(server, tmp_path, "other")
    web = SpiffeId("cluster.local", "shop", "web")
    async with one.running(), other.running():
        await until(lambda: has(server, CONFIG_MAPS, NAMESPACE, TRUST_BUNDLE))
        assert len(server.cluster.of(SECRETS)) == 1
        assert has(server, SECRETS, NAMESPACE, ROOT_SECRET)
        first = await one.certificate(web, "of-ztunnel")
        second = await other.certificate(web, "of-ztunnel")
        assert first.cert_chain[-1] == second.cert_chain[-1]
        assert server.cluster.get((LEASES, NAMESPACE, LEASE))["spec"]["holderIdentity"] in ("one", "other")
        writes = [one for one in server.requests if one.method == "PATCH" and TRUST_BUNDLE in one.path]
        assert len(writes) == 2, "one for each namespace, by one replica"


async def test_while_the_api_is_away_proxies_are_served(server: ApiServer, tmp_path: Path) -> None:
    replica = replica_of(server, tmp_path, "one")
    async with replica.running():
        await until(lambda: has(server, CONFIG_MAPS, NAMESPACE, TRUST_BUNDLE))
        web = SpiffeId("cluster.local", "shop", "web")
        await replica.certificate(web, "of-ztunnel")
        server.faults.away = True
        await server.break_connections()
        async with replica.reading("of-ztunnel") as known:
            await until(lambda: WEB in known)
        await replica.certificate(web, "of-ztunnel")
        # Nobody can vouch for a token that was not seen before.
        with pytest.raises(GrpcError) as caught:
            await replica.certificate(SpiffeId("cluster.local", "shop", "web"), "of-web")
        assert caught.value.status is StatusCode.UNAVAILABLE


async def test_the_start_waits_for_an_api_that_comes_later(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "RETRY_SECONDS", 0.05)
    server.faults.away = True
    replica = replica_of(server, tmp_path, "one")

    async def comes() -> None:
        await trio.sleep(0.3)
        server.faults.away = False

    async with trio.open_nursery() as nursery:
        nursery.start_soon(comes)
        async with replica.running():
            assert has(server, SECRETS, NAMESPACE, ROOT_SECRET)


async def test_what_cannot_be_is_said(tmp_path: Path) -> None:
    async def start(text: str) -> None:
        async with open_platform(config.decode(text, "f", OperatorSettings, {})):
            pass

    base = "authority: {}\nauthentication: {}\n"
    with pytest.raises(ConfigurationError, match="name one of folder and kubernetes"):
        await start("source: {}\n" + base)
    with pytest.raises(ConfigurationError, match="give folder"):
        await start("source: {folder: /tmp}\n" + base)
    with pytest.raises(ConfigurationError, match=r"authentication\.tokens"):
        await start(f"source: {{folder: /tmp}}\nauthority: {{folder: {tmp_path}/ca}}\nauthentication: {{}}\n")
    with pytest.raises(ConfigurationError, match="no access to the Kubernetes API"):
        await start(f"source: {{kubernetes: {{kubeconfig: {tmp_path}/none}}}}\n" + base)


async def test_the_option_overrides_the_file(server: ApiServer, tmp_path: Path) -> None:
    replica = replica_of(server, tmp_path, "one")
    replica.file.write_text(
        "source: {folder: /nowhere}\nauthority: {}\nauthentication: {}\ngrpc: {port: 0}\nhttp: {port: 0}\n"
    )
    environment = {**os.environ, "KUBECONFIG": str(server.kubeconfig(tmp_path / "kubeconfig"))}
    command = [sys.executable, "-m", "controlplane", "--config", str(replica.file), "--source", "kubernetes"]
    process = await trio.lowlevel.open_process(command, env=environment, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        output = b""
        with trio.fail_after(30):
            while b"operator_ready" not in output:
                data = await process.stdout.receive_some()
                assert data, output
                output += data
    finally:
        process.send_signal(signal.SIGTERM)
        await process.wait()
        await process.stdout.aclose()
    assert process.returncode == 0
    assert has(server, LEASES, NAMESPACE, LEASE)


def told(server: ApiServer) -> dict[tuple[str, str], str]:
    """The notes of events by their object and reason."""
    return {
        (f"{body['regarding']['kind']} {body['regarding']['name']}", body["reason"]): body["note"]
        for _, body in server.cluster.of("events.k8s.io/events")
    }


async def test_what_users_must_see_is_told_as_events(server: ApiServer, tmp_path: Path) -> None:
    deployment = {"metadata": {"name": "ambimesh-operator", "namespace": NAMESPACE}, "spec": {}}
    server.cluster.put("apps/deployments", deployment)
    server.faults.denied.add("list gateway.networking.k8s.io/httproutes")
    istio = pod("istio-system", "ztunnel-x", "ztunnel", address="10.0.0.7")
    istio["metadata"]["labels"] = {"app": "ztunnel"}
    server.cluster.put("/pods", istio)
    by_method = {"rules": [{"to": [{"operation": {"methods": ["GET"]}}]}]}
    policies = "security.istio.io/authorizationpolicies"
    for name, spec in (("by-method", by_method), ("typed", {"rules": "all"})):
        metadata = {"name": name, "namespace": "shop"}
        policy = {"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy", "metadata": metadata}
        server.cluster.put(policies, {**policy, "spec": spec})
    replica = replica_of(server, tmp_path, "one")
    async with replica.running():
        await until(lambda: has(server, CONFIG_MAPS, NAMESPACE, TRUST_BUNDLE))
        with pytest.raises(GrpcError, match="may not act for"):
            await replica.certificate(SpiffeId("cluster.local", "shop", "other"), "of-web")
        await until(lambda: len(told(server)) >= 5)
    notes = told(server)
    assert "methods" in notes["AuthorizationPolicy by-method", "UnsupportedValue"]
    assert "$.spec.rules" in notes["AuthorizationPolicy typed", "Invalid"]
    assert "httproutes may not be read" in notes["Deployment ambimesh-operator", "NotRead"]
    assert "cannot list" in notes["Deployment ambimesh-operator", "NotRead"]
    assert "Istio's ztunnel runs in this cluster (in namespace istio-system)" in notes[
        "Deployment ambimesh-operator", "OtherMesh"
    ]
    assert "shop/web may not act for" in notes["Pod web", "CertificateRefused"]


async def test_another_mesh_that_comes_later_is_told_then(server: ApiServer, tmp_path: Path) -> None:
    server.cluster.put("apps/deployments", {"metadata": {"name": "ambimesh-operator", "namespace": NAMESPACE}})
    replica = replica_of(server, tmp_path, "one")
    async with replica.running():
        await until(lambda: has(server, CONFIG_MAPS, NAMESPACE, TRUST_BUNDLE))
        assert not told(server)
        second = pod("else", "agent-x", "agent", address="10.0.0.8")
        second["metadata"]["labels"] = {"app.kubernetes.io/name": "ambimesh-agent"}
        server.cluster.put("/pods", second)
        await until(lambda: ("Deployment ambimesh-operator", "OtherMesh") in told(server))
