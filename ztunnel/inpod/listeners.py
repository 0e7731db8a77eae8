"""The listening sockets inside a pod.

Outbound listens on the pod's loopback, where the connect programs send what applications dial; plaintext and HBONE take
what arrives. All are found by the sk_lookup program in a map of sockets, not by their ports: a process of the pod that
listens on the same port gets nothing, and an entry is gone the moment its socket is closed, when arrivals are refused.

Every listener has SO_REUSEPORT, so that a new ztunnel can listen beside the one it replaces.
"""

from __future__ import annotations

import errno
import socket

import structlog

from ebpf.listeners import ListenerKind, ListenerTable
from mesh import ports
from mesh.errors import EnvironmentLacks
from ztunnel.pod import Pod

BACKLOG = 4096
_KEEPALIVE_SECONDS = 180
"""A client whose machine has died leaves its connection after nine probes."""

_log = structlog.get_logger("inpod")


class PodListeners:
    """All listeners of one pod, open and registered.

    Raises:
        EnvironmentLacks: the namespace cannot be entered, or descriptors have run out.
    """

    def __init__(self, pod: Pod, table: ListenerTable) -> None:
        self._pod = pod
        self._table = table
        self.outbound: list[socket.socket] = []
        self.plaintext: list[socket.socket] = []
        self.hbone: list[socket.socket] = []
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        ipv4 = self._pod.address(ipv4=True) is not None
        ipv6 = self._pod.address(ipv4=False) is not None
        families = [family for family, there in ((socket.AF_INET, ipv4), (socket.AF_INET6, ipv6)) if there]
        for family in families:
            loopback, anywhere = ("127.0.0.1", "0.0.0.0") if family == socket.AF_INET else ("::1", "::")
            self.outbound.append(self._listen(family, loopback, ports.OUTBOUND))
            self.plaintext.append(self._listen(family, anywhere, ports.PLAINTEXT))
            self.hbone.append(self._listen(family, anywhere, ports.HBONE))
        for kind, listeners in self._registered():
            for family, listener in zip(families, listeners, strict=True):
                self._table.register(self._pod.addresses, kind, listener.fileno(), family)

    def _registered(self) -> tuple[tuple[ListenerKind, list[socket.socket]], ...]:
        return (
            (ListenerKind.OUTBOUND, self.outbound),
            (ListenerKind.PLAINTEXT, self.plaintext),
            (ListenerKind.HBONE, self.hbone),
        )

    def _listen(self, family: int, host: str, port: int) -> socket.socket:
        sock = self._pod.namespace.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            # Accepted sockets inherit it: no system call per connection.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if port == ports.PLAINTEXT:  # a tunnel has its own PINGs, and an application on this pod cannot vanish
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_SECONDS)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_SECONDS)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            self._bind(sock, host, port)
            sock.listen(BACKLOG)
        except OSError as error:
            sock.close()
            raise EnvironmentLacks(
                f"cannot listen on {host} inside pod {self._pod.name}: {error.strerror}"
            ) from error
        return sock

    def _bind(self, sock: socket.socket, host: str, port: int) -> None:
        """On our port, or, when a process of the pod holds it, on any: arrivals are led to the socket, not the port."""
        try:
            sock.bind((host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            sock.bind((host, 0))
            self._pod.mesh_ports |= {sock.getsockname()[1]}
            _log.warning("a process of the pod holds a port of the mesh", pod=self._pod.name, host=host, port=port)

    def close(self) -> None:
        """Refuse what arrives from now on."""
        for listener in self.outbound + self.plaintext + self.hbone:
            listener.close()
        self.outbound, self.plaintext, self.hbone = [], [], []


