"""ztunnel's listeners inside pods, as the sk_lookup program finds them.

The map holds sockets, not names of sockets: an entry vanishes when its socket is closed, however its process ended, and
then arrivals for that pod are refused until another listener is registered.

Several workers of one ztunnel have a listener each for the same arrivals, told apart by the worker's number; the
program lets them take turns, and passes over those that are gone. A worker that does better alone may ask to be given
all that applications dial for a moment (``prefer``).
"""

from __future__ import annotations

import ctypes
import enum
import os
import socket as sockets
import struct
import time
from collections.abc import Iterable

from ebpf.layout import (
    LISTENER_HBONE,
    LISTENER_OUTBOUND,
    LISTENER_PLAINTEXT,
    MAX_WORKERS,
    ListenerKey,
    ListenerTurns,
    ip_field,
)
from ebpf.maps import PinnedMap
from ebpf.paths import PinPaths
from mesh.addresses import IpBytes, is_ipv4
from mesh.closing import Closing
from mesh.errors import InternalError

_SO_COOKIE = 57
_ONLY = ctypes.c_uint32(0)
"""The key of a map with one element."""


class ListenerKind(enum.IntEnum):
    """What a listener is for."""

    PLAINTEXT = LISTENER_PLAINTEXT
    """Everything that arrives without a ticket, on any port; the socket's own address is the one that was dialled."""
    HBONE = LISTENER_HBONE
    """Port 15008."""
    OUTBOUND = LISTENER_OUTBOUND
    """What the pod's applications dial; the listener is on the pod's loopback, ``addresses`` are the pod's own."""


class ListenerTable(Closing):
    """The listeners of one worker on one node.

    Args:
        paths: of the node.
        worker: the worker's number, less than ``MAX_WORKERS``.

    Raises:
        EnvironmentLacks: the node's programs are not loaded.
    """

    def __init__(self, paths: PinPaths, worker: int = 0) -> None:
        if not 0 <= worker < MAX_WORKERS:
            raise InternalError(f"worker {worker}: the programs look for {MAX_WORKERS} at most")
        self._worker = worker
        self._map = PinnedMap(paths, "listeners", ListenerKey, ctypes.c_uint64)
        try:
            self._turns = PinnedMap(paths, "listener_turns", ctypes.c_uint32, ListenerTurns)
        except BaseException:
            self._map.close()
            raise

    def close(self) -> None:
        """Close the maps; registered listeners stay."""
        self._map.close()
        self._turns.close()

    def share_among(self, workers: int) -> None:
        """Let so many workers, numbered from 0, take turns from now on."""
        self._turns.set(_ONLY, ListenerTurns(workers, 0, (ctypes.c_uint32 * 4)(), 0))

    def prefer(self, seconds: float) -> None:
        """Let this worker have what applications dial from now on, for so long. Who asks last has it."""
        turns = self._turns.get(_ONLY)
        if turns is not None:
            turns.preferred = self._worker
            turns.preferred_until = time.monotonic_ns() + int(seconds * 1e9)
            self._turns.set(_ONLY, turns)

    def _key(self, address: IpBytes, kind: ListenerKind) -> ListenerKey:
        return ListenerKey(ip_field(address), kind, self._worker)

    def register(self, addresses: Iterable[IpBytes], kind: ListenerKind, listener: int, family: int) -> None:
        """Take arrivals for a pod's addresses to a listener, from now on, instead of to one registered before.

        Args:
            addresses: the pod's; those that the socket cannot serve are passed over.
            kind: which arrivals.
            listener: descriptor of a listening TCP socket made in the pod's namespace.
            family: its family. AF_INET serves IPv4; AF_INET6 serves IPv6, and IPv4 too unless it is IPV6_V6ONLY.

        Raises:
            ConfigurationError: the map is full.
            InternalError: the kernel takes no such socket (not TCP, not listening).
        """
        for address in _served(addresses, listener, family):
            self._map.set(self._key(address, kind), ctypes.c_uint64(listener))

    def forget(self, addresses: Iterable[IpBytes], kind: ListenerKind, listener: int) -> None:
        """Stop taking arrivals to this listener, without closing it. What another process registered since stays."""
        cookie = socket_cookie(listener)
        for address in addresses:
            key = self._key(address, kind)
            registered = self._map.get(key)  # read back, an entry is its socket's cookie
            if registered is not None and registered.value == cookie:
                self._map.remove(key)


def socket_cookie(descriptor: int) -> int:
    """The kernel's number of a socket, never used again while the machine runs."""
    with sockets.socket(fileno=os.dup(descriptor)) as duplicate:
        return int(struct.unpack("=Q", duplicate.getsockopt(sockets.SOL_SOCKET, _SO_COOKIE, 8))[0])


def _served(addresses: Iterable[IpBytes], listener: int, family: int) -> list[IpBytes]:
    if family == sockets.AF_INET:
        return [address for address in addresses if is_ipv4(address)]
    if family != sockets.AF_INET6:
        raise InternalError(f"a listener of family {family} cannot serve pods")
    with sockets.socket(fileno=os.dup(listener)) as duplicate:
        only_ipv6 = bool(duplicate.getsockopt(sockets.IPPROTO_IPV6, sockets.IPV6_V6ONLY))
    return [address for address in addresses if not (only_ipv6 and is_ipv4(address))]
