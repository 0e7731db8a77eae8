"""Sockets that dial applications on behalf of their clients.

The socket is made inside the pod's network namespace. The kernel programs are told the true client first: they bind the
socket to a loopback address when it connects, so that the application's answers come back to it and nowhere else, issue
the ticket that lets this one connection past the pod's gate, and show the application its client's own address.

Entering a namespace costs more than making a socket there, so a few are made at a time and kept for the next
connections of the same pod.
"""

from __future__ import annotations

import socket
from typing import Final

from mesh.addresses import SocketAddress, is_ipv4
from mesh.relay.socket_end import RawSocket
from ztunnel.pod import Pod
from ztunnel.proxy.contract import Deliveries

_MADE_AT_FIRST: Final = 4
_MADE_AT_MOST: Final = 64
"""Sockets made at a time: as many as the pod's callers used up since the last tick, within these."""


class Deliverer:
    """Makes delivery sockets."""

    def __init__(self, deliveries: Deliveries) -> None:
        self._deliveries = deliveries
        self._spare: dict[tuple[Pod, bool], list[RawSocket]] = {}
        """By pod and whether IPv4. Not by uid: that of a pod whose sandbox was replaced is the same, its namespace not.
        """
        self._used: dict[tuple[Pod, bool], int] = {}
        """How many were made since the last tick for those who asked."""

    def socket_for(self, pod: Pod, destination: SocketAddress, client: SocketAddress) -> RawSocket:
        """A non-blocking socket inside ``pod``, announced, ready to connect to ``destination``.

        Raises:
            EnvironmentLacks: the namespace cannot be entered, or descriptors have run out.
            MeshError: the kernel does not take the announcement.
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
            self._deliveries.announce(sock.fileno(), client)
        except BaseException:
            sock.close()
            raise
        return sock

    def _make(self, pod: Pod, *, ipv4: bool) -> RawSocket:
        """One socket to use now; the others are kept."""
        used = self._used.get((pod, ipv4), 0)
        count = min(max(used, _MADE_AT_FIRST), _MADE_AT_MOST)
        self._used[pod, ipv4] = used + count
        family = socket.AF_INET if ipv4 else socket.AF_INET6
        made = pod.namespace.sockets(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK, count=count)
        for sock in made:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
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
