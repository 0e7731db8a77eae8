"""Which kind of tunnel a finished handshake becomes."""

from __future__ import annotations

import socket

from mesh.hbone.contract import Role
from mesh.identity import SpiffeId
from mesh.relay.engine import Engine
from mesh.relay.kernel_tunnel import KernelTunnel
from mesh.relay.openssl_tunnel import OpensslTunnel
from mesh.relay.tunnel import Tunnel, TunnelOwner
from mesh.tls.handshake_driver import EstablishedTls, KernelHasTls


def make_tunnel(
    engine: Engine,
    sock: socket.socket,
    tls: EstablishedTls | KernelHasTls,
    role: Role,
    owner: TunnelOwner,
    peer_identity: SpiffeId | str,
) -> Tunnel:
    """A tunnel on this socket, not yet started.

    Args:
        engine: moves its bytes.
        sock: non-blocking, the tunnel's from here on.
        tls: what the handshake on it came to.
        role: client or server.
        owner: is told what happens to the tunnel as a whole.
        peer_identity: whom the handshake has proven the peer to be.
    """
    if isinstance(tls, KernelHasTls):
        return KernelTunnel(engine, sock, role, owner, peer_identity)
    return OpensslTunnel(engine, sock, tls, role, owner, peer_identity)
