"""TLS between a whole waypoint and an application: what DestinationRule and BackendTLSPolicy ask for happens."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import h11
import msgspec
import pytest
import trio
from cryptography.hazmat.primitives import serialization

from controlplane.testing.routes import V1, destination, route, translated
from mesh.identity import SpiffeId
from mesh.model.upstream_policy import HealthCheck, TrafficPolicy, UpstreamPolicy, UpstreamTls
from mesh.model.waypoint import Destination, DestinationPort
from mesh.model.workload import TunnelProtocol
from mesh.testing.ca import TestAuthority
from mesh.testing.model import make_service, make_workload
from waypoint.admin import without_secrets

WEB = "demo/web.demo.svc.cluster.local"
AUTHORITY = TestAuthority()
ROOTS = AUTHORITY.roots.decode()
BODY = bytes(range(256)) * 400


class Application:
    """An HTTPS server; what is no TLS it only counts."""

    def __init__(self, folder: Path, *, mutual: bool = False) -> None:
        issued = AUTHORITY.issue_server("web.example")
        key = issued.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        file = folder / "chain.pem"
        file.write_bytes(key + b"".join(issued.certificate_chain))
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(file)
        if mutual:
            self.context.verify_mode = ssl.CERT_REQUIRED
            self.context.load_verify_locations(cadata=ROOTS)
        self.clients: list[Any] = []
        """The certificates that clients have shown."""
        self.port = 0
        self.names: list[str | None] = []
        self.context.sni_callback = lambda _session, name, _context: self.names.append(name)
        self.requests: list[bytes] = []
        self.failures = 0

    async def serve(self, stream: trio.SocketStream) -> None:
        secure = trio.SSLStream(stream, self.context, server_side=True)
        try:
            head = b""
            while b"\r\n\r\n" not in head:
                more = await secure.receive_some(65536)
                if not more:
                    return
                head += more
            self.requests.append(head)
            self.clients.append(secure.getpeercert())
            await secure.send_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n" + BODY)
            if b"/cut" in head:
                await stream.aclose()
            else:
                await secure.aclose()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.failures += 1


@asynccontextmanager
async def secured(
    mesh: Any, folder: Path, tls: UpstreamTls, check: HealthCheck | None = None, *, mutual: bool = False
) -> AsyncIterator[Application]:
    application = Application(folder, mutual=mutual)
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.2")
        application.port = listener.socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, application.serve, [listener])
        policy = TrafficPolicy(tls=tls, health_check=check)
        mesh.offer(
            make_service("web", "10.96.0.1", ports={80: application.port}, namespace="demo"),
            make_workload(
                "web-1", "127.0.0.2", namespace="demo", services={WEB: {80: application.port}},
                tunnel_protocol=TunnelProtocol.NONE,
            ),
            Destination(
                key=WEB,
                waypoint="demo/waypoint",
                ports=(DestinationPort(number=80),),
                upstreams=(UpstreamPolicy(service=WEB, policy=policy),),
            ),
        )  # fmt: skip
        await mesh.served("10.96.0.1:80")
        yield application
        nursery.cancel_scope.cancel()


def body_of(answer: bytes) -> bytes:
    """The body; raises if it is not whole."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("host", "web")]))
    client.receive_data(answer)
    client.receive_data(b"")
    body = b""
    while not isinstance(event := client.next_event(), h11.EndOfMessage):
        assert event is not h11.NEED_DATA
        if isinstance(event, h11.Data):
            body += event.data
    return body


async def test_requests_reach_the_application_in_tls(own_mesh: Any, tmp_path: Path) -> None:
    async with secured(own_mesh, tmp_path, UpstreamTls(server_name="web.example", ca_certificates=ROOTS)) as web:
        status, answer = await own_mesh.get("10.96.0.1:80", "/whole")
        assert (status, body_of(answer)) == (200, BODY)
        assert web.requests[0].startswith(b"GET /whole HTTP/1.1\r\n")
        assert web.names == ["web.example"]


@pytest.mark.parametrize(
    "tls",
    [
        UpstreamTls(server_name="other.example", ca_certificates=ROOTS),
        UpstreamTls(server_name="web.example", subject_alt_names=("a.example",), ca_certificates=ROOTS),
        UpstreamTls(server_name="web.example", ca_certificates=""),
        UpstreamTls(server_name="web.example"),
        UpstreamTls(server_name="web.example", ca_certificates="no certificate"),
    ],
    ids=["name", "names", "nobody trusted", "system's roots", "bad roots"],
)
async def test_nothing_is_said_to_who_cannot_be_trusted(own_mesh: Any, tmp_path: Path, tls: UpstreamTls) -> None:
    async with secured(own_mesh, tmp_path, tls) as web:
        for _ in range(3):
            assert (await own_mesh.get("10.96.0.1:80"))[0] == 503
        assert web.requests == []


async def test_a_body_that_was_cut_does_not_pass_for_whole(own_mesh: Any, tmp_path: Path) -> None:
    async with secured(own_mesh, tmp_path, UpstreamTls(server_name="web.example", ca_certificates=ROOTS)):
        wire, received = await own_mesh.connect("10.96.0.1:80")
        wire.write(b"GET /cut HTTP/1.1\r\nhost: web\r\n\r\n")
        answer = await received.until(lambda each: each.ended or each.lost)
        with pytest.raises(h11.RemoteProtocolError):
            body_of(answer)


async def test_health_checks_go_the_same_way(own_mesh: Any, tmp_path: Path) -> None:
    check = HealthCheck(path="/healthz", interval_seconds=0.05, timeout_seconds=2.0, unhealthy_threshold=1)
    tls = UpstreamTls(server_name="web.example", ca_certificates=ROOTS)
    async with secured(own_mesh, tmp_path, tls, check) as web:
        assert (await own_mesh.get("10.96.0.1:80"))[0] == 200
        with trio.fail_after(10):
            while not any(each.startswith(b"GET /healthz") for each in web.requests):  # noqa: ASYNC110 -- nobody tells
                await trio.sleep(0.01)
        assert (await own_mesh.get("10.96.0.1:80"))[0] == 200


def as_translated(roots: dict[str, str] | None) -> UpstreamTls:
    """What the operator makes of a BackendTLSPolicy that trusts the roots in a ConfigMap, None: which is not there."""
    policy = """
---
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: tls, namespace: shop}
spec:
  targetRefs: [{group: '', kind: Service, name: v1}]
  validation: {hostname: web.example, caCertificateRefs: [{group: '', kind: ConfigMap, name: roots}]}
"""
    config_map = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "roots", "namespace": "shop"}}
    there = "" if roots is None else f"---\n{msgspec.json.encode({**config_map, 'data': roots}).decode()}\n"
    [upstream] = destination(translated(route(f"[{{{V1}}}]") + policy + there)).upstreams
    assert upstream.policy.tls is not None
    return upstream.policy.tls


async def test_a_private_authority_is_trusted_by_a_config_map(own_mesh: Any, tmp_path: Path) -> None:
    noted = {"ca.crt": "# of the shop, not of the cluster \N{EM DASH} rotate yearly\n" + ROOTS}
    async with secured(own_mesh, tmp_path, as_translated(noted)) as web:
        status, answer = await own_mesh.get("10.96.0.1:80")
        assert (status, body_of(answer)) == (200, BODY)
        assert web.names == ["web.example"]


@pytest.mark.parametrize(
    "roots",
    [None, {}, {"ca.pem": ROOTS}, {"ca.crt": ROOTS[:-100]}, {"ca.crt": TestAuthority().roots.decode()}],
    ids=["no ConfigMap", "empty", "other key", "broken", "other authority"],
)
async def test_nobody_else_is_trusted_in_its_place(
    own_mesh: Any, tmp_path: Path, roots: dict[str, str] | None
) -> None:
    async with secured(own_mesh, tmp_path, as_translated(roots)) as web:
        assert (await own_mesh.get("10.96.0.1:80"))[0] == 503
        assert web.requests == []


def from_a_secret(mode: str) -> UpstreamTls:
    """What the operator makes of a DestinationRule and a Secret."""
    issued = AUTHORITY.issue(SpiffeId("cluster.local", "shop", "waypoint"))
    key = issued.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "certificates", "namespace": "shop"},
        "stringData": {"ca.crt": ROOTS, "tls.crt": b"".join(issued.certificate_chain).decode(), "tls.key": key},
    }
    rule = f"""
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: tls, namespace: shop}}
spec:
  host: v1
  trafficPolicy: {{tls: {{mode: {mode}, credentialName: certificates, sni: web.example}}}}
"""
    objects = route(f"[{{{V1}}}]") + rule + f"---\n{msgspec.json.encode(secret).decode()}\n"
    [upstream] = destination(translated(objects)).upstreams
    assert upstream.policy.tls is not None
    return upstream.policy.tls


async def test_a_client_certificate_of_a_secret_is_shown(own_mesh: Any, tmp_path: Path) -> None:
    async with secured(own_mesh, tmp_path, from_a_secret("MUTUAL"), mutual=True) as web:
        status, answer = await own_mesh.get("10.96.0.1:80")
        assert (status, body_of(answer)) == (200, BODY)
        assert web.clients[0]["subjectAltName"] == (("URI", "spiffe://cluster.local/ns/shop/sa/waypoint"),)


async def test_without_one_an_application_that_demands_it_refuses(own_mesh: Any, tmp_path: Path) -> None:
    async with secured(own_mesh, tmp_path, from_a_secret("SIMPLE"), mutual=True) as web:
        assert (await own_mesh.get("10.96.0.1:80"))[0] == 503
        assert web.requests == []


def test_the_key_is_not_dumped() -> None:
    tls = from_a_secret("MUTUAL")
    assert tls.shown is not None
    shown = without_secrets(msgspec.to_builtins(UpstreamPolicy(service=WEB, policy=TrafficPolicy(tls=tls))))
    assert shown["policy"]["tls"]["shown"] == {"chain": tls.shown.chain, "private_key": "(not shown)"}
    assert "PRIVATE" not in repr(shown)
