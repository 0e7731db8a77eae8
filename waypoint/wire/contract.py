"""The seam between HTTP and what carries it.

A :class:`Wire` is one connection: to a client or to an endpoint, over a socket or over a stream of a tunnel. It is told
what to send, and tells its :class:`WireOwner` what happens. All of it runs in the relay engine's handlers, so nothing
here waits.

Back-pressure. ``write`` never refuses: what cannot be sent at once is kept, and ``congested`` says so. Whoever feeds a
congested wire pauses its own source, which bounds what is kept by one read of that source, and goes on when the owner
is told ``wire_writable``. Reading pauses in the other direction the same way; what arrives on a paused stream of a
tunnel is bounded by the stream's window.
"""

from __future__ import annotations

from typing import Protocol

from mesh.errors import MeshError

Buffer = bytes | bytearray | memoryview
"""Bytes that are valid during the call only: a wire reads into memory that it uses again."""


class Flushable(Protocol):
    """Something with output that waits for the end of the turn (``mesh.relay.engine.Flushable``)."""

    def flush(self) -> None:
        """Write what has collected."""


class WireOwner(Protocol):
    """Who is told about one wire."""

    def wire_data(self, data: Buffer) -> None:
        """Bytes have arrived. A wire that was closed in an earlier call delivers nothing more."""
        ...

    def wire_ended(self) -> None:
        """The other side sends no more (half close)."""
        ...

    def wire_lost(self, error: MeshError | None) -> None:
        """The connection has ended, in both directions. The last call, made exactly once, unless the owner closed the
        wire itself."""
        ...

    def wire_writable(self) -> None:
        """A congested wire has sent everything."""
        ...


class Wire(Protocol):
    """One connection."""

    congested: bool
    """Some of what was written waits to be sent."""
    closed: bool

    def attach(self, owner: WireOwner) -> None:
        """From now on this one is told; before there was :data:`NOBODY`, who drops what arrives."""
        ...

    def write(self, data: Buffer) -> None:
        """Send, or keep what cannot be sent now. A failure is told later, not within this call."""
        ...

    def later(self, item: Flushable) -> None:
        """Have ``item`` flushed at the end of the engine's turn, once for each call, so that output of many messages
        becomes one write."""
        ...

    def pause(self) -> None:
        """Deliver no data for now."""
        ...

    def resume(self) -> None:
        """Deliver data again; what was held back comes soon, not within this call."""
        ...

    def finish(self) -> None:
        """Half close: nothing more is written; everything written before is sent first."""
        ...

    def end(self) -> None:
        """Close once everything written has been sent. The owner hears nothing more."""
        ...

    def reset(self) -> None:
        """Close now, so that the other side learns that this was no proper end. The owner hears nothing more."""
        ...


class Nobody(WireOwner):
    """The owner of a wire that nobody listens to any more: what arrives is dropped."""

    __slots__ = ()

    def wire_data(self, data: Buffer) -> None:
        """Drop it."""

    def wire_ended(self) -> None:
        """Nothing is left to say."""

    def wire_lost(self, error: MeshError | None) -> None:
        """Nobody to tell."""

    def wire_writable(self) -> None:
        """Nothing is left to write."""


NOBODY = Nobody()
