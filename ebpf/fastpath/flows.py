"""How the payload of fast connections travels: what went past TCP and what went by TCP, per direction.

The sum of both is what records and metrics count (``ebpf.fastpath.tables``); the split shows whether a connection is
spliced at all. A direction belongs to the socket that sends it and is found by that socket's cookie, which the owner
knows by ``ebpf.listeners.socket_cookie``. An object serves one thread.
"""

from __future__ import annotations

import ctypes
import struct
from dataclasses import dataclass

from ebpf.layout import FastConnection, FastFlow
from ebpf.maps import PinnedMap
from ebpf.paths import PinPaths
from mesh.closing import Closing

_COOKIE = struct.Struct("=Q")


@dataclass(frozen=True, slots=True)
class Direction:
    """What one end of a fast connection has sent so far, in bytes."""

    spliced: int
    tcp: int
    """Brought up to date when something is sent and when the end's state changes."""

    @property
    def total(self) -> int:
        """Both together."""
        return self.spliced + self.tcp


class FlowTable(Closing):
    """The node's directions of live fast connections, read only.

    Raises:
        EnvironmentLacks: the node's programs are not loaded.
    """

    def __init__(self, paths: PinPaths) -> None:
        self._flows = PinnedMap(paths, "fast_flows", ctypes.c_uint64, FastFlow)
        self._connections = PinnedMap(paths, "fast_connections", ctypes.c_uint64, FastConnection)

    def close(self) -> None:
        """Close the maps; what they say stays."""
        self._flows.close()
        self._connections.close()

    def sent_by(self, cookie: int) -> Direction | None:
        """What the socket of this cookie sends; None if it is no end of a live fast connection."""
        flow = self._flows.get(ctypes.c_uint64(cookie))
        return None if flow is None else Direction(flow.spliced, flow.tcp)

    def sent_to(self, cookie: int) -> Direction | None:
        """What the other end of this socket's fast connection sends; None if there is no such."""
        flow = self._flows.get(ctypes.c_uint64(cookie))
        live = None if flow is None else self._connections.get(ctypes.c_uint64(flow.connection))
        if flow is None or live is None:
            return None
        return self.sent_by(live.server_cookie if flow.is_client else flow.connection)

    def all(self) -> dict[int, Direction]:
        """Every direction, by the cookie of the socket that sends it."""
        found = {}
        for key, value in self._flows.records():
            flow = FastFlow.from_buffer_copy(value)
            found[int(_COOKIE.unpack(key)[0])] = Direction(flow.spliced, flow.tcp)
        return found
