"""A listening socket for both address families, and addresses in their usual form."""

from __future__ import annotations

import socket
from typing import Any


def peer_text(address: tuple[Any, ...]) -> str:
    """``10.0.0.1:4711`` or ``[fd00::1]:4711`` from what ``accept`` gave; a mapped IPv4 address is shown as IPv4."""
    host, port = str(address[0]), int(address[1])
    host = host.removeprefix("::ffff:") if "." in host else host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def make_dual_stack(listener: socket.socket) -> None:
    """Let an AF_INET6 socket that is not bound yet take IPv4 connections too."""
    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
