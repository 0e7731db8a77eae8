"""Two wires joined: what comes in on one goes out on the other, with back-pressure, ends and resets."""

from __future__ import annotations

from collections.abc import Callable

from mesh.errors import MeshError
from waypoint.wire.contract import Buffer, Wire


class BytePipe:
    """One connection, from end to end."""

    __slots__ = ("_ended", "_ends", "_over", "lost_by_client", "received", "sent")

    def __init__(self, client: Wire, endpoint: Wire, start: bytes, ended: Callable[[MeshError | None], None]) -> None:
        """Join two wires.

        Args:
            client: paused.
            endpoint: attached to nobody.
            start: what the client has said already.
            ended: told once, when both directions are over, with an error if they were cut.
        """
        self._ended = ended
        self._over = False
        self.received = len(start)
        """Bytes from the client."""
        self.sent = 0
        """Bytes to the client."""
        self.lost_by_client = False
        """It was cut because the client's side was lost."""
        self._ends = (_PipeEnd(self, client, endpoint), _PipeEnd(self, endpoint, client))
        client.attach(self._ends[0])
        endpoint.attach(self._ends[1])
        if start:
            endpoint.write(start)
        if not endpoint.congested:
            client.resume()

    def moved(self, end: _PipeEnd, size: int) -> None:
        """Count."""
        if end is self._ends[0]:
            self.received += size
        else:
            self.sent += size

    def lost(self, end: _PipeEnd, error: MeshError | None) -> None:
        """A side has broken off."""
        if not self._over:
            self.lost_by_client = end is self._ends[0]
        self.cut(error)

    def half_over(self) -> None:
        """One direction is over."""
        if all(end.ended for end in self._ends):
            self.cut(None)

    def cut(self, error: MeshError | None) -> None:
        """End both directions; with an error so that both sides see it."""
        if self._over:
            return
        self._over = True
        for end in self._ends:
            if error is None:
                end.wire.end()
            else:
                end.wire.reset()
        self._ended(error)


class _PipeEnd:
    """One of the wires, as a source."""

    __slots__ = ("_pipe", "_to", "ended", "wire")

    def __init__(self, pipe: BytePipe, wire: Wire, to: Wire) -> None:
        self._pipe = pipe
        self._to = to
        self.wire = wire
        self.ended = False

    def wire_data(self, data: Buffer) -> None:
        self._pipe.moved(self, len(data))
        self._to.write(data)
        if self._to.congested:
            self.wire.pause()

    def wire_ended(self) -> None:
        self.ended = True
        self._to.finish()
        self._pipe.half_over()

    def wire_lost(self, error: MeshError | None) -> None:
        if error is None and not self.ended:
            self.ended = True
            self._to.finish()
            self._pipe.half_over()
        else:
            self._pipe.lost(self, error)

    def wire_writable(self) -> None:
        self._to.resume()
