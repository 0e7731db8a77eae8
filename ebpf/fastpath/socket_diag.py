"""Ending a connection of some process, from outside: sock_diag(7)'s SOCK_DESTROY.

The kernel aborts the socket as if its owner had reset the connection: the owner's calls fail with ECONNABORTED, the
other side takes a reset. The socket is named by its addresses and, beyond doubt, by its cookie.
"""

from __future__ import annotations

import errno
import os
import socket
import struct

from mesh.addresses import SocketAddress, is_ipv4
from mesh.closing import Closing
from mesh.errors import EnvironmentLacks
from mesh.netns import NetworkNamespace

_NETLINK_SOCK_DIAG = 4
_SOCK_DESTROY = 21
_NLM_F_REQUEST_ACK = 0x5
_NLMSG_ERROR = 2
_HEADER = struct.Struct("=IHHII")
_ALL_STATES = 0xFFFFFFFF


class SocketKiller(Closing):
    """Ends TCP connections inside one network namespace.

    Raises:
        EnvironmentLacks: the namespace cannot be entered, or the kernel has no sock_diag.
    """

    def __init__(self, namespace: NetworkNamespace) -> None:
        try:
            with namespace.entered():
                self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG)
        except OSError as error:
            raise EnvironmentLacks(f"no sock_diag sockets: {error.strerror}") from error
        self._socket.settimeout(2.0)
        self._sequence = 0

    def close(self) -> None:
        """See :class:`Closing`."""
        self._socket.close()

    def end(self, local: SocketAddress, remote: SocketAddress, cookie: int) -> bool:
        """End one connection. False if there is no such socket (any more).

        Raises:
            EnvironmentLacks: not permitted, or the kernel is built without CONFIG_INET_DIAG_DESTROY.
        """
        family = socket.AF_INET if is_ipv4(local.ip) else socket.AF_INET6
        identity = struct.pack(">HH16s16s", local.port, remote.port, _address(local), _address(remote))
        identity += struct.pack("=III", 0, cookie & 0xFFFFFFFF, cookie >> 32)
        request = struct.pack("=BBBBI", family, socket.IPPROTO_TCP, 0, 0, _ALL_STATES) + identity
        self._sequence += 1
        header = _HEADER.pack(_HEADER.size + len(request), _SOCK_DESTROY, _NLM_F_REQUEST_ACK, self._sequence, 0)
        try:
            self._socket.send(header + request)
            answer = self._socket.recv(4096)
        except OSError as error:
            raise EnvironmentLacks(f"sock_diag did not answer: {error}") from error
        kind = _HEADER.unpack_from(answer)[1]
        code = -int(struct.unpack_from("=i", answer, _HEADER.size)[0]) if kind == _NLMSG_ERROR else 0
        if code in (0, errno.ENOENT, errno.ESTALE):
            return code == 0
        raise EnvironmentLacks(
            f"the kernel did not end a connection: {errno.errorcode.get(code, code)}: {os.strerror(code)}; "
            "it needs CAP_NET_ADMIN and CONFIG_INET_DIAG_DESTROY"
        )


def _address(address: SocketAddress) -> bytes:
    return address.ip[12:].ljust(16, b"\0") if is_ipv4(address.ip) else address.ip
