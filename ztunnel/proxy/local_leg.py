"""Sockets that never leave their pod: between an application and its ztunnel.

Loopback has no bottleneck to probe for. Where the machine's congestion control paces (BBR), its timers cost such a leg
a tenth of a bulk transfer's processor time and bring nothing, so these sockets take one that does not. Sockets towards
the network keep what the machine's administrator chose.
"""

from __future__ import annotations

import socket
from functools import lru_cache

_NAME_SIZE = 16
_PACING = b"bbr"
_WITHOUT_PACING = (b"cubic", b"reno")


def prepare_local_socket(sock: socket.socket) -> None:
    """Give a TCP socket of a local leg, or a listener for such, a congestion control that does not pace."""
    name = _replacement(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, _NAME_SIZE).rstrip(b"\0"))
    if name is not None:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name)
        except OSError:
            _unavailable.add(name)
            _replacement.cache_clear()


_unavailable: set[bytes] = set()
"""Names that this kernel has refused."""


@lru_cache(maxsize=16)
def _replacement(current: bytes) -> bytes | None:
    if not current.startswith(_PACING):
        return None
    return next((name for name in _WITHOUT_PACING if name not in _unavailable), None)
