"""Sockets that dial applications on behalf of their clients.

The socket is made inside the pod's network namespace and bound to a loopback address, so that the application's answers
come back to it and nowhere else. The kernel programs are told the true client first: they issue the ticket that lets
this one connection past the pod's gate, and show the application its client's own address.
"""

from __future__ import annotations

import itertools
import socket
from dataclasses import dataclass

from ebpf.connections import Deliveries
from mesh.addresses import SocketAddress, format_ip, is_ipv4
from mesh.errors import ConnectFailed
from ztunnel.pod import Pod

# Spread over many source addresses: each has ephemeral ports of its own, so that sockets in TIME_WAIT after a burst of
# short connections do not make the kernel search for a free one. 127.0.0.6 and up, out of the way of 127.0.0.1.
_SOURCES = itertools.cycle([f"127.{high}.{low}.6" for high in range(16, 20) for low in range(64)])
_IP_BIND_ADDRESS_NO_PORT = 24


@dataclass(frozen=True, slots=True)
class Deliverer:
    """Makes delivery sockets."""

    deliveries: Deliveries

    def socket_for(self, pod: Pod, destination: SocketAddress, client: SocketAddress) -> socket.socket:
        """A non-blocking socket inside ``pod``, announced, ready to connect to ``destination``.

        Raises:
            EnvironmentLacks: the namespace cannot be entered, or descriptors have run out.
            ConnectFailed: no local port is free.
        """
        ipv4 = is_ipv4(destination.ip)
        family = socket.AF_INET if ipv4 else socket.AF_INET6
        sock = pod.namespace.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
            sock.bind((next(_SOURCES), 0) if ipv4 else ("::1", 0))
            self.deliveries.announce(sock.fileno(), client)
        except OSError as error:
            sock.close()
            raise ConnectFailed(f"no delivery socket for pod {pod.name}: {error.strerror or error}") from error
        except BaseException:
            sock.close()
            raise
        return sock


def sockaddr(address: SocketAddress) -> tuple[str, int]:
    """For ``connect``."""
    return format_ip(address.ip), address.port
