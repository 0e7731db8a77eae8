"""What ztunnel and the programs tell each other about one connection.

Both directions use socket storage (``connections``): a small record that the kernel keeps with a socket and frees with
it, so there is nothing to expire, to mix up when ports are used again, or to clean after a crash.

Outbound: the program that redirected an application's connect(2) leaves the destination it dialled with ztunnel's
accepted socket; ``OriginalDestinations.take`` reads it. Inbound: before ztunnel connects to the application it leaves
the true client's address with its own socket (``Deliveries.announce``); the programs then let exactly that connection
through and show that client to the application.

A call costs a microsecond or two. An object serves one thread.
"""

from __future__ import annotations

import ctypes
import errno
import struct
from typing import Final

from ebpf import syscall
from ebpf.layout import CONNECTION_DELIVERY, CONNECTION_HANDED, Connection
from ebpf.maps import PinnedMap
from ebpf.paths import PinPaths
from mesh.addresses import IpBytes, OriginalDestination, SocketAddress

_RECORD: Final = struct.Struct("=I16sHH16sHHI")

_NO_IP: Final = bytes(16)


class _SocketRecords:
    """The map ``connections``, with its argument block, key and value made once.

    Closed by ``contextlib.closing``, not of ``mesh.closing``: a compiled class has no base that is not.
    """

    def __init__(self, paths: PinPaths) -> None:
        self._map = PinnedMap(paths, "connections", ctypes.c_int, Connection)
        self._key = ctypes.c_int(-1)
        self._record = (ctypes.c_char * _RECORD.size)()
        key, record = ctypes.addressof(self._key), ctypes.addressof(self._record)
        arguments = struct.pack("=IIQQQ", self._map.fd, 0, key, record, 0)
        self._arguments = ctypes.create_string_buffer(arguments, len(arguments))
        self._call = syscall.prepared(self._arguments)

    def close(self) -> None:
        """Close the map; the sockets keep their records."""
        self._map.close()
        struct.pack_into("=I", self._arguments, 0, 0xFFFFFFFF)  # the number may be another file's soon


class OriginalDestinations(_SocketRecords):
    """What applications dialled, by ztunnel's accepted socket.

    Raises:
        EnvironmentLacks: the node's programs are not loaded.
    """

    def __init__(self, paths: PinPaths) -> None:
        super().__init__(paths)
        self.chosen: SocketAddress | None = None
        """Of the connection taken last: the endpoint that the kernel drew for a service on the fast path, where none of
        the verdicts admits it. Going there keeps the service's distribution as its weights have it."""

    def take(self, accepted: int) -> OriginalDestination | None:
        """The destination that the application behind this connection dialled.

        Args:
            accepted: the descriptor of a socket accepted on port 15001 of a pod's loopback.

        Returns:
            None if no program redirected the connection: somebody dialled ztunnel's port directly. May be asked again.
        """
        self._key.value = accepted
        result = self._call(syscall.MAP_LOOKUP)
        if result == -errno.ENOENT:
            return None
        if result < 0:
            syscall.fail(-result, f"reading the original destination of descriptor {accepted}")
        kind, ip, port, _, chosen_ip, chosen_port, _, _ = _RECORD.unpack(self._record.raw)
        self.chosen = SocketAddress(IpBytes(chosen_ip), chosen_port) if chosen_port else None
        return OriginalDestination(SocketAddress(IpBytes(ip), port)) if kind == CONNECTION_HANDED else None


class Deliveries(_SocketRecords):
    """Deliveries that ztunnel is about to make.

    Raises:
        EnvironmentLacks: the node's programs are not loaded.
    """

    def announce(self, connecting: int, client: SocketAddress) -> None:
        """Say for whom a socket will connect to an application. Call it before connect.

        Args:
            connecting: the descriptor of a TCP socket, made by a process in ztunnel's cgroup, that will connect to an
                address of an enrolled pod of this node.
            client: who the application is to see as its peer.
        """
        self._key.value = connecting
        _RECORD.pack_into(self._record, 0, CONNECTION_DELIVERY, client.ip, client.port, 0, _NO_IP, 0, 0, 0)
        result = self._call(syscall.MAP_UPDATE)
        if result < 0:
            syscall.fail(-result, f"announcing a delivery on descriptor {connecting}")
