"""A socket end that may have to connect first."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable

from mesh.errors import ConnectFailed, MeshError
from mesh.relay.engine import Engine
from mesh.relay.socket_end import EPOLLIN, EPOLLOUT, RawSocket, SocketEnd

DialReport = Callable[[MeshError | None], None]
"""Told once how the dial went."""


class DialingEnd(SocketEnd):
    """What is written before the connection stands is kept and sent then."""

    __slots__ = ("_report", "connecting")

    def __init__(self, engine: Engine, sock: RawSocket) -> None:
        super().__init__(engine, sock)
        self.connecting = False
        self._report: DialReport | None = None

    def expect_dial(self) -> None:
        """Keep what is written from now on until :meth:`dial` has connected."""
        self.connecting = True
        self.backlog = bytearray()

    def dial(self, address: tuple[str, int], report: DialReport) -> None:
        """Connect; :meth:`expect_dial` was called before."""
        self._report = report
        code = self.sock.connect_ex(address)
        if code == errno.EINPROGRESS:
            # Over loopback the handshake is over before connect returns: asking again is cheaper than a turn.
            code = self.sock.connect_ex(address)
            if code in (errno.EALREADY, errno.EINPROGRESS):
                self.watch(EPOLLOUT)
                return
        self._connected(0 if code == errno.EISCONN else code)

    def on_ready(self, events: int) -> None:
        """The engine's handler."""
        if self.connecting:
            self._connected(self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
        else:
            super().on_ready(events)

    def connect_timed_out(self) -> None:
        """No answer in time: a lost packet, or a full accept queue."""
        if self.connecting and self._report is not None:
            self._connected(errno.ETIMEDOUT)

    def _connected(self, code: int) -> None:
        report, self._report = self._report, None
        if report is None or self.closed:
            return
        if code:
            report(ConnectFailed(f"cannot connect: {os.strerror(code)}"))
            return
        self.connecting = False
        if not self.backlog:
            self.backlog = None
        events = EPOLLIN if self.backlog is None else EPOLLIN | EPOLLOUT
        if self.events:
            self.set_events(events)
        else:
            self.watch(events)
        report(None)
        if self.closed:
            return
        if self.backlog is not None:
            self.flush_backlog()
        elif self.finishing:
            self.finish_writing()
