"""Network namespaces: opened, told apart, entered for a moment, and sockets made inside them.

``setns`` moves only the calling thread, and a socket stays in the namespace it was made in. So the way to work in a
pod's namespace is to enter, make the socket, and leave, with no await in between: some microseconds.
"""

from __future__ import annotations

import _socket
import ctypes
import os
import socket as sockets
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from mesh.closing import Closing
from mesh.errors import EnvironmentLacks, InternalError

_LIBC = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000
_SO_NETNS_COOKIE = 71


class NetworkNamespace(Closing):
    """One network namespace, held open by a descriptor: it lives at least as long as this object is open."""

    def __init__(self, fd: int, name: str) -> None:
        self._fd = fd
        self._name = name

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open by a path such as ``/run/netns/pod`` or ``/proc/1234/ns/net``.

        Raises:
            EnvironmentLacks: there is none, or no permission.
        """
        try:
            return cls(os.open(path, os.O_RDONLY | os.O_CLOEXEC), str(path))
        except OSError as error:
            raise EnvironmentLacks(f"network namespace {path}: {error.strerror}") from error

    @classmethod
    def from_fd(cls, fd: int) -> Self:
        """Take over a descriptor (received over a unix socket, say); ``close`` will close it."""
        return cls(fd, f"fd {fd}")

    @property
    def fd(self) -> int:
        """The descriptor.

        Raises:
            InternalError: it is closed.
        """
        if self._fd < 0:
            raise InternalError(f"network namespace {self._name} is closed")
        return self._fd

    @property
    def inode(self) -> int:
        """The number that ``ls -l /proc/*/ns/net`` shows. It may be used again once the namespace is gone."""
        return os.fstat(self.fd).st_ino

    def cookie(self) -> int:
        """The kernel's number of the namespace, never used again while the machine runs.

        Raises:
            EnvironmentLacks: no permission to enter, or a kernel before 5.14.
        """
        with self.socket(sockets.AF_INET, sockets.SOCK_DGRAM) as probe:
            try:
                raw = probe.getsockopt(sockets.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
            except OSError as error:
                raise EnvironmentLacks(f"network namespace {self._name}: no cookie: {error.strerror}") from error
        return int(struct.unpack("=Q", raw)[0])

    def socket(self, family: int, kind: int, proto: int = 0) -> sockets.socket:
        """Make a socket inside.

        Raises:
            EnvironmentLacks: no permission to enter, or the family is not there.
        """
        return sockets.socket(family, kind, proto, self.sockets(family, kind, proto)[0].detach())

    def sockets(self, family: int, kind: int, proto: int = 0, count: int = 1) -> list[_socket.socket]:
        """Make several sockets inside, entering only once. Raises as :meth:`socket`; then none is left open.

        They are what is behind ``socket.socket``, whose own making and closing take longer than the kernel's.
        """
        made: list[_socket.socket] = []
        with self.entered():
            try:
                while len(made) < count:
                    made.append(_socket.socket(family, kind, proto))
            except OSError as error:
                for each in made:
                    each.close()
                raise EnvironmentLacks(f"no socket in network namespace {self._name}: {error.strerror}") from error
        return made

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Be inside, with the calling thread, for the length of the block. Never await in it.

        Raises:
            EnvironmentLacks: no permission (CAP_SYS_ADMIN), or not a network namespace.
        """
        target = self.fd
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _set_namespace(target, self._name)
            try:
                yield
            finally:
                _set_namespace(home, "of this process")
        finally:
            os.close(home)

    def close(self) -> None:
        """Close the descriptor; closing twice is harmless."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _set_namespace(fd: int, name: str) -> None:
    if _LIBC.setns(fd, _CLONE_NEWNET) != 0:
        code = ctypes.get_errno()
        raise EnvironmentLacks(f"cannot enter network namespace {name}: {os.strerror(code)}; CAP_SYS_ADMIN is needed")
