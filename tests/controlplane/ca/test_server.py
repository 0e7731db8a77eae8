from __future__ import annotations

import hashlib
import math
from pathlib import Path

import pytest
from cryptography import x509
from prometheus_client import CollectorRegistry, generate_latest

from controlplane.ca.authentication import StaticTokens
from controlplane.ca.authority import load_or_create
from controlplane.ca.issuer import Issuer
from controlplane.ca.metrics import AuthorityMetrics
from controlplane.ca.placement import Placement
from controlplane.ca.server import METHOD, CertificateService
from mesh.addresses import PeerAddress, SocketAddress, parse_ip
from mesh.grpc.driver import CallContext, GrpcError, StatusCode
from mesh.identity import SpiffeId
from mesh.tls.csr import make_csr, make_key
from mesh.wire.certificate_pb2 import IstioCertificateRequest, IstioCertificateResponse
from resources.base import ObjectMeta
from resources.object_set import ObjectSet
from resources.objects import Pod
from resources.pod import Container, PodSpec, PodStatus

WEB = SpiffeId("cluster.local", "shop", "web")


def pod(account: str, node: str, phase: str = "Running") -> Pod:
    spec = PodSpec(containers=(Container(name="c"),), node_name=node, service_account_name=account)
    metadata = ObjectMeta(name=f"{account}-{node}-{phase.lower()}", namespace="shop")
    return Pod(metadata=metadata, spec=spec, status=PodStatus(phase=phase))


class Service:
    """The service with three tokens: a node proxy on node1, one without node, and an ordinary account."""

    def __init__(self, folder: Path) -> None:
        entries = [
            ("node1-proxy", "mesh", "ztunnel", "node1"),
            ("lost-proxy", "mesh", "ztunnel", ""),
            ("plain", "shop", "web", "node1"),
        ]
        lines = [
            f"- {{sha256: {hashlib.sha256(token.encode()).hexdigest()}, namespace: {namespace}, "
            f"service_account: {account}, node: '{node}'}}"
            for token, namespace, account, node in entries
        ]
        (folder / "tokens").write_text("tokens:\n" + "\n".join(lines))
        self.placement = Placement()
        pods = [pod("web", "node1"), pod("far", "node2"), pod("done", "node1", "Failed")]
        self.placement.update(ObjectSet(pods))
        self.registry = CollectorRegistry()
        self._service = CertificateService(
            Issuer(load_or_create(folder / "ca", "cluster.local"), "cluster.local"),
            StaticTokens(folder / "tokens"),
            self.placement,
            "cluster.local",
            frozenset({"mesh/ztunnel"}),
            AuthorityMetrics(self.registry),
        )

    async def ask(
        self,
        token: str,
        wanted: str | None = None,
        *,
        csr_for: SpiffeId = WEB,
        csr: str | None = None,
        seconds: int = 0,
    ) -> list[str]:
        request = IstioCertificateRequest(csr=csr or make_csr(csr_for, make_key()).decode(), validity_duration=seconds)
        if wanted is not None:
            request.metadata.update({"ImpersonatedIdentity": wanted})
        return await self.send(token, request.SerializeToString())

    async def send(self, token: str, message: bytes) -> list[str]:
        context = CallContext(
            method=METHOD,
            metadata={"authorization": f"Bearer {token}"},
            peer=PeerAddress(SocketAddress(parse_ip("127.0.0.1"), 1)),
            deadline=math.inf,
        )
        answer = IstioCertificateResponse.FromString(await self._service.create_certificate(context, message))
        return list(answer.cert_chain)

    def count(self, name: str) -> float:
        text = generate_latest(self.registry).decode()
        (line,) = [line for line in text.splitlines() if line.startswith(f"citadel_server_{name} ")]
        return float(line.split()[1])


@pytest.fixture
def service(tmp_path: Path) -> Service:
    return Service(tmp_path)


async def test_a_node_proxy_gets_what_lives_on_its_node(service: Service) -> None:
    leaf, root = await service.ask("node1-proxy", str(WEB), seconds=20)
    certificate = x509.load_pem_x509_certificate(leaf.encode())
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(root.encode()))
    span = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    assert 20 <= span.total_seconds() < 24
    assert service.count("success_cert_issuance_count") == 1
    assert service.count("csr_count") == 1
    assert service.count("root_cert_expiry_timestamp") > 1e9


async def test_a_caller_gets_itself(service: Service) -> None:
    assert len(await service.ask("plain")) == 2


async def refused(service: Service, status: StatusCode, message: str, *args: str, **more: object) -> None:
    with pytest.raises(GrpcError) as caught:
        await service.ask(*args, **more)  # type: ignore[arg-type]
    assert caught.value.status is status
    assert message in caught.value.message
    assert service.count("success_cert_issuance_count") == 0


def identity(account: str, trust_domain: str = "cluster.local") -> SpiffeId:
    return SpiffeId(trust_domain, "shop", account)


@pytest.mark.parametrize(
    ("token", "wanted", "message"),
    [
        ("node1-proxy", identity("far"), "no live pod of spiffe://cluster.local/ns/shop/sa/far runs on node node1"),
        ("node1-proxy", identity("done"), "no live pod"),
        ("node1-proxy", identity("nobody"), "no live pod"),
        ("node1-proxy", identity("web", "evil.example"), "trust domain"),
        ("plain", identity("web"), "may not act for"),
        ("lost-proxy", identity("web"), "does not say on which node"),
    ],
)
async def test_impersonation_that_is_refused(service: Service, token: str, wanted: SpiffeId, message: str) -> None:
    await refused(service, StatusCode.PERMISSION_DENIED, message, token, str(wanted), csr_for=wanted)
    assert service.count("id_extraction_err_count") == 1


async def test_the_request_must_name_what_is_granted(service: Service) -> None:
    await refused(
        service, StatusCode.PERMISSION_DENIED, "the signing request names", "node1-proxy", str(WEB),
        csr_for=identity("far"),
    )
    await refused(
        service, StatusCode.PERMISSION_DENIED, "the caller may have", "plain", csr_for=identity("far")
    )


async def test_a_bad_token(service: Service) -> None:
    await refused(service, StatusCode.UNAUTHENTICATED, "not known", "guess", str(WEB))
    await refused(service, StatusCode.UNAUTHENTICATED, "no bearer token", "", str(WEB))
    assert service.count("authentication_failure_count") == 2


async def test_bad_requests(service: Service) -> None:
    await refused(service, StatusCode.INVALID_ARGUMENT, "unreadable", "node1-proxy", str(WEB), csr="garbage")
    await refused(service, StatusCode.INVALID_ARGUMENT, "not a SPIFFE id", "node1-proxy", "web")
    with pytest.raises(GrpcError, match="not an IstioCertificateRequest"):
        await service.send("node1-proxy", b"\xff\xff\xff")
    request = IstioCertificateRequest(csr=make_csr(WEB, make_key()).decode())
    request.metadata.update({"ImpersonatedIdentity": 5})
    with pytest.raises(GrpcError, match="must be text"):
        await service.send("node1-proxy", request.SerializeToString())
    assert service.count("csr_parsing_err_count") == 4


async def test_a_pod_that_ends_takes_the_claim_along(service: Service) -> None:
    await service.ask("node1-proxy", str(WEB))
    service.placement.update(ObjectSet([pod("web", "node1", "Succeeded")]))
    with pytest.raises(GrpcError, match="no live pod"):
        await service.ask("node1-proxy", str(WEB))
