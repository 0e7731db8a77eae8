"""A wire over one stream of an HBONE tunnel: a client's connection that ends here, or ours to an endpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog

from mesh.errors import ConnectionLost, InternalError, MeshError, TunnelRefused
from mesh.hbone.codec import ErrorCode, error_name, response_status
from mesh.hbone.contract import HboneStream
from mesh.relay.tunnel import Tunnel
from waypoint.wire.contract import NOBODY, Buffer, Flushable, WireOwner

LAST_WORDS: Final = 256 * 1024
"""Bytes that a peer may still send on a connection that was ended here, before the stream is reset."""

_log = structlog.get_logger("waypoint")

Report = Callable[[MeshError | None], None]


class StreamWire:
    """One stream."""

    __slots__ = (
        *("_backlog", "_end_held", "_ending", "_finish_due", "_finished", "_held", "_held_dirty"),
        *("_lost", "_parked", "_paused", "_remote_ended", "_report", "_sending"),
        *("answered", "closed", "congested", "owner", "received", "sent", "stream", "tunnel"),
    )

    def __init__(self, tunnel: Tunnel) -> None:
        self.tunnel = tunnel
        self.stream: HboneStream
        self.owner: WireOwner = NOBODY
        self.congested = False
        self.closed = False
        self.answered = False
        """The CONNECT was answered 200, by the peer or by us."""
        self.received = 0
        """Bytes (``mesh.relay.tunnel_contract.TunnelEnd``)."""
        self.sent = 0
        self._backlog = bytearray()
        """Written, and not admitted by windows or the tunnel's socket yet."""
        self._held = bytearray()
        """Received while paused: at most the stream's window."""
        self._held_dirty = False
        self._end_held = False
        self._paused = False
        self._parked = False
        """The tunnel will say when its socket takes more."""
        self._finish_due = False
        self._finished = False
        self._remote_ended = False
        self._ending = False
        self._sending = False
        """Something is being put into the tunnel: should that fail, the owner is told later."""
        self._lost: MeshError | None = None
        self._report: Report | None = None

    # -- beginnings --------------------------------------------------------------------------------------------------

    def open(self, block: bytes, report: Report) -> None:
        """Request a stream with this header block; ``report`` is told once how it was answered."""
        self._report = report
        self.tunnel.join(self)
        self.stream = self.tunnel.machine.open_stream(block, self)

    def adopt(self, stream: HboneStream) -> None:
        """Serve a stream that the peer has requested, and that the caller answers 200."""
        self.stream = stream
        self.answered = True
        stream.owner = self
        self.tunnel.join(self)

    # -- output ------------------------------------------------------------------------------------------------------

    def write(self, data: Buffer) -> None:
        """See :class:`Wire`."""
        if self.closed or self._finished:
            return
        if self._backlog:
            self._backlog += data
            return
        sent = self._send(memoryview(data))
        if sent < len(data):
            self._backlog += memoryview(data)[sent:]
            self.congested = True

    def _send(self, view: memoryview) -> int:
        """Put as much into the tunnel as it takes."""
        tunnel, machine, stream = self.tunnel, self.tunnel.machine, self.stream
        position, end = 0, len(view)
        self._sending = True
        while position < end and self._lost is None:
            if tunnel.blocked:
                if not self._parked:
                    self._parked = True
                    tunnel.wait_unblocked(self)
                break
            size = machine.sendable(stream)
            if not size:
                break
            size = min(size, end - position)
            machine.send_data(stream, view[position : position + size], size)
            position += size
            tunnel.output_ready()
        self._sending = False
        self.sent += position
        return position

    def _pump(self) -> None:
        if self.closed:
            return
        if self._backlog:
            with memoryview(self._backlog) as view:
                sent = self._send(view)
            del self._backlog[:sent]
            if self._backlog:
                return
        if self._finish_due:
            self._finish_due = False
            self._end_stream()
        if self.congested:
            self.congested = False
            if not self._ending and not self.closed:
                self.owner.wire_writable()

    def finish(self) -> None:
        """See :class:`Wire`."""
        if self._backlog:
            self._finish_due = True
        else:
            self._end_stream()

    def _end_stream(self) -> None:
        if self.closed or self._finished:
            return
        self._finished = True
        self._sending = True
        self.tunnel.machine.end_stream(self.stream)
        self._sending = False
        if self._remote_ended and not self._end_held:
            self._over(None)

    def later(self, item: Flushable) -> None:
        """See :class:`Wire`."""
        self.tunnel.engine.mark_dirty(item)

    def pause_reading(self) -> None:
        """The tunnel takes no data for now (``mesh.relay.tunnel_contract.TunnelEnd``): what is written waits here."""

    def resume_reading(self) -> None:
        """The tunnel takes data again (``mesh.relay.tunnel_contract.TunnelEnd``)."""
        self._parked = False
        self._pump()

    def stream_writable(self) -> None:
        """The window has opened (``mesh.hbone.contract.StreamOwner``)."""
        try:
            self._pump()
        except Exception as error:  # one connection's bug must not cost the tunnel
            self._bug(error)

    def attach(self, owner: WireOwner) -> None:
        """See :class:`Wire`."""
        self.owner = owner

    # -- input -------------------------------------------------------------------------------------------------------

    def stream_data(self, payload: memoryview) -> None:
        """DATA from the peer (``StreamOwner``)."""
        size = len(payload)
        self.received += size
        if self._paused or self._held:
            self._held += payload
            return
        try:
            self.owner.wire_data(payload)
        except Exception as error:  # one connection's bug must not cost the tunnel, and all that is in it
            self._bug(error)
            return
        self.tunnel.machine.consumed(self.stream, size)
        if self._ending and self.received > LAST_WORDS:
            self.reset()

    def pause(self) -> None:
        """See :class:`Wire`."""
        self._paused = True

    def resume(self) -> None:
        """See :class:`Wire`."""
        if not self._paused:
            return
        self._paused = False
        if (self._held or self._end_held) and not self._held_dirty:
            self._held_dirty = True
            self.tunnel.engine.mark_dirty(self)

    def flush(self) -> None:
        """Deliver what was held back (``mesh.relay.engine.Flushable``)."""
        self._held_dirty = False
        lost, self._lost = self._lost, None
        if lost is not None:
            self._over(lost)
        if self.closed or self._paused:
            return
        if self._held:
            held, self._held = self._held, bytearray()
            self.owner.wire_data(held)
            self.tunnel.machine.consumed(self.stream, len(held))
        if self._end_held and not self._paused and not self.closed:
            self._end_held = False
            self._input_ended()

    def stream_ended(self) -> None:
        """The peer sends no more (``StreamOwner``)."""
        if self._report is not None:
            self._answer(ConnectionLost("the peer ended the stream without an answer"))
            return
        self._remote_ended = True
        if self._held or self._paused:
            self._end_held = True
        else:
            self._input_ended()

    def _input_ended(self) -> None:
        try:
            if self._finished:
                self._over(None)
            else:
                self.owner.wire_ended()
        except Exception as error:  # as above
            self._bug(error)

    # -- answers and ends --------------------------------------------------------------------------------------------

    def stream_answered(self, headers: list[tuple[str, str]]) -> None:
        """The answer to our CONNECT (``StreamOwner``)."""
        status = response_status(headers)
        if status == 200:
            self.answered = True
            self._answer(None)
        else:
            self.tunnel.machine.reset_stream(self.stream, ErrorCode.CANCEL)
            self._answer(TunnelRefused(status or 0))

    def _answer(self, error: MeshError | None) -> None:
        report, self._report = self._report, None
        if error is not None:
            self._leave()
        if report is not None:
            try:
                report(error)
            except Exception as failure:  # one connection's bug must not cost the tunnel
                self._bug(failure)

    def stream_reset(self, code: int) -> None:
        """The peer gave the stream up (``StreamOwner``)."""
        self._over(ConnectionLost(f"the peer reset the stream ({error_name(code)})"))

    def tunnel_lost(self, error: MeshError | None) -> None:
        """The tunnel is gone (``mesh.relay.tunnel_contract.TunnelEnd``)."""
        self._over(error or ConnectionLost("the tunnel was closed"))

    def _bug(self, error: Exception) -> None:
        """An owner failed: that ends its own connection only."""
        _log.error("the owner of a stream failed", exc_info=error)
        self.crashed(InternalError(f"a bug of this proxy: {error!r}"))

    def crashed(self, error: MeshError) -> None:
        """A handler failed (``mesh.relay.engine.Crashable``)."""
        self.tunnel.machine.reset_stream(self.stream, ErrorCode.INTERNAL_ERROR)
        self._over(error)

    def end(self) -> None:
        """See :class:`Wire`."""
        self.owner = NOBODY
        self._ending = True
        self.received = 0
        self.resume()
        self.finish()

    def reset(self) -> None:
        """See :class:`Wire`."""
        self.owner = NOBODY
        if not self.closed:
            self.tunnel.machine.reset_stream(self.stream, ErrorCode.CONNECT_ERROR)
            self._leave()

    def _over(self, error: MeshError | None) -> None:
        if self.closed:
            return
        if self._sending:
            self._lost = error or ConnectionLost("the tunnel was closed")
            self.tunnel.engine.mark_dirty(self)
            return
        if self._report is not None:
            self._answer(error or ConnectionLost("the stream ended before it was answered"))
            return
        self._leave()
        owner, self.owner = self.owner, NOBODY
        try:
            owner.wire_lost(error)
        except Exception as failure:  # as above, and the stream is gone already
            self._bug(failure)

    def _leave(self) -> None:
        if not self.closed:
            self.closed = True
            self._held.clear()
            self.tunnel.leave(self)
