"""Two sockets joined to each other: plaintext, in or out of the mesh."""

from __future__ import annotations

from collections.abc import Callable

from mesh.errors import MeshError
from mesh.relay.dialing_end import DialingEnd
from mesh.relay.engine import READ_SIZE, Engine
from mesh.relay.socket_end import EPOLLIN, LOOKED_AWAY, NOTHING, RawSocket


class PlainEnd(DialingEnd):
    """One of the two sockets."""

    __slots__ = ("other", "pair", "read_bytes")

    def __init__(self, engine: Engine, sock: RawSocket, pair: PlainPair) -> None:
        super().__init__(engine, sock)
        self.pair = pair
        self.other: PlainEnd
        self.read_bytes = 0

    def read_input(self) -> None:
        """Hand on what has arrived, unless the other socket still has a backlog."""
        if self.other.backlog is not None:
            self.pause_reading()
            return
        size = self.receive(self.engine.payload_view, READ_SIZE)
        if size == NOTHING:
            return
        if size:
            self.read_bytes += size
            self.other.write(self.engine.payload_view[:size])
        else:
            self.other.finish_writing()
            self.input_ended()

    def written(self, size: int) -> None:
        """Let the other side read again once everything was taken."""
        if self.backlog is None:
            other = self.other
            if not other.closed and (other.events == LOOKED_AWAY or not other.events & EPOLLIN):
                other.resume_reading()

    def ended(self) -> None:
        """Take the other side along."""
        self.pair.end_closed(self)


class PlainPair:
    """A connection accepted on one socket and dialled on another."""

    __slots__ = ("_on_closed", "accepted", "dialled", "error")

    def __init__(
        self,
        engine: Engine,
        accepted: RawSocket,
        dialled: RawSocket,
        on_closed: Callable[[PlainPair], None],
    ) -> None:
        self.accepted = PlainEnd(engine, accepted, self)
        self.dialled = PlainEnd(engine, dialled, self)
        self.accepted.other = self.dialled
        self.dialled.other = self.accepted
        self.dialled.expect_dial()
        self.error: MeshError | None = None
        self._on_closed = on_closed

    def dial(self, address: tuple[str, int], timed: Callable[[DialingEnd], None]) -> None:
        """Connect the second socket, then let bytes flow; ``timed`` is told of a dial that takes time."""
        self.dialled.dial(address, self._dialled, timed)

    def _dialled(self, error: MeshError | None) -> None:
        if error is not None:
            self.cut(error)
        elif not self.accepted.closed:
            self.accepted.watch(EPOLLIN)

    @property
    def sent(self) -> int:
        """Bytes from the accepted to the dialled socket."""
        return self.accepted.read_bytes

    @property
    def received(self) -> int:
        """Bytes the other way."""
        return self.dialled.read_bytes

    def cut(self, error: MeshError) -> None:
        """End both, with resets."""
        self.error = self.error or error
        self.accepted.abort(error)
        self.dialled.abort(error)

    def end_closed(self, end: PlainEnd) -> None:
        """One socket is closed: a reset is passed on, and the last one reports."""
        self.error = self.error or end.error
        other = end.other
        if not other.closed:
            if end.error is not None or not (end.read_ended and end.write_ended):
                other.abort(end.error)
            return
        report, self._on_closed = self._on_closed, _reported
        report(self)


def _reported(_pair: PlainPair) -> None:
    """The pair has reported already."""
