from __future__ import annotations

import socket
import ssl

import pytest

from mesh.hbone.contract import Role
from mesh.relay.engine import Engine
from mesh.relay.kernel_tunnel import KernelTunnel
from mesh.relay.openssl_tunnel import OpensslTunnel
from mesh.relay.tunnel import Tunnel
from mesh.relay.tunnels import make_tunnel
from mesh.testing.ca import TestAuthority
from mesh.tls.context import client_context
from mesh.tls.handshake_driver import EstablishedTls, KernelHasTls


class Nobody:
    """An owner that is told of nothing here but the end."""

    def __getattr__(self, _name: str) -> object:
        return lambda *_: None


def by_openssl() -> EstablishedTls:
    authority = TestAuthority()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = client_context(authority.issue(authority.identity("demo", "client")))
    return EstablishedTls(context.wrap_bio(incoming, outgoing), incoming, outgoing, b"")


@pytest.mark.parametrize(("tls", "kind"), [(by_openssl(), OpensslTunnel), (KernelHasTls(b""), KernelTunnel)])
def test_who_has_the_keys_decides(tls: EstablishedTls | KernelHasTls, kind: type[Tunnel]) -> None:
    engine = Engine()
    ours, theirs = socket.socketpair()
    with theirs:
        tunnel = make_tunnel(engine, ours, tls, Role.CLIENT, Nobody(), "peer")  # type: ignore[arg-type]
        assert type(tunnel) is kind
        assert tunnel.peer_identity == "peer"
        theirs.close()
        tunnel.crashed(InterruptedError())  # type: ignore[arg-type]
        assert tunnel.closed
    engine.close()
