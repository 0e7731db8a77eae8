"""HTTP/1.1 and 1.0 from clients: a connection's requests in, their answers out, in order.

One exchange is under way at a time. What a client has sent behind it (pipelining) waits as the reader's events, and the
wire is paused meanwhile, so no more is kept than one read of the wire brings.
"""

from __future__ import annotations

from mesh.errors import MeshError
from waypoint.http.contract import RequestSink, ServerOwner
from waypoint.http.h1_codec import STATUS_LINES, BadHead, chunk, header_block, last_chunk
from waypoint.http.h1_request_machine import DataEvent, EndEvent, RequestEvent, RequestReader
from waypoint.http.limits import HttpLimits
from waypoint.http.message import Headers, ResponseHead
from waypoint.wire.contract import Buffer, Wire
from waypoint.wire.ending import end_within
from waypoint.wire.timers import Timer, Timers


class H1ServerMachine:
    """One client connection."""

    __slots__ = (
        *("_chunked", "_closing", "_connect", "_current", "_draining", "_head_sent", "_head_timer", "_http10"),
        *("_idle_since", "_keep_alive", "_limits", "_moved", "_moved_before", "_no_body", "_out", "_over", "_owner"),
        *("_paused", "_pumping", "_reader", "_request_done", "_response_done", "_sink", "_sink_paused", "_timer"),
        *("_timers", "_tunnel", "_wire", "requests"),
    )

    def __init__(self, wire: Wire, timers: Timers, limits: HttpLimits, owner: ServerOwner) -> None:
        """The caller attaches it to the wire."""
        self._wire = wire
        self._timers = timers
        self._limits = limits
        self._owner = owner
        self._reader = RequestReader(limits)
        self.requests = 0
        """How many were read."""
        self._draining = False
        self._over = False
        self._closing = False
        """All is said; input is dropped until the client has ended too, or for a moment."""
        self._pumping = False
        self._paused = False
        self._sink_paused = False
        # The exchange under way.
        self._sink: RequestSink | None = None
        self._current = False
        self._request_done = True
        self._response_done = True
        self._head_sent = False
        self._http10 = False
        self._keep_alive = True
        self._no_body = False
        self._connect = False
        self._chunked = False
        self._tunnel = False
        """Plain bytes both ways, after 101 or a CONNECT that was answered 2xx."""
        self._out: list[bytes] = []
        # Deadlines.
        self._moved = 0
        self._moved_before = -1
        self._idle_since = timers.clock()
        self._head_timer: Timer | None = None
        self._timer = timers.after(min(limits.idle_seconds, limits.stall_seconds), self._look)

    def under_way(self) -> list[RequestSink]:
        """The request under way, if there is one."""
        return [] if self._sink is None else [self._sink]

    def drain(self) -> None:
        """End the connection with the answer that says so, or once no request has come for a while."""
        self._draining = True
        self._timers.after(self._limits.farewell_seconds, self._leave_unused)

    def _leave_unused(self) -> None:
        if not (self._current or self._reader.events or self._closing or self._over):
            self._leave(linger=True)

    # -- input (WireOwner) -------------------------------------------------------------------------------------------

    def wire_data(self, data: Buffer) -> None:
        """Parse, and act on what is complete."""
        self._moved += 1
        if self._closing:
            return
        if self._tunnel:
            if self._sink is not None and not self._request_done:
                self._sink.request_data(bytes(data))
                self._sink.request_flush()
            return
        reader = self._reader
        reader.feed(data)
        if self._head_timer is not None:
            if not reader.head_bytes:
                self._timers.cancel(self._head_timer)
                self._head_timer = None
        elif reader.head_bytes and reader.in_head:
            self._head_timer = self._timers.after(self._limits.head_seconds, self._head_too_slow)
        self._pump()

    def wire_ended(self) -> None:
        """The client sends no more. In HTTP that means that it does not wait for an answer either."""
        if self._tunnel and self._sink is not None:
            self._request_done = True
            self._sink.request_end(None)
            self._end_tunnel()
        elif self._current:
            self._lose("the client closed the connection")
            self._wire.reset()
            self._finish()
        else:
            end_within(self._wire, self._timers, self._limits.head_seconds)
            self._finish()

    def wire_lost(self, error: MeshError | None) -> None:
        """The connection is gone."""
        self._lose("the client's connection was lost" if error is None else str(error))
        self._finish()

    def wire_writable(self) -> None:
        """The client has taken all there was."""
        self._moved += 1
        if self._sink is not None:
            self._sink.client_writable()

    # -- requests ----------------------------------------------------------------------------------------------------

    def _pump(self) -> None:
        """Act on what has arrived, as far as the exchange under way allows."""
        if self._pumping:
            return
        self._pumping = True
        events = self._reader.events
        try:
            while events and not self._closing and not self._over:
                event = events[0]
                if isinstance(event, RequestEvent):
                    if self._current:
                        break
                    events.popleft()
                    self._begin(event)
                elif isinstance(event, DataEvent):
                    events.popleft()
                    if self._sink is not None:
                        self._sink.request_data(event.data)
                elif isinstance(event, EndEvent):
                    events.popleft()
                    self._request_done = True
                    if self._sink is not None:
                        self._sink.request_end(event.trailers)
                else:
                    if self._current and self._request_done:
                        break
                    self._refuse(event)
            if self._sink is not None and not self._request_done:
                self._sink.request_flush()
        finally:
            self._pumping = False
        self._throttle()

    def _throttle(self) -> None:
        """Read no more while something waits: a request behind another, or an exchange that takes no more."""
        if self._over:
            return
        wait = bool(self._reader.events) or self._sink_paused or (self._reader.upgrade_pending and not self._tunnel)
        if self._closing:
            wait = False
        if wait != self._paused:
            self._paused = wait
            if wait:
                self._wire.pause()
            else:
                self._wire.resume()

    def _begin(self, event: RequestEvent) -> None:
        self.requests += 1
        self._current = True
        self._request_done = event.end
        self._response_done = False
        self._head_sent = False
        self._http10 = event.http10
        self._keep_alive = event.keep_alive
        self._no_body = event.head.method == b"HEAD"
        self._connect = event.head.method == b"CONNECT"
        self._chunked = False
        sink = self._owner.request(self, event.head, end=event.end, version="1.0" if event.http10 else "1.1")
        if self._current:  # else it was answered within that call
            self._sink = sink

    def _refuse(self, refusal: BadHead) -> None:
        """Answer what is no HTTP, and end the connection."""
        begun = self._current and self._head_sent
        if self._current:
            self._lose(str(refusal), violation=True)
        else:
            self._owner.refused(refusal.status, str(refusal))
        if begun:
            self._wire.reset()
            self._finish()
            return
        body = str(refusal).encode("ascii", "replace")
        self._wire.write(
            b"%bcontent-type: text/plain\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b"
            % (STATUS_LINES[refusal.status], len(body), body)
        )
        self._leave(linger=True)

    def _lose(self, reason: str, *, violation: bool = False) -> None:
        """There will be no answer for the exchange under way."""
        sink, self._sink = self._sink, None
        self._current = False
        self._out.clear()
        if sink is not None:
            sink.client_gone(reason, violation=violation)

    # -- answers (Responder) -----------------------------------------------------------------------------------------

    def informational(self, head: ResponseHead) -> None:
        """See :class:`Responder`; HTTP/1.0 does not know such answers."""
        if not self._http10:
            self._wire.write(STATUS_LINES[head.status] + header_block(head.headers) + b"\r\n")

    def respond(self, head: ResponseHead, *, end: bool) -> None:
        """See :class:`Responder`."""
        self._moved += 1
        self._head_sent = True
        status = head.status
        block = STATUS_LINES[status] + header_block(head.headers)
        if status == 101 or (self._connect and status < 300):
            self._respond_tunnel(block, status)
            return
        if self._no_body or status == 304 or status == 204:
            end = True
        elif block.find(b"\ncontent-length: ") < 0:
            if end:
                block += b"content-length: 0\r\n"
            elif self._http10:
                self._keep_alive = False
            else:
                self._chunked = True
                block += b"transfer-encoding: chunked\r\n"
        if not self._keep_alive or self._draining:
            self._keep_alive = False
            block += b"connection: close\r\n\r\n"
        elif self._http10:
            block += b"connection: keep-alive\r\n\r\n"
        else:
            block += b"\r\n"
        self._out.append(block)

    def _respond_tunnel(self, block: bytes, status: int) -> None:
        """From here on it is plain bytes."""
        self._tunnel = True
        self._request_done = False
        self._out.append(block + (b"connection: upgrade\r\n\r\n" if status == 101 else b"\r\n"))
        self.flush()
        self._throttle()
        if self._reader.rest and self._sink is not None:
            rest, self._reader.rest = self._reader.rest, bytearray()
            self._sink.request_data(bytes(rest))
            self._sink.request_flush()

    def body(self, data: bytes) -> None:
        """See :class:`Responder`."""
        if self._chunked:
            if data:
                self._out.append(chunk(data))
        elif not self._no_body:
            self._out.append(data)

    def flush(self) -> None:
        """See :class:`Responder`."""
        out = self._out
        if out:
            self._moved += 1
            self._wire.write(out[0] if len(out) == 1 else b"".join(out))
            out.clear()

    def finish(self, trailers: Headers | None) -> None:
        """See :class:`Responder`."""
        if self._chunked:
            self._out.append(last_chunk(trailers))
        self.flush()
        self._response_done = True
        if self._tunnel:
            self._wire.finish()
            self._end_tunnel()
            return
        self._sink = None
        self._current = False
        self._idle_since = self._timers.clock()
        self._sink_paused = False
        if not self._request_done and not self._rest_is_here():
            # The answer came early. What is still to come of the request would have to be read to find the next one.
            self._leave(linger=True)
        elif not self._keep_alive:
            self._leave(linger=False)
        else:
            if self._reader.upgrade_pending:
                self._reader.go_on()
            if self._draining:
                self._timers.after(self._limits.farewell_seconds, self._leave_unused)  # its head had said nothing yet
            if self._reader.events or self._paused:
                self._pump()

    def _rest_is_here(self) -> bool:
        """Drop what has arrived of a request that is answered already; whether that is all of it."""
        events = self._reader.events
        while events and isinstance(events[0], DataEvent | EndEvent):
            if isinstance(events.popleft(), EndEvent):
                self._request_done = True
                return True
        return False

    def _end_tunnel(self) -> None:
        if self._request_done and self._response_done:
            self._sink = None
            self._current = False
            end_within(self._wire, self._timers, self._limits.head_seconds)
            self._finish()

    def abort(self, reason: str) -> None:
        """See :class:`Responder`."""
        self._sink = None
        self._current = False
        self._wire.reset()
        self._finish()

    @property
    def congested(self) -> bool:
        """See :class:`Responder`."""
        return self._wire.congested

    def pause(self) -> None:
        """See :class:`Responder`."""
        self._sink_paused = True
        self._throttle()

    def resume(self) -> None:
        """See :class:`Responder`."""
        self._sink_paused = False
        if not self._pumping:
            self._throttle()

    # -- deadlines and the end ---------------------------------------------------------------------------------------

    def _head_too_slow(self) -> None:
        """A client that takes for ever to say what it wants."""
        self._head_timer = None
        if not self._closing and not self._over and self._reader.head_bytes:
            self._reader.events.append(BadHead(408, "the request's head took too long"))
            self._pump()

    def _look(self) -> None:
        """Now and then: is this connection of use?"""
        if self._over:
            return
        limits = self._limits
        wait = limits.stall_seconds
        if self._current:
            if self._moved == self._moved_before and self._sink is not None:
                self._sink.stalled()
            self._moved_before = self._moved
        else:
            left = self._idle_since + limits.idle_seconds - self._timers.clock()
            if left <= 0:
                self._leave(linger=True)
            wait = min(max(left, 0.01), wait)
        if not self._over:
            self._timer = self._timers.after(wait, self._look)

    def _leave(self, *, linger: bool) -> None:
        """End the connection from here."""
        if self._closing or self._over:
            return
        self._closing = True
        self._reader.events.clear()
        if linger and not self._wire.closed:
            self._wire.finish()
            self._throttle()
            self._timers.after(self._limits.linger_seconds, self._linger_over)
        else:
            end_within(self._wire, self._timers, self._limits.head_seconds)
            self._finish()

    def _linger_over(self) -> None:
        if not self._over:
            end_within(self._wire, self._timers, self._limits.head_seconds)
            self._finish()

    def _finish(self) -> None:
        """Tell the owner, once."""
        if self._over:
            return
        self._over = True
        self._timers.cancel(self._timer)
        if self._head_timer is not None:
            self._timers.cancel(self._head_timer)
        self._owner.connection_over()
