from __future__ import annotations

import ssl
from datetime import timedelta
from pathlib import Path

import trio
from cryptography import x509
from trio.testing import MockClock, memory_stream_pair

from controlplane.ca.authority import load_or_create
from controlplane.ca.issuer import Issuer
from controlplane.serving import ServingCertificate
from mesh.tls.context import control_plane_context

NAME = "operator.example"


async def served(serving: ServingCertificate, roots: bytes) -> x509.Certificate:
    """The certificate that a new connection is shown, and ALPN agrees on HTTP/2."""
    client_side, server_side = memory_stream_pair()
    client = trio.SSLStream(client_side, control_plane_context(roots), server_hostname=NAME)
    server = trio.SSLStream(server_side, serving.context, server_side=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.do_handshake)
        await client.do_handshake()
    assert client.selected_alpn_protocol() == "h2"
    der = client.getpeercert(True)
    assert isinstance(der, bytes)
    return x509.load_der_x509_certificate(der)


async def test_new_connections_get_the_new_certificate(tmp_path: Path, autojump_clock: MockClock) -> None:
    issuer = Issuer(load_or_create(tmp_path, "cluster.local"), "cluster.local")
    serving = ServingCertificate(issuer, NAME, timedelta(hours=2))
    assert isinstance(serving.context, ssl.SSLContext)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serving.run_renewal)
        first = await served(serving, issuer.roots)
        assert (await served(serving, issuer.roots)).serial_number == first.serial_number
        await trio.sleep(3601)
        second = await served(serving, issuer.roots)
        assert second.serial_number != first.serial_number
        nursery.cancel_scope.cancel()
