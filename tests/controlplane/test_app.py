"""The whole operator over loopback: what a ztunnel sees of it."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from controlplane.app import run, visible_to
from controlplane.ca.server import METHOD
from controlplane.config import OperatorSettings
from mesh import config
from mesh.errors import ConfigurationError, TlsFailure
from mesh.grpc.driver import Channel, GrpcError, StatusCode, open_channel
from mesh.identity import SpiffeId
from mesh.model.policy import Policy
from mesh.model.service import Service
from mesh.model.workload import TunnelProtocol, Workload
from mesh.tls.context import control_plane_context
from mesh.tls.csr import make_csr, make_key
from mesh.wire.certificate_pb2 import IstioCertificateRequest, IstioCertificateResponse
from mesh.xds.client_driver import METHOD as DISCOVERY_METHOD
from mesh.xds.client_driver import aggregated_stream, run_client
from mesh.xds.client_machine import Subscription
from mesh.xds.codec import ADDRESS_TYPE, AUTHORIZATION_TYPE, DESTINATION_TYPE, decode_address, decode_authorization
from mesh.xds.discovery_codec import NodeInfo, Rejected, Resource
from mesh.xds.snapshot import entry

SERVER_NAME = "ambimesh-operator.ambimesh-system.svc"
TOKEN = "a-token-of-the-node"
WEB = "Kubernetes//Pod/shop/web"
STATIC = "istio-system/istio_converted_static_strict"

MANIFESTS = """
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {nodeName: node1, serviceAccountName: web, containers: [{name: c}]}
status: {podIP: 10.0.0.1, conditions: [{type: Ready, status: "True"}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.1, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: [10.0.0.1], targetRef: {kind: Pod, name: web}}]
"""
POLICY = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: allow-a, namespace: shop}
spec:
  selector: {matchLabels: {app: web}}
  rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/a]}}]}]
"""
STRICT = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: shop}
spec: {mtls: {mode: STRICT}}
"""


class Operator:
    """A running operator and its files."""

    def __init__(self, folder: Path) -> None:
        self.cluster = folder / "cluster"
        self.roots = folder / "published" / "root.pem"
        self.file = folder / "operator.yaml"
        self.cluster.mkdir()
        (self.cluster / "shop.yaml").write_text(MANIFESTS)
        digest = hashlib.sha256(TOKEN.encode()).hexdigest()
        entry = f"{{sha256: {digest}, node: node1, namespace: ambimesh-system, service_account: ztunnel}}"
        (folder / "tokens.yaml").write_text(f"tokens: [{entry}]\n")
        self.file.write_text(
            f"source: {{folder: {self.cluster}}}\n"
            f"authority: {{folder: {folder}/ca, published_roots: {self.roots}}}\n"
            f"authentication: {{tokens: {folder}/tokens.yaml}}\n"
            "grpc: {port: 0}\n"
            "http: {port: 0}\n"
            "drain_seconds: 0.5\n"
        )
        self.port = 0
        self.http_port = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        settings = config.load(self.file, OperatorSettings)
        async with trio.open_nursery() as nursery:
            self.port, self.http_port = await nursery.start(functools.partial(run, settings))
            yield
            nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def channel(self) -> AsyncIterator[Channel]:
        context = control_plane_context(self.roots.read_bytes())
        async with open_channel("127.0.0.1", self.port, context, SERVER_NAME) as channel:
            yield channel

    async def page(self, path: str) -> tuple[int, str]:
        stream = await trio.open_tcp_stream("127.0.0.1", self.http_port)
        async with stream:
            await stream.send_all(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
            content = b"".join([part async for part in stream])
        head, _, body = content.partition(b"\r\n\r\n")
        return int(head.split()[1]), body.decode()


class Reader:
    """What a node proxy makes of the discovery stream."""

    def __init__(self) -> None:
        self.addresses: dict[str, Workload | Service] = {}
        self.policies: dict[str, Policy] = {}
        self.dangling: list[str] = []
        """References to policies that were not known at that moment."""
        self._changed = trio.Event()

    def apply(self, type_url: str, updated: Sequence[Resource], removed: Sequence[str]) -> Sequence[Rejected]:
        for name in removed:
            (self.addresses if type_url == ADDRESS_TYPE else self.policies).pop(name, None)
        for resource in updated:
            if type_url == ADDRESS_TYPE:
                self.addresses[resource.name] = decode_address(resource.payload)
            else:
                self.policies[resource.name] = decode_authorization(resource.payload)
        for value in self.addresses.values():
            if isinstance(value, Workload):
                self.dangling += [name for name in value.authorization_policies if name not in self.policies]
        self._changed.set()
        self._changed = trio.Event()
        return []

    def applied(self, type_url: str) -> None:
        pass

    async def until(self, condition: Callable[[], bool]) -> None:
        with trio.fail_after(10):
            while not condition():
                await self._changed.wait()

    def names(self, uid: str = WEB) -> tuple[str, ...]:
        value = self.addresses.get(uid)
        return value.authorization_policies if isinstance(value, Workload) else ()


@asynccontextmanager
async def reading(operator: Operator) -> AsyncIterator[Reader]:
    async def metadata() -> Sequence[tuple[str, str]]:
        return [("authorization", f"Bearer {TOKEN}"), ("clusterid", "Kubernetes")]

    connect = aggregated_stream(
        "127.0.0.1",
        operator.port,
        ssl_context=lambda: control_plane_context(operator.roots.read_bytes()),
        server_hostname=SERVER_NAME,
        metadata=metadata,
    )
    node = NodeInfo(pod="ztunnel-1", namespace="ambimesh-system", ip="127.0.0.1", node="node1")
    reader = Reader()
    subscriptions = [Subscription(ADDRESS_TYPE), Subscription(AUTHORIZATION_TYPE)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_client, connect, node, subscriptions, reader)
        yield reader
        nursery.cancel_scope.cancel()


@pytest.fixture
async def operator(tmp_path: Path) -> AsyncIterator[Operator]:
    operator = Operator(tmp_path)
    async with operator.running():
        yield operator


async def test_a_reader_learns_the_mesh_and_every_edit_of_it(operator: Operator) -> None:
    cluster = operator.cluster
    async with reading(operator) as reader:
        await reader.until(lambda: len(reader.addresses) == 2)
        workload = reader.addresses[WEB]
        assert isinstance(workload, Workload)
        assert workload.tunnel_protocol is TunnelProtocol.NONE
        assert list(workload.services) == ["shop/web.shop.svc.cluster.local"]
        assert isinstance(reader.addresses["shop/web.shop.svc.cluster.local"], Service)

        (cluster / "policy.yaml").write_text(POLICY)
        await reader.until(lambda: reader.names() == ("shop/allow-a",))
        (cluster / "strict.yaml").write_text(STRICT)
        await reader.until(lambda: reader.names() == (STATIC, "shop/allow-a"))
        assert STATIC in reader.policies

        (cluster / "policy.yaml").unlink()
        (cluster / "strict.yaml").unlink()
        await reader.until(lambda: reader.names() == ())
        await reader.until(lambda: reader.policies == {})
        assert reader.dangling == [], "a workload referred to a policy that was not known: it would deny everything"

        text = MANIFESTS.replace("labels: {app: web}", "annotations: {ambient.istio.io/redirection: enabled}")
        (cluster / "shop.yaml").write_text(text)
        await reader.until(lambda: getattr(reader.addresses[WEB], "tunnel_protocol", None) is TunnelProtocol.HBONE)
        (cluster / "shop.yaml").write_text("---\nkind: [broken\n")
        with trio.move_on_after(0.5):
            await reader.until(lambda: not reader.addresses)
        assert len(reader.addresses) == 2, "the last good version stays"


async def certificate(channel: Channel, identity: SpiffeId, token: str = TOKEN) -> IstioCertificateResponse:
    request = IstioCertificateRequest(csr=make_csr(identity, make_key()).decode(), validity_duration=60)
    request.metadata.update({"ImpersonatedIdentity": str(identity)})
    metadata = [("authorization", f"Bearer {token}")]
    answer = await channel.unary(METHOD, request.SerializeToString(), metadata=metadata, timeout=5)
    return IstioCertificateResponse.FromString(answer)


async def test_certificates_for_pods_of_the_node(operator: Operator) -> None:
    async with operator.channel() as channel:
        answer = await certificate(channel, SpiffeId("cluster.local", "shop", "web"))
        assert answer.cert_chain[-1].encode() == operator.roots.read_bytes()
        with pytest.raises(GrpcError, match="no live pod") as caught:
            await certificate(channel, SpiffeId("cluster.local", "shop", "other"))
        assert caught.value.status is StatusCode.PERMISSION_DENIED
    _, metrics = await operator.page("/metrics")
    assert "citadel_server_success_cert_issuance_count 1.0" in metrics
    assert "citadel_server_id_extraction_err_count 1.0" in metrics


def test_a_destination_is_for_its_own_waypoint_only() -> None:
    made = entry(DESTINATION_TYPE, "shop/waypoint|shop/web", b"", (), ("shop/waypoint",))
    for caller, sees in (
        ("shop/waypoint", True),
        ("shop/waypoint@node1", True),
        ("shop/other", False),
        ("other/waypoint", False),
        ("ambimesh-system/ztunnel@node1", False),
    ):
        assert visible_to(caller)[DESTINATION_TYPE](made) is sees
    assert set(visible_to("shop/waypoint")) == {DESTINATION_TYPE}


async def test_nothing_without_a_token(operator: Operator) -> None:
    async with operator.channel() as channel:
        with pytest.raises(GrpcError) as caught:
            await certificate(channel, SpiffeId("cluster.local", "shop", "web"), "guess")
        assert caught.value.status is StatusCode.UNAUTHENTICATED
        for metadata in ([], [("authorization", "Bearer guess")]):
            async with channel.stream(DISCOVERY_METHOD, metadata=metadata) as call:
                with pytest.raises(GrpcError) as caught:
                    await call.receive()
            assert caught.value.status is StatusCode.UNAUTHENTICATED


async def test_the_server_proves_its_name(operator: Operator) -> None:
    context = control_plane_context(operator.roots.read_bytes())
    with pytest.raises(TlsFailure):
        async with open_channel("127.0.0.1", operator.port, context, "other.example"):
            pass


async def test_pages(operator: Operator) -> None:
    (operator.cluster / "more.yaml").write_text(
        "apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec: {type: ExternalName, externalName: y}\n"
        "---\napiVersion: v1\nkind: Service\nmetadata: {nam: x}\n"
    )
    async with reading(operator) as reader:  # whoever has the later change shows that the earlier one was taken up
        policy = POLICY.replace("{name: allow-a,", '{name: allow-a, resourceVersion: "7",')
        (operator.cluster / "policy.yaml").write_text(policy)
        await reader.until(lambda: reader.names() != ())
    _, text = await operator.page("/debug/findings")
    shown = json.loads(text)
    assert shown["findings"][0]["condition"] == "NotApplied"
    assert "$.metadata.nam" in shown["problems"][0]
    assert "resourceVersion" not in shown
    _, text = await operator.page("/debug/findings?kind=AuthorizationPolicy&namespace=shop&name=allow-a")
    assert json.loads(text) == {**shown, "resourceVersion": "7"}
    status, text = await operator.page("/debug/snapshot")
    assert status == 200
    resources = {resource["name"]: resource for resource in json.loads(text)["resources"]}
    assert resources[WEB]["aliases"] == ["/10.0.0.1"]
    assert resources[WEB]["value"]["addresses"] == ["10.0.0.1"]
    assert (await operator.page("/healthz/ready")) == (200, "ready\n")


async def test_the_authority_survives_a_restart(tmp_path: Path) -> None:
    operator = Operator(tmp_path)
    published = []
    for _ in range(2):
        async with operator.running(), operator.channel() as channel:
            published.append(operator.roots.read_bytes())
            await certificate(channel, SpiffeId("cluster.local", "shop", "web"))
    assert published[0] == published[1]


async def test_no_source_is_said(tmp_path: Path) -> None:
    operator = Operator(tmp_path)
    operator.file.write_text(operator.file.read_text().replace(str(operator.cluster), str(tmp_path / "none")))
    with pytest.raises(ConfigurationError, match="is no folder"):
        await run(config.load(operator.file, OperatorSettings))


def start_process(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "controlplane", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_the_process_drains_on_sigterm(tmp_path: Path) -> None:
    operator = Operator(tmp_path)
    with start_process("--config", str(operator.file)) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if b"operator_ready" in line:
                break
        os.kill(process.pid, signal.SIGTERM)
        rest, errors = process.communicate(timeout=20)
    assert process.returncode == 0, errors
    assert b"draining" in rest
    assert b"operator_stopped" in rest


async def test_a_drain_does_not_wait_for_discovery_streams(tmp_path: Path) -> None:
    operator = Operator(tmp_path)
    operator.file.write_text(operator.file.read_text().replace("drain_seconds: 0.5", "drain_seconds: 60"))
    with start_process("--config", str(operator.file)) as process:
        assert process.stdout is not None
        try:
            for line in iter(process.stdout.readline, b""):
                if b"operator_ready" in line:
                    operator.port = int(line.split(b"port=")[1].split()[0])
                    break
            async with reading(operator) as reader:
                await reader.until(lambda: len(reader.addresses) == 2)
                process.terminate()
                assert await trio.to_thread.run_sync(functools.partial(process.wait, 20)) == 0
        finally:
            process.kill()


def test_a_wrong_trust_domain_is_said(tmp_path: Path) -> None:
    operator = Operator(tmp_path)
    operator.file.write_text(operator.file.read_text() + "mesh: {trust_domain: Not/One}\n")
    with start_process("--config", str(operator.file)) as process:
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    assert b"is not a trust domain" in errors


def test_a_broken_configuration_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("source: {folder: /nowhere}\nsauce: 1\n")
    with start_process("--config", str(tmp_path / "bad.yaml")) as process:
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    (line,) = errors.decode().splitlines()
    assert "bad.yaml" in line
    assert "sauce" in line or "authority" in line
