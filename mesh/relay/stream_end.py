"""An application's socket joined to a stream of a tunnel.

On the client's node the socket was accepted from the application and the stream opened towards the server's node; on
the server's node the stream was requested by the peer and the socket dials the application. Bytes read from the
socket become DATA frames, at most as many as the stream's window admits and only while the tunnel takes more; DATA
received is written to the socket, and the stream's window given back as the socket takes it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mesh.errors import ConnectionLost, MeshError, TunnelRefused
from mesh.hbone.codec import ErrorCode, error_name, response_status
from mesh.hbone.contract import HboneStream
from mesh.relay.dialing_end import DialingEnd
from mesh.relay.engine import FRAME_ROOM, READ_SIZE, Engine
from mesh.relay.socket_end import EPOLLIN, NOTHING, RawSocket
from mesh.relay.tunnel import DIRECT_SIZE, Tunnel

BEFORE_ANSWER: Final = 64 * 1024
"""Bytes sent ahead on a stream that the peer has not answered yet: saves a round trip, yet bounds what a refusal
wastes.
"""


class StreamEnd(DialingEnd):
    """A socket and its stream."""

    __slots__ = ("_on_closed", "answered", "received", "sent", "stream", "tunnel")

    def __init__(
        self, engine: Engine, sock: RawSocket, tunnel: Tunnel, on_closed: Callable[[StreamEnd], None]
    ) -> None:
        super().__init__(engine, sock)
        self.tunnel = tunnel
        self.stream: HboneStream
        self.answered = False
        self.sent = 0
        """Bytes read from the socket and sent into the tunnel."""
        self.received = 0
        """Bytes received from the tunnel."""
        self._on_closed = on_closed

    # -- beginnings --------------------------------------------------------------------------------------------------

    def open(self, block: bytes) -> None:
        """Client's node: open a stream with this header block and start reading the application."""
        # Joined first: should the tunnel break while the request is put into it, this end is told like all others.
        self.tunnel.join(self)
        self.stream = self.tunnel.machine.open_stream(block, self)
        if not self.closed:
            # Not read at once: a client that speaks first does so some microseconds after it was accepted. If that is
            # within this turn, request and first bytes still share a record.
            self.watch(EPOLLIN)

    def adopt(self, stream: HboneStream) -> None:
        """Server's node: serve a stream the peer requested. DATA is kept until :meth:`dial` has connected."""
        self.stream = stream
        stream.owner = self
        self.answered = True
        self.tunnel.join(self)
        self.expect_dial()

    # -- socket to stream --------------------------------------------------------------------------------------------

    def read_input(self) -> None:
        """Turn what the application sent into a DATA frame."""
        tunnel = self.tunnel
        if tunnel.blocked:
            tunnel.wait_unblocked(self)
            return
        machine = tunnel.machine
        stream = self.stream
        limit = machine.sendable(stream)
        if not limit:
            self.pause_reading()
            return
        if limit > READ_SIZE:
            limit = READ_SIZE
        if not self.answered:
            limit = min(limit, BEFORE_ANSWER - self.sent)
            if limit <= 0:
                self.pause_reading()
                return
        engine = self.engine
        size = self.receive(engine.payload_view, limit)
        if size == NOTHING:
            return
        if not size:
            machine.end_stream(stream)
            self.input_ended()
            return
        self.sent += size
        if size >= DIRECT_SIZE and tunnel.idle:
            machine.data_header_into(engine.read_view, stream, size)
            tunnel.send_now(engine.read_view[: FRAME_ROOM + size])
        else:
            machine.send_data(stream, engine.payload_view[:size], size)
            tunnel.output_ready()

    def input_failed(self, error: OSError) -> None:
        """The application reset its connection: tell the peer, as a reset (RFC 9113 section 8.5)."""
        self.tunnel.machine.reset_stream(self.stream, ErrorCode.CONNECT_ERROR)
        super().input_failed(error)

    # -- stream to socket (mesh.hbone.contract.StreamOwner) ----------------------------------------------------------

    def stream_data(self, payload: memoryview) -> None:
        """DATA from the peer."""
        self.received += len(payload)
        self.write(payload)

    def written(self, size: int) -> None:
        """Give window back."""
        self.tunnel.machine.consumed(self.stream, size)

    def stream_answered(self, headers: list[tuple[str, str]]) -> None:
        """The peer's answer to our CONNECT."""
        status = response_status(headers)
        if status == 200:
            self.answered = True
            self.resume_reading()
            return
        self.tunnel.machine.reset_stream(self.stream, ErrorCode.CANCEL)
        self.abort(TunnelRefused(status or 0))

    def stream_ended(self) -> None:
        """The peer's application sent its FIN."""
        if not self.answered:
            self.cut(ConnectionLost("the peer ended the stream without an answer"))
            return
        self.finish_writing()

    def stream_reset(self, code: int) -> None:
        """The peer's application, or the peer, gave up."""
        if self.answered and code in (ErrorCode.NO_ERROR, ErrorCode.CONNECT_ERROR):
            self.abort(None)
        elif self.answered and code == ErrorCode.CANCEL:
            self.abort(ConnectionLost("the peer's proxy ended the connection: by a policy there, or because it stops"))
        else:
            self.abort(ConnectionLost(f"the peer reset the stream ({error_name(code)})"))

    def stream_writable(self) -> None:
        """The stream's window has opened."""
        self.resume_reading()

    def tunnel_lost(self, error: MeshError | None) -> None:
        """The tunnel under this stream is gone."""
        self.abort(error)

    # -- the end -----------------------------------------------------------------------------------------------------

    def cut(self, error: MeshError, code: ErrorCode = ErrorCode.CANCEL) -> None:
        """End the connection from this side, both ways, now."""
        self.tunnel.machine.reset_stream(self.stream, code)
        self.abort(error)

    def crashed(self, error: MeshError) -> None:
        """A handler failed (``mesh.relay.engine.Crashable``)."""
        self.cut(error, ErrorCode.INTERNAL_ERROR)

    def ended(self) -> None:
        """Leave the tunnel and report."""
        self.tunnel.leave(self)
        self._on_closed(self)
