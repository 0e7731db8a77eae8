"""Ending connections of others."""

from __future__ import annotations

import socket

import pytest

from ebpf.fastpath.socket_diag import SocketKiller
from ebpf.listeners import socket_cookie
from mesh.addresses import from_sockaddr
from mesh.netns import NetworkNamespace

pytestmark = pytest.mark.root


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_one_connection_ends_and_its_cookie_must_fit(family: int, host: str) -> None:
    with socket.socket(family) as listener, socket.socket(family) as client:
        listener.bind((host, 0))
        listener.listen()
        client.connect(listener.getsockname())
        server, _ = listener.accept()
        local, remote = from_sockaddr(client.getsockname()), from_sockaddr(client.getpeername())
        with server, NetworkNamespace.open("/proc/self/ns/net") as namespace, SocketKiller(namespace) as killer:
            cookie = socket_cookie(client.fileno())
            assert not killer.end(local, remote, cookie + 1)
            assert killer.end(local, remote, cookie)
            assert not killer.end(local, remote, cookie)
            with pytest.raises(ConnectionAbortedError):
                client.send(b"x")
            with pytest.raises(ConnectionResetError):
                server.recv(1)
