"""The sockets on which a waypoint takes tunnels.

``SO_REUSEPORT`` lets a new process of the same replica listen beside the one that it replaces.
"""

from __future__ import annotations

import errno
import socket

from mesh.errors import EnvironmentLacks

BACKLOG = 4096


def open_listeners(port: int) -> list[socket.socket]:
    """Listen on all addresses of both families.

    Raises:
        EnvironmentLacks: the port is taken.
    """
    made: list[socket.socket] = []
    try:
        for family, host in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
            try:
                sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            except OSError as error:
                if error.errno == errno.EAFNOSUPPORT:
                    continue
                raise
            made.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((host, made[0].getsockname()[1] if port == 0 and len(made) > 1 else port))
            sock.listen(BACKLOG)
    except OSError as error:
        for sock in made:
            sock.close()
        raise EnvironmentLacks(f"cannot listen on port {port} for tunnels: {error.strerror}") from error
    return made
