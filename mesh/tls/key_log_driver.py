"""What OpenSSL tells of its secrets, read back inside this process.

Python's ``ssl`` shows a connection's traffic secrets in one place only: the key log of its context, a file. Here that
file is anonymous memory, which has no name, is on no disk, and is not handed to programs that are started. It holds
something only while a handshake takes a step: what a step has put there is read right after it and overwritten. Each
context has a descriptor of its own for it.
"""

from __future__ import annotations

import os
import ssl

from mesh.errors import EnvironmentLacks


class KeyLog:
    """One for all contexts of a process whose handshakes run in one thread."""

    def __init__(self) -> None:
        """Make the file.

        Raises:
            EnvironmentLacks: no anonymous memory files.
        """
        try:
            self._fd = os.memfd_create("ambimesh-key-log", os.MFD_CLOEXEC)
        except OSError as error:
            raise EnvironmentLacks(f"memfd_create failed: {error.strerror}; it needs Linux 3.17") from error

    def attach(self, context: ssl.SSLContext) -> None:
        """Have all handshakes of a context tell their secrets here.

        Raises:
            EnvironmentLacks: /proc is not mounted.
        """
        try:
            context.keylog_filename = f"/proc/self/fd/{self._fd}"
        except OSError as error:
            raise EnvironmentLacks(f"cannot open our own file ({error.strerror}): /proc must be mounted") from error

    def take(self) -> bytes:
        """What has been told since the last call; it is no longer there then."""
        size = os.fstat(self._fd).st_size
        if not size:
            return b""
        lines = os.pread(self._fd, size, 0)
        os.pwrite(self._fd, bytes(size), 0)  # pages that are given back keep what they held until they are used again
        os.ftruncate(self._fd, 0)  # contexts append: the next line is the first again
        return lines

    def close(self) -> None:
        """Let go of the file; contexts hold on to theirs."""
        os.close(self._fd)
