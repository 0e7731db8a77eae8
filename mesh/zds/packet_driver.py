"""One packet at a time, with its descriptors, on a unix SOCK_SEQPACKET socket; and the listeners of such sockets.

The kernel keeps packet boundaries, so a bad packet is refused and the next one is read as if nothing had happened. The
descriptors that arrive are owned by the ``Packet`` until somebody takes them; a packet that is dropped closes them.
"""

from __future__ import annotations

import array
import contextlib
import errno
import os
import socket
import stat
import struct
from pathlib import Path

import structlog
import trio

from mesh.errors import ConfigurationError, ConnectionLost, InvalidMessage
from mesh.zds.codec import MAXIMUM_PACKET

_log = structlog.get_logger("zds")

_CREDENTIALS = struct.Struct("=iII")
"""``struct ucred``: process, user, group (unix(7))."""
_DESCRIPTOR_BYTES = array.array("i").itemsize
_MAXIMUM_DESCRIPTORS = 4
"""Room for more than the one that is allowed, so that a packet with two is recognised rather than cut."""
_ANCILLARY_BYTES = socket.CMSG_SPACE(_MAXIMUM_DESCRIPTORS * _DESCRIPTOR_BYTES)
_PASSING = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ECONNABORTED})
_PAUSE = 0.1
_LONGEST_PATH = 107
"""Bytes of ``sun_path`` less its closing NUL."""


class Packet:
    """What one ``recvmsg`` gave: the bytes, and descriptors this object owns until ``take_descriptor``."""

    __slots__ = ("data", "descriptors")

    def __init__(self, data: bytes, descriptors: list[int]) -> None:
        self.data = data
        self.descriptors = descriptors

    def take_descriptor(self) -> int:
        """Hand over the one descriptor; the caller closes it."""
        return self.descriptors.pop()

    def close(self) -> None:
        """Close the descriptors nobody took."""
        while self.descriptors:
            os.close(self.descriptors.pop())


class PacketSocket:
    """A connected SOCK_SEQPACKET socket."""

    def __init__(self, connected: trio.socket.SocketType) -> None:
        self._socket = connected

    async def send(self, data: bytes, descriptor: int | None = None) -> None:
        """Send one packet, with a descriptor when one is given (it stays open here).

        Raises:
            ConnectionLost: the other side is gone.
        """
        ancillary = []
        if descriptor is not None:
            ancillary.append((socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]).tobytes()))
        try:
            await self._socket.sendmsg([data], ancillary, socket.MSG_NOSIGNAL)
        except OSError as error:
            raise ConnectionLost(f"the other side of the ZDS socket is gone: {error.strerror}") from error

    async def receive(self) -> Packet | None:
        """The next packet; None when the other side has closed.

        Raises:
            InvalidMessage: the packet or its descriptors were longer than a ZDS packet can be; it is dropped, its
                descriptors are closed, and the next one can be received.
            ConnectionLost: the socket failed.
        """
        try:
            data, ancillary, flags, _ = await self._socket.recvmsg(
                MAXIMUM_PACKET, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC
            )
        except OSError as error:
            raise ConnectionLost(f"reading the ZDS socket failed: {error.strerror}") from error
        packet = Packet(data, _descriptors_of(ancillary))
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            packet.close()
            what = "its data were cut" if flags & socket.MSG_TRUNC else "its descriptors were cut"
            raise InvalidMessage(
                f"a ZDS packet does not fit {MAXIMUM_PACKET} bytes and one descriptor ({what}); it is dropped"
            )
        if not data:
            # Closed, or an empty packet, which no ZDS message is: either way there is nothing more to talk about.
            packet.close()
            return None
        return packet

    def peer_process(self) -> int:
        """The process that made the connection, by its number in our process namespace; 0 when it has none there."""
        credentials = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, _, _ = _CREDENTIALS.unpack(credentials)
        return int(pid)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def _descriptors_of(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    found = array.array("i")
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(payload[: len(payload) - len(payload) % _DESCRIPTOR_BYTES])
    return found.tolist()


async def connect(path: Path) -> PacketSocket:
    """Connect to the agent's socket.

    Raises:
        ConnectionLost: nobody listens there.
    """
    dialling = trio.socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        await dialling.connect(os.fspath(path))
    except OSError as error:
        dialling.close()
        raise ConnectionLost(
            f"the node agent does not listen at {path} ({error.strerror}): is it running on this node?"
        ) from error
    except BaseException:
        dialling.close()
        raise
    return PacketSocket(dialling)


async def accept(listener: trio.socket.SocketType) -> trio.socket.SocketType:
    """The next connection. When the machine is out of descriptors or memory this waits until it is not."""
    while True:
        try:
            connected, _ = await listener.accept()
            return connected
        except OSError as error:
            if error.errno not in _PASSING:
                raise
            _log.error("cannot accept a connection now", reason=error.strerror)
            await trio.sleep(_PAUSE)


def listen(path: Path, kind: socket.SocketKind, backlog: int = 64) -> trio.socket.SocketType:
    """A unix listener at ``path``, readable and writable by its owner alone; a left-over socket is replaced.

    Args:
        path: its folder is made when missing.
        kind: SOCK_SEQPACKET or SOCK_STREAM.
        backlog: connections that may wait to be accepted.

    Raises:
        ConfigurationError: the path is too long, is no socket, or its folder cannot be written.
    """
    if len(os.fsencode(path)) > _LONGEST_PATH:
        raise ConfigurationError(f"{path} is longer than the {_LONGEST_PATH} bytes a unix socket's path may have")
    listening = socket.socket(socket.AF_UNIX, kind)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISSOCK(path.lstat().st_mode):
                raise ConfigurationError(f"{path} exists and is no socket: give another socket path, or remove it")
            path.unlink()
        # fchmod before bind: there is no moment at which others could connect.
        os.fchmod(listening.fileno(), 0o600)
        listening.bind(os.fspath(path))
        path.chmod(0o600)
        listening.listen(backlog)
    except OSError as error:
        listening.close()
        raise ConfigurationError(f"cannot listen at {path}: {error.strerror}") from error
    except BaseException:
        listening.close()
        raise
    return trio.socket.from_stdlib_socket(listening)
