"""One HBONE connection in the relay: a TCP socket, TLS, and the HBONE machine.

The handshake is done before this object exists (``mesh.tls.handshake_driver``, under trio, with a deadline). From then
on the machine reads frames in the engine's plain buffer, and output collects in the machine until the end of the
engine's turn; a large DATA frame on an idle tunnel skips that and is sent from the buffer it was read into. Between
these buffers and the socket stands TLS: of OpenSSL (``mesh.relay.openssl_tunnel``) or of the kernel
(``mesh.relay.kernel_tunnel``).
"""

from __future__ import annotations

import select
import socket
from abc import ABC, abstractmethod
from typing import Final, Protocol, TypeAlias

from mesh.errors import ConnectionLost, MeshError, ProtocolViolation
from mesh.hbone.codec import ErrorCode
from mesh.hbone.contract import HboneSettings, HboneStream, Http2Violation, Role
from mesh.hbone.machine import HboneMachine
from mesh.identity import SpiffeId
from mesh.relay.engine import Engine
from mesh.relay.tunnel_contract import TunnelEnd

EPOLLIN: Final = select.EPOLLIN
EPOLLOUT: Final = select.EPOLLOUT
DIRECT_SIZE: Final = 32 * 1024
"""DATA frames from this size on are worth a ``send`` of their own."""
FLUSH_AT: Final = 256 * 1024
"""Collected output is sent before the turn's end when it reaches this size."""

PING_EVERY: Final = 10.0
PING_TIMEOUT: Final = 20.0
Buffer: TypeAlias = bytes | bytearray | memoryview


class TunnelOwner(Protocol):
    """Who is told what happens to a tunnel as a whole."""

    def requested(self, tunnel: Tunnel, stream: HboneStream, headers: list[tuple[str, str]]) -> None:
        """A CONNECT request has arrived (server side)."""

    def draining(self, tunnel: Tunnel) -> None:
        """The peer takes no new streams."""

    def lost(self, tunnel: Tunnel, error: MeshError | None) -> None:
        """The connection has ended; all streams have been told."""


class Tunnel(ABC):
    """See the module's docstring."""

    __slots__ = (
        *("_answered", "_closing", "_dirty", "_ends", "_events", "_fd", "_leftover", "_next_ping_at"),
        *("_owner", "_pending", "_pinged_at", "_receiving", "_waiting"),
        *("blocked", "blocked_at", "closed", "engine", "last_used", "machine", "peer_identity", "sock"),
    )

    def __init__(
        self,
        engine: Engine,
        sock: socket.socket,
        role: Role,
        owner: TunnelOwner,
        peer_identity: SpiffeId | str,
        settings: HboneSettings | None = None,
    ) -> None:
        self.engine = engine
        self.sock = sock
        self._fd = sock.fileno()
        self._owner = owner
        self.peer_identity = peer_identity
        """Whom the handshake has proven the peer to be; a name that is no SPIFFE id only where one was expected."""
        self._ends: set[TunnelEnd] = set()
        self._waiting: list[TunnelEnd] = []
        self._answered: list[TunnelEnd] = []
        """Ends whose answer was sent while a batch was read."""
        self._pending = bytearray()
        """What the socket is to be given, and has not taken yet."""
        self._leftover = b""
        """Received, not yet a whole frame."""
        self._events = EPOLLIN
        self._dirty = False
        self._receiving = False
        self._closing: MeshError | None = None
        self._pinged_at: float | None = None
        self.blocked = False
        """The socket takes no more for now: ends leave their bytes where they are."""
        self.blocked_at = 0.0
        """When that was last so (the engine's clock)."""
        self.closed = False
        self.last_used = engine.now
        """When a stream was last on this tunnel."""
        self._next_ping_at = engine.now + PING_EVERY
        self.machine = HboneMachine(role, self, settings)
        engine.register(self._fd, EPOLLIN, self._on_ready)
        self.output_ready()

    @abstractmethod
    def start(self) -> None:
        """Handle what arrived together with the end of the handshake."""

    # -- streams -----------------------------------------------------------------------------------------------------

    def join(self, end: TunnelEnd) -> None:
        """An end has taken a stream of this tunnel."""
        self._ends.add(end)

    def leave(self, end: TunnelEnd) -> None:
        """An end is done."""
        self._ends.discard(end)
        self.last_used = self.engine.now

    @property
    def streams(self) -> int:
        """How many ends use this tunnel."""
        return len(self._ends)

    def answer(self, end: TunnelEnd, stream: HboneStream, block: bytes) -> None:
        """Answer a request. A client that has sent ahead does not wait for it: it may travel with what comes next."""
        self.machine.respond(stream, block, hurry=False)
        if self._receiving:
            self._answered.append(end)
        elif not end.received:
            self.output_ready()

    def wait_unblocked(self, end: TunnelEnd) -> None:
        """Stop reading this end until the tunnel takes data again."""
        end.pause_reading()
        self._waiting.append(end)

    # -- output ------------------------------------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Nothing waits to be sent: a large frame may go out at once."""
        return not self.machine.outgoing and not self._pending

    def output_ready(self) -> None:
        """The machine has something to send (``mesh.hbone.contract.ConnectionOwner``)."""
        if not self._dirty:
            self._dirty = True
            self.engine.mark_dirty(self)
        elif len(self.machine.outgoing) > FLUSH_AT and not self.blocked:
            self._send_outgoing()

    def output_can_wait(self) -> None:
        """It goes out with other output, or when all is quiet (``mesh.hbone.contract.ConnectionOwner``)."""
        self.engine.mark_waiting(self)

    def flush(self) -> None:
        """End of turn: send what has collected."""
        self._dirty = False
        if not self.closed and not self.blocked:
            self._send_outgoing()

    @abstractmethod
    def send_now(self, frames: memoryview) -> None:
        """Send what is large; nothing else waits to be sent."""

    @abstractmethod
    def _send_outgoing(self) -> None:
        """Send what has collected in the machine."""

    def _send(self, data: Buffer) -> None:
        """Give bytes to the socket; what it does not take waits."""
        if self._pending:
            self._pending += data
            return
        try:
            size = self.sock.send(data)
        except BlockingIOError:
            size = 0
        except OSError as error:
            self._socket_failed(error)
            return
        if size < len(data):
            self._pending += memoryview(data)[size:]
            self.blocked = True
            self.blocked_at = self.engine.now
            self._set_events(self._events | EPOLLOUT)

    def _on_writable(self) -> None:
        try:
            size = self.sock.send(self._pending)
        except BlockingIOError:
            return
        except OSError as error:
            self._socket_failed(error)
            return
        del self._pending[:size]
        if self._pending:
            return
        self.blocked = False
        self._set_events(self._events & ~EPOLLOUT)
        if self.machine.outgoing:
            self._send_outgoing()
        waiting, self._waiting = self._waiting, []
        for end in waiting:
            end.resume_reading()

    def _set_events(self, events: int) -> None:
        if events != self._events and not self.closed:
            self._events = events
            self.engine.modify(self._fd, events)

    # -- input -------------------------------------------------------------------------------------------------------

    def _on_ready(self, events: int) -> None:
        if events & EPOLLOUT:
            self._on_writable()
        if events & ~EPOLLOUT and not self.closed:
            self._receive()

    @abstractmethod
    def _receive(self) -> None:
        """The socket has something: a whole read of it, or its end."""

    def _socket_failed(self, error: OSError) -> None:
        """Sending or receiving is over."""
        self.close(ConnectionLost(f"the tunnel's connection failed: {error.strerror}"))

    def _ended(self) -> None:
        """The peer has said all it had to say."""
        self.close(ConnectionLost("the peer closed the tunnel") if self._ends else None)

    def _parse(self, end: int) -> None:
        view = self.engine.plain_view
        self._receiving = True
        try:
            taken = self.machine.receive(view, end)
        except Http2Violation as violation:
            self._receiving = False
            self.machine.go_away(violation.code)
            self.close(violation)
            return
        finally:
            self._receiving = False
        self._leftover = bytes(view[taken:end]) if taken < end else b""
        if self._answered:
            if not all(end.received for end in self._answered):
                self.output_ready()
            self._answered.clear()
        if self._closing is not None:
            self.close(self._closing)

    # -- mesh.hbone.contract.ConnectionOwner -------------------------------------------------------------------------

    def stream_requested(self, stream: HboneStream, headers: list[tuple[str, str]]) -> None:
        """Pass a request to the owner."""
        self._owner.requested(self, stream, headers)

    def going_away(self, last_stream: int, code: int) -> None:
        """The peer sent GOAWAY: no new streams, those that are open go on."""
        self._owner.draining(self)
        if code != ErrorCode.NO_ERROR and not self._ends:
            self.close(
                ProtocolViolation(f"the peer ended the tunnel with code {code} after stream {last_stream}")
            )

    def ping_answered(self, payload: bytes) -> None:
        """The peer lives."""
        self._pinged_at = None

    # -- keeping alive and ending ------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Once per second: refill the abuse budget, send PINGs, notice a dead peer."""
        self.machine.refill_budget()
        if self._ends:
            self.last_used = now
        if self._pinged_at is None:
            if now >= self._next_ping_at:
                self._pinged_at = now
                self._next_ping_at = now + PING_EVERY
                self.machine.ping(b"ambimesh")
        elif now - self._pinged_at > PING_TIMEOUT:
            self.close(ConnectionLost(f"the peer has not answered a PING for {PING_TIMEOUT:.0f} s"))

    def ask_to_leave(self) -> None:
        """Ask the peer to open no more streams here; those that are on their way are still taken."""
        if not self.closed:
            self.machine.announce_going_away()

    def drain(self) -> None:
        """Take no more streams."""
        if not self.closed and not self.machine.draining:
            self.machine.go_away()

    def crashed(self, error: MeshError) -> None:
        """A handler failed (``mesh.relay.engine.Crashable``)."""
        self.close(error)

    def close(self, error: MeshError | None) -> None:
        """End the connection and every stream on it."""
        if self.closed:
            return
        if self._receiving:
            self._closing = error or ConnectionLost("the tunnel was closed")
            return
        self.closed = True
        self.engine.unregister(self._fd)
        if not self._pending:
            try:
                self._say_goodbye()
            except OSError:
                pass  # it is gone already
        self.sock.close()
        self._waiting.clear()
        for end in list(self._ends):
            end.tunnel_lost(error)
        self._ends.clear()
        self._owner.lost(self, error)

    @abstractmethod
    def _say_goodbye(self) -> None:
        """Send what has collected (a GOAWAY, say, that explains this end), then TLS's own end, as far as possible."""
