"""A wire over a TCP socket in the relay engine."""

from __future__ import annotations

import select
import socket
from typing import Final

from mesh.errors import MeshError
from mesh.relay.dialing_end import DialingEnd
from mesh.relay.engine import Engine
from mesh.relay.socket_end import DONT_WAIT, EPOLLIN, LOOKED_AWAY, NOTHING
from waypoint.wire.contract import NOBODY, Buffer, Flushable, WireOwner

READ: Final = 128 * 1024
"""Most bytes taken from a socket at once, and so the most that one pause comes too late."""
EPOLLOUT: Final = select.EPOLLOUT


class SocketWire(DialingEnd):
    """One socket, connected or to be dialled (:meth:`expect_dial`, :meth:`dial`)."""

    __slots__ = ("_ending", "_failure", "congested", "owner")

    def __init__(self, engine: Engine, sock: socket.socket) -> None:
        super().__init__(engine, sock)
        self.owner: WireOwner = NOBODY
        self.congested = False
        self._ending = False
        self._failure: OSError | None = None

    def start(self) -> None:
        """Begin to read a socket that is connected already; it has been attached."""
        self.watch(EPOLLIN)

    def attach(self, owner: WireOwner) -> None:
        """See :class:`Wire`."""
        self.owner = owner

    # -- input -------------------------------------------------------------------------------------------------------

    def on_ready(self, events: int) -> None:
        """The engine's handler (``SocketEnd``)."""
        if events == EPOLLIN and self.events == EPOLLIN and not self.connecting:
            self.read_input()
        else:
            super().on_ready(events)

    def read_input(self) -> None:
        """The socket is readable (``SocketEnd``)."""
        view = self.engine.read_view
        size = self.receive(view, READ)
        if size == NOTHING:
            return
        if size:
            self.owner.wire_data(view[:size])
            return
        self.input_ended()
        if not self.closed:
            self.owner.wire_ended()

    def pause(self) -> None:
        """See :class:`Wire`."""
        self.pause_reading()

    def resume(self) -> None:
        """See :class:`Wire`."""
        if not self.closed:
            self.resume_reading()

    # -- output ------------------------------------------------------------------------------------------------------

    def write(self, data: Buffer) -> None:
        """See :class:`Wire`."""
        if self.closed or self._failure is not None:
            return
        if self.backlog is not None:
            self.backlog += data
            self.congested = True
            return
        try:
            size = self.sock.send(data, DONT_WAIT)
        except BlockingIOError:
            size = 0
        except OSError as error:
            # Whoever writes is in the midst of something: it is told at the end of the turn.
            self._failure = error
            self.engine.mark_dirty(self)
            return
        if size < len(data):
            self.backlog = bytearray(memoryview(data)[size:])
            self.congested = True
            self.set_events((0 if self.events == LOOKED_AWAY else self.events) | EPOLLOUT)

    def later(self, item: Flushable) -> None:
        """See :class:`Wire`."""
        self.engine.mark_dirty(item)

    def flush(self) -> None:
        """Tell of a failed write (``mesh.relay.engine.Flushable``)."""
        if self._failure is not None:
            self.input_failed(self._failure)

    def flush_backlog(self) -> None:
        """The socket is writable again (``SocketEnd``)."""
        super().flush_backlog()
        if self.congested and self.backlog is None and not self.closed:
            self.congested = False
            if self._ending:
                self.close()
            else:
                self.owner.wire_writable()

    def finish(self) -> None:
        """See :class:`Wire`."""
        self.finish_writing()

    # -- the end -----------------------------------------------------------------------------------------------------

    def end(self) -> None:
        """See :class:`Wire`."""
        self.owner = NOBODY
        if self.backlog is None:
            self.close()
        else:
            self._ending = True
            self.pause_reading()

    def reset(self) -> None:
        """See :class:`Wire`."""
        self.owner = NOBODY
        self.abort(None)

    def ended(self) -> None:
        """The socket is closed (``SocketEnd``)."""
        owner, self.owner = self.owner, NOBODY
        owner.wire_lost(self.error)

    def crashed(self, error: MeshError) -> None:
        """A handler failed (``mesh.relay.engine.Crashable``)."""
        self.abort(error)
