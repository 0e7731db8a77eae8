"""Sockets that dial applications on behalf of their clients.

The socket is made inside the pod's network namespace and bound to a loopback address, so that the application's answers
come back to it and nowhere else. The kernel programs are told the true client first: they issue the ticket that lets
this one connection past the pod's gate, and show the application its client's own address.

Entering a namespace costs more than making a socket there, so a few are made at a time and kept for the next
connections of the same pod.
"""

from __future__ import annotations

import itertools
import socket
from typing import Final

from ebpf.connections import Deliveries
from mesh.addresses import SocketAddress, format_ip, is_ipv4
from mesh.errors import ConnectFailed
from ztunnel.pod import Pod
from ztunnel.proxy.local_leg import prepare_local_sockets

# Spread over many source addresses: each has ephemeral ports of its own, so that sockets in TIME_WAIT after a burst of
# short connections do not make the kernel search for a free one. 127.0.0.6 and up, out of the way of 127.0.0.1.
_SOURCES: Final = itertools.cycle([f"127.{high}.{low}.6" for high in range(16, 20) for low in range(64)])
_IP_BIND_ADDRESS_NO_PORT: Final = 24
_MADE_AT_FIRST: Final = 4
_MADE_AT_MOST: Final = 64
"""Sockets made at a time: as many as the pod's callers used up since the last tick, within these."""


class Deliverer:
    """Makes delivery sockets."""

    def __init__(self, deliveries: Deliveries) -> None:
        self._deliveries = deliveries
        self._spare: dict[tuple[Pod, bool], list[socket.socket]] = {}
        """By pod and whether IPv4. Not by uid: that of a pod whose sandbox was replaced is the same, its namespace not.
        """
        self._used: dict[tuple[Pod, bool], int] = {}
        """How many were made since the last tick for those who asked."""

    def socket_for(self, pod: Pod, destination: SocketAddress, client: SocketAddress) -> socket.socket:
        """A non-blocking socket inside ``pod``, announced, ready to connect to ``destination``.

        Raises:
            EnvironmentLacks: the namespace cannot be entered, or descriptors have run out.
            ConnectFailed: no local port is free.
        """
        ipv4 = is_ipv4(destination.ip)
        key = pod, ipv4
        spare = self._spare.get(key)
        if spare:
            sock = spare.pop()
            self._used.setdefault(key, 0)
        else:
            sock = self._make(pod, ipv4=ipv4)
        try:
            sock.bind((next(_SOURCES), 0) if ipv4 else ("::1", 0))
            self._deliveries.announce(sock.fileno(), client)
        except OSError as error:
            sock.close()
            raise ConnectFailed(f"no delivery socket for pod {pod.name}: {error.strerror or error}") from error
        except BaseException:
            sock.close()
            raise
        return sock

    def _make(self, pod: Pod, *, ipv4: bool) -> socket.socket:
        """One socket to use now; the others are kept."""
        used = self._used.get((pod, ipv4), 0)
        count = min(max(used, _MADE_AT_FIRST), _MADE_AT_MOST)
        self._used[pod, ipv4] = used + count
        family = socket.AF_INET if ipv4 else socket.AF_INET6
        made = pod.namespace.sockets(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK, count=count)
        for sock in made:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
        prepare_local_sockets(made)
        taken = made.pop()
        self._spare[pod, ipv4] = made
        return taken

    def tick(self) -> None:
        """Once per second: keep no sockets for pods that nobody calls."""
        for key in self._spare.keys() - self._used.keys():
            self._drop(key)
        self._used.clear()

    def forget(self, pod: Pod) -> None:
        """The pod is no longer served."""
        self._drop((pod, True))
        self._drop((pod, False))

    def _drop(self, key: tuple[Pod, bool]) -> None:
        for sock in self._spare.pop(key, ()):
            sock.close()


def sockaddr(address: SocketAddress) -> tuple[str, int]:
    """For ``connect``."""
    return format_ip(address.ip), address.port
