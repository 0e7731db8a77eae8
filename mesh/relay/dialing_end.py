"""A socket end that may have to connect first.

It connects at the end of the engine's batch. What a client sends ahead is most often part of the same batch, and so is
sent right after: the application wakes once, not for the connection and again for its first bytes.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable

from mesh.errors import ConnectFailed, MeshError
from mesh.relay.engine import Engine
from mesh.relay.socket_end import DONT_WAIT, EPOLLIN, EPOLLOUT, RawSocket, SocketEnd

DialReport = Callable[[MeshError | None], None]
"""Told once how the dial went."""


class DialingEnd(SocketEnd):
    """What is written before the connection stands is kept and sent then."""

    __slots__ = ("_address", "_lasting", "_report", "connecting")

    def __init__(self, engine: Engine, sock: RawSocket) -> None:
        super().__init__(engine, sock)
        self.connecting = False
        self._address = ("", 0)
        self._report: DialReport | None = None
        self._lasting: Callable[[DialingEnd], None] | None = None

    def expect_dial(self) -> None:
        """Keep what is written from now on until :meth:`dial` has connected."""
        self.connecting = True
        self.backlog = bytearray()

    def dial(
        self,
        address: tuple[str, int],
        report: DialReport,
        lasting: Callable[[DialingEnd], None] | None = None,
    ) -> None:
        """Connect; :meth:`expect_dial` was called before. ``lasting`` is told of a dial that takes time."""
        self._address = address
        self._report = report
        self._lasting = lasting
        self.engine.connect_after_batch(self)

    def connect(self) -> None:
        """The batch is over (``mesh.relay.engine.Connecting``)."""
        if self.closed:
            return
        code = self.sock.connect_ex(self._address)
        if code == errno.EINPROGRESS:
            self._find_connected()
        else:
            self._connected(code)

    def _find_connected(self) -> None:
        """Over loopback the connection stands by now, but connect(2) has not seen it: what is to be sent finds out,
        cheaper than asking, or than a turn.
        """
        backlog = self.backlog
        if backlog is None:
            return
        try:
            size = self.sock.send(backlog, DONT_WAIT)
        except BlockingIOError:
            self.watch(EPOLLOUT)
            if self._lasting is not None:
                self._lasting(self)
            return
        except OSError as error:
            self._connected(error.errno or errno.EIO)
            return
        if size:
            del backlog[:size]
            self.written(size)
        self._connected(0)

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
        self._lasting = None
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
