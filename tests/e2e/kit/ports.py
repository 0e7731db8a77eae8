"""Ports for servers of tests."""

from __future__ import annotations

import random
import socket

_FIRST, _LAST = 20000, 32000
"""Below the range that Linux takes outgoing connections' ports from: none of those can take one between the look and
the use."""
_TRIES = 200


def free_ports(address: str, count: int) -> list[int]:
    """TCP ports that nobody listens on at this address.

    Raises:
        OSError: none could be found.
    """
    found: list[int] = []
    for _ in range(_TRIES):
        port = random.SystemRandom().randrange(_FIRST, _LAST)
        with socket.socket() as probe:
            try:
                probe.bind((address, port))
            except OSError:
                continue
        if port not in found:
            found.append(port)
        if len(found) == count:
            return found
    raise OSError(f"no {count} free ports at {address} between {_FIRST} and {_LAST}")
