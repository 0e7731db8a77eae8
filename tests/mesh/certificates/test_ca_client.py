from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest
import trio
from google.protobuf import json_format

from mesh.certificates.ca_client import METHOD, CaSettings, GrpcCaClient
from mesh.clock import SystemClock
from mesh.errors import CertificateServiceAway, IdentityUnavailable
from mesh.grpc.driver import CallContext, GrpcError, StatusCode, serve_grpc, unary
from mesh.testing.ca import TestAuthority
from mesh.tls.context import control_plane_server_context
from mesh.tls.peer import peer_identity
from mesh.wire import certificate_pb2 as wire

authority = TestAuthority()
A = authority.identity("default", "a")
SERVER_NAME = "operator.test"
Answer = Callable[[wire.IstioCertificateRequest], bytes]


def certify(request: wire.IstioCertificateRequest) -> bytes:
    chain = authority.sign_csr(
        request.csr.encode(), lifetime=timedelta(seconds=request.validity_duration)
    )
    return wire.IstioCertificateResponse(cert_chain=[pem.decode() for pem in chain]).SerializeToString()


@dataclass
class Service:
    """A certificate service on a real port, and what it was asked."""

    settings: CaSettings
    answer: Answer = certify
    calls: list[tuple[CallContext, wire.IstioCertificateRequest]] = field(default_factory=list)

    async def handle(self, context: CallContext, request: bytes) -> bytes:
        message = wire.IstioCertificateRequest.FromString(request)
        self.calls.append((context, message))
        return self.answer(message)

    def client(self) -> GrpcCaClient:
        return GrpcCaClient(self.settings, SystemClock())


@asynccontextmanager
async def service(folder: Path, server_name: str = SERVER_NAME) -> AsyncIterator[Service]:
    (folder / "token").write_text("first-token\n")
    (folder / "root.pem").write_bytes(authority.roots)
    server = authority.issue_server(SERVER_NAME)
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    made = Service(
        CaSettings(
            host="127.0.0.1", port=listeners[0].socket.getsockname()[1], server_name=server_name,
            root_certificate=folder / "root.pem", token=folder / "token", cluster_id="Kubernetes",
            lifetime_seconds=3600, timeout_seconds=5,
        )
    )
    handle: Callable[[CallContext, bytes], Awaitable[bytes]] = made.handle
    context = control_plane_server_context(server.certificate_chain, server.key)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: serve_grpc(listeners, {METHOD: unary(handle)}, ssl_context=context))
        with trio.fail_after(20):
            yield made
        nursery.cancel_scope.cancel()


async def test_a_certificate_is_asked_for_and_checked(tmp_path: Path) -> None:
    async with service(tmp_path) as s:
        credentials = await s.client().fetch(A)
    assert credentials.identity == A
    ((context, request),) = s.calls
    assert context.metadata["authorization"] == "Bearer first-token"
    assert context.metadata["clusterid"] == "Kubernetes"
    assert request.validity_duration == 3600
    assert json_format.MessageToDict(request.metadata) == {"ImpersonatedIdentity": str(A)}
    assert credentials.certificate_chain[0].startswith(b"-----BEGIN CERTIFICATE-----")
    assert credentials.roots.strip() == authority.roots.strip()
    assert peer_identity(ssl.PEM_cert_to_DER_cert(credentials.certificate_chain[0].decode())) == A


async def test_each_request_has_a_key_of_its_own_and_the_token_of_now(tmp_path: Path) -> None:
    async with service(tmp_path) as s:
        client = s.client()
        one = await client.fetch(A)
        (tmp_path / "token").write_text("second-token")
        two = await client.fetch(A)
    assert one.key.public_key() != two.key.public_key()
    assert s.calls[1][0].metadata["authorization"] == "Bearer second-token"


@pytest.mark.parametrize(
    ("status", "hint"),
    [
        (StatusCode.UNAUTHENTICATED, "does not accept the token"),
        (StatusCode.PERMISSION_DENIED, "no running pod"),
        (StatusCode.INTERNAL, "INTERNAL"),
        (StatusCode.UNAVAILABLE, "UNAVAILABLE"),
        (StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED"),
    ],
)
async def test_a_refusal_carries_the_reason(tmp_path: Path, status: StatusCode, hint: str) -> None:
    def refuse(request: wire.IstioCertificateRequest) -> bytes:
        raise GrpcError(status, "because of the moon")

    async with service(tmp_path) as s:
        s.answer = refuse
        with pytest.raises(IdentityUnavailable, match="because of the moon") as caught:
            await s.client().fetch(A)
    assert hint in str(caught.value)
    assert isinstance(caught.value.__cause__, GrpcError)
    no_answer = status in (StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED)
    assert isinstance(caught.value, CertificateServiceAway) is no_answer


async def test_a_certificate_for_somebody_else_is_not_taken(tmp_path: Path) -> None:
    def swap(request: wire.IstioCertificateRequest) -> bytes:
        other = authority.identity("default", "b")
        chain = authority.sign_csr(request.csr.encode(), lifetime=timedelta(hours=1), identity=other)
        return wire.IstioCertificateResponse(cert_chain=[pem.decode() for pem in chain]).SerializeToString()

    async with service(tmp_path) as s:
        s.answer = swap
        with pytest.raises(IdentityUnavailable, match="sa/b"):
            await s.client().fetch(A)


async def test_an_unreadable_answer_is_named(tmp_path: Path) -> None:
    async with service(tmp_path) as s:
        s.answer = lambda request: b"\xff\xff\xff"
        with pytest.raises(IdentityUnavailable, match="not a certificate response"):
            await s.client().fetch(A)


async def test_a_server_of_another_name_gets_no_token(tmp_path: Path) -> None:
    async with service(tmp_path, server_name="other.test") as s:
        with pytest.raises(IdentityUnavailable, match="cannot be asked"):
            await s.client().fetch(A)
        assert s.calls == []


async def test_a_server_of_another_root_gets_no_token(tmp_path: Path) -> None:
    async with service(tmp_path) as s:
        (tmp_path / "root.pem").write_bytes(TestAuthority().roots)
        with pytest.raises(IdentityUnavailable, match="cannot be asked"):
            await s.client().fetch(A)
        assert s.calls == []


async def test_nobody_there(tmp_path: Path) -> None:
    async with service(tmp_path) as s:
        pass
    with pytest.raises(CertificateServiceAway, match="cannot be asked"):
        await s.client().fetch(A)


@pytest.mark.parametrize("name", ["token", "root.pem"])
async def test_missing_and_empty_files_are_named(tmp_path: Path, name: str) -> None:
    async with service(tmp_path) as s:
        (tmp_path / name).write_text(" \n")
        with pytest.raises(IdentityUnavailable, match=f"{name} is empty"):
            await s.client().fetch(A)
        (tmp_path / name).unlink()
        with pytest.raises(IdentityUnavailable, match=f"cannot read .*{name}"):
            await s.client().fetch(A)
