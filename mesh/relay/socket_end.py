"""One application socket in the relay: reading with back-pressure, writing with a backlog, half close, reset.

What the two kinds of connection (a stream of a tunnel, or another socket) have in common. A subclass says where bytes
read go (:meth:`SocketEnd.read_input`) and what to do when the socket has taken or lost some.

Ends are closed in the order their applications close them: a FIN read is passed on as an end of stream, an end of
stream received is passed on as a FIN once everything before it was written, and a reset is passed on as a reset, so
that no side keeps sockets in TIME_WAIT that its peer has long forgotten.
"""

from __future__ import annotations

import _socket
import errno
import os
import select
import socket
import struct
from typing import Final, TypeAlias

from mesh.errors import ConnectionLost, MeshError
from mesh.relay.engine import Engine

RawSocket: TypeAlias = _socket.socket
"""What is behind ``socket.socket``; the relay can do without what that adds, and making and closing one of those
costs some microseconds more."""
DONT_WAIT: Final = int(socket.MSG_DONTWAIT)
"""With every call, instead of making accepted sockets non-blocking first: one system call less per connection."""
EPOLLERR: Final = select.EPOLLERR
EPOLLIN: Final = select.EPOLLIN
EPOLLOUT: Final = select.EPOLLOUT
_FAILED: Final = EPOLLERR | select.EPOLLHUP
LOOKED_AWAY: Final = -1
"""In place of ``events``: hung up while paused, so not watched until reading resumes."""
_ENDED_BY_THE_OTHER_SIDE: Final = (errno.ECONNRESET, errno.EPIPE)
NOTHING: Final = -1
"""See :meth:`SocketEnd.receive`."""
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


def reset_socket(sock: RawSocket) -> None:
    """Close with a reset: the other side learns that this was no proper end."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    except OSError:
        pass  # already reset by the other side
    sock.close()


class SocketEnd:
    """A non-blocking stream socket watched by the engine."""

    __slots__ = (
        "backlog",
        "closed",
        "engine",
        "error",
        "events",
        "failed_with",
        "fd",
        "finishing",
        "read_ended",
        "sock",
        "write_ended",
    )

    def __init__(self, engine: Engine, sock: RawSocket) -> None:
        self.engine = engine
        self.sock = sock
        self.fd = sock.fileno()
        self.events = 0
        self.backlog: bytearray | None = None
        """Bytes the socket has not taken yet. Bounded by whoever feeds this end: a stream's window, or a paused peer.
        """
        self.failed_with = 0
        """Why the connection failed, as errno; what came before that is read all the same."""
        self.read_ended = False
        self.finishing = False
        """A FIN is due once the backlog is written."""
        self.write_ended = False
        self.closed = False
        self.error: MeshError | None = None

    # -- what subclasses define --------------------------------------------------------------------------------------

    def read_input(self) -> None:
        """The socket is readable."""
        raise NotImplementedError

    def written(self, size: int) -> None:
        """The socket took ``size`` bytes of the backlog or directly."""

    def ended(self) -> None:
        """Both directions are done, or the socket failed: runs once, after the socket was closed."""

    def input_failed(self, error: OSError) -> None:
        """The application reset the connection."""
        self.abort(
            ConnectionLost(f"the application's connection failed: {error.strerror}"),
            reset=error.errno not in _ENDED_BY_THE_OTHER_SIDE,
        )

    # -- events ------------------------------------------------------------------------------------------------------

    def watch(self, events: int) -> None:
        """Start watching."""
        self.events = events
        self.engine.register(self.fd, events, self.on_ready)

    def on_ready(self, events: int) -> None:
        """The engine's handler."""
        if events & EPOLLOUT:
            self.flush_backlog()
            if self.closed:
                return
        if events & EPOLLIN and self.events & EPOLLIN:
            if events & EPOLLERR:
                # Asked for, not learnt from reading: that raises, which costs several times as much.
                self.failed_with = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) or self.failed_with
            self.read_input()
        elif events & _FAILED and not self.closed:
            self._failed_while_paused()

    def _failed_while_paused(self) -> None:
        """An error or hang-up that no read will report, because reading is paused or done."""
        code = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code or self.read_ended:
            self.input_failed(OSError(code or 104, "the connection was reset"))
        elif not self.events & EPOLLIN:
            # Hung up with unread input while we are told to wait: epoll would report it for ever, so look away until
            # reading resumes.
            self.engine.unregister(self.fd)
            self.events = LOOKED_AWAY
        else:
            self.read_input()

    def set_events(self, events: int) -> None:
        """Watch for these events from now on."""
        if self.closed or events == self.events:
            return
        if self.events == LOOKED_AWAY:
            self.watch(events)
            return
        self.events = events
        self.engine.modify(self.fd, events)

    def pause_reading(self) -> None:
        """Back-pressure: leave the application's bytes in its socket."""
        if self.events != LOOKED_AWAY:
            self.set_events(self.events & ~EPOLLIN)

    def resume_reading(self) -> None:
        """Read again."""
        if not self.read_ended:
            self.set_events(EPOLLIN | (0 if self.events == LOOKED_AWAY else self.events))

    def receive(self, view: memoryview, most: int) -> int:
        """Read up to ``most`` bytes to the beginning of ``view``.

        Returns:
            How many; 0 once the application has sent its FIN; :data:`NOTHING` when there is nothing to do, as nothing
            has come, or as the connection has failed, which was handled.
        """
        try:
            size = self.sock.recv_into(view, most, DONT_WAIT)
        except BlockingIOError:
            return NOTHING
        except OSError as error:
            self.input_failed(error)
            return NOTHING
        if not size and self.failed_with:
            self.input_failed(OSError(self.failed_with, os.strerror(self.failed_with)))
            return NOTHING
        return size

    # -- output ------------------------------------------------------------------------------------------------------

    def write(self, payload: memoryview) -> None:
        """Send, or keep what the socket does not take now."""
        if self.closed:
            return
        if self.backlog is not None:
            self.backlog += payload
            return
        try:
            size = self.sock.send(payload, DONT_WAIT)
        except BlockingIOError:
            size = 0
        except OSError as error:
            self.input_failed(error)
            return
        if size:
            self.written(size)
        if size < len(payload):
            self.backlog = bytearray(payload[size:])
            self.set_events((0 if self.events == LOOKED_AWAY else self.events) | EPOLLOUT)

    def flush_backlog(self) -> None:
        """The socket is writable again."""
        backlog = self.backlog
        if backlog is not None:
            try:
                size = self.sock.send(backlog, DONT_WAIT)
            except BlockingIOError:
                return
            except OSError as error:
                self.input_failed(error)
                return
            if size < len(backlog):
                del backlog[:size]
                self.written(size)
                return
            self.backlog = None
            self.set_events(self.events & ~EPOLLOUT)
            self.written(size)
        elif self.events & EPOLLOUT:
            self.set_events(self.events & ~EPOLLOUT)
        if self.finishing and self.backlog is None:
            self._shut_down_writing()

    def finish_writing(self) -> None:
        """Half close, after the backlog."""
        self.finishing = True
        if self.backlog is None:
            self._shut_down_writing()

    def _shut_down_writing(self) -> None:
        if self.closed or self.write_ended:
            return
        self.write_ended = True
        if self.read_ended:
            self.close()
            return
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            self.input_failed(error)

    def input_ended(self) -> None:
        """The application sent its FIN."""
        self.read_ended = True
        if self.write_ended:
            self.close()
        else:
            self.pause_reading()

    def crashed(self, error: MeshError) -> None:
        """A handler failed (``mesh.relay.engine.Crashable``)."""
        self.abort(error)

    # -- the end -----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the socket; a FIN if none was sent yet."""
        if self.closed:
            return
        self.closed = True
        self.engine.close_socket(self.sock, self.fd)
        self.backlog = None
        self.ended()

    def abort(self, error: MeshError | None, *, reset: bool = True) -> None:
        """Close with a reset, so that the application learns that this was no proper end; without, if it knows."""
        if self.closed:
            return
        self.error = self.error or error
        if reset:
            try:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            except OSError:
                pass  # already reset by the other side
        self.close()
