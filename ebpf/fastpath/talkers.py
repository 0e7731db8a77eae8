"""Who talks enough to be spliced: the ring buffer in which the programs name such connections.

The layout is the kernel's: a page that holds how far the reader has come, a page that holds how far the writers have
come, then the ring itself, mapped twice in a row so that no record is broken in two. A record has a header of eight
bytes whose first word is its length, with a bit that is set while it is being written and one for records given up. The
descriptor is readable while there is something to read. One reader at a time.
"""

from __future__ import annotations

import mmap
import os
import struct
from typing import NamedTuple

from ebpf import syscall
from ebpf.paths import PinPaths
from mesh.addresses import IpBytes, SocketAddress
from mesh.closing import Closing

_BUSY = 1 << 31
_DISCARDED = 1 << 30
_HEADER_BYTES = 8
_TALKER = struct.Struct("=QQ16sHH16sHH")
_POSITION = struct.Struct("=Q")
_LENGTH = struct.Struct("=I")


class Talker(NamedTuple):
    """One connection that is worth being spliced."""

    client: int
    """Of a fast connection the cookie of its client's socket; 0: it is a leg between an application and its ztunnel."""
    netns: int
    """Of the client; of a leg, of both ends."""
    source: SocketAddress
    destination: SocketAddress


class Talkers(Closing):
    """The reading end.

    Raises:
        EnvironmentLacks: the node's programs are not loaded.
    """

    def __init__(self, paths: PinPaths) -> None:
        self.fd = syscall.require_pin(paths.maps / "fast_talkers")
        self._size = syscall.map_info(self.fd).max_entries
        page = mmap.PAGESIZE
        self._read = mmap.mmap(self.fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._written = mmap.mmap(self.fd, page + 2 * self._size, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
        self._position = memoryview(self._read).cast("Q")

    def close(self) -> None:
        """Close the ring; what is in it stays for the next reader."""
        if self.fd >= 0:
            self._position.release()
            self._read.close()
            self._written.close()
            os.close(self.fd)
            self.fd = -1

    def take(self) -> list[Talker]:
        """What was named since this was last called."""
        position, end = self._position[0], _POSITION.unpack_from(self._written)[0]
        found: list[Talker] = []
        while position < end:
            offset = mmap.PAGESIZE + position % self._size
            length = _LENGTH.unpack_from(self._written, offset)[0]
            if length & _BUSY:
                break
            if not length & _DISCARDED:
                client, netns, *rest = _TALKER.unpack_from(self._written, offset + _HEADER_BYTES)
                source, destination = (SocketAddress(IpBytes(rest[at]), rest[at + 1]) for at in (0, 3))
                found.append(Talker(client, netns, source, destination))
            position += _HEADER_BYTES + _TALKER.size  # a multiple of eight, so there is no padding
        self._position[0] = position
        return found
