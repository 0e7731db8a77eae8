"""HTTP/2 from clients: each stream is a request, its answers go out as windows allow."""

from __future__ import annotations

from typing import Final

from mesh.errors import MeshError
from mesh.hbone.codec import ErrorCode, error_name
from mesh.hbone.contract import HboneStream, Http2Violation, Role
from waypoint.http.contract import RequestSink, ServerOwner
from waypoint.http.h1_codec import valid_authority
from waypoint.http.h2_header_codec import MalformedMessage, encode_fields, read_fields
from waypoint.http.h2_machine import Fields, Http2Machine
from waypoint.http.h2_stream_machine import H2Link, H2Stream
from waypoint.http.limits import HttpLimits
from waypoint.http.message import Headers, RequestHead, ResponseHead, first
from waypoint.wire.contract import Buffer, Wire
from waypoint.wire.ending import end_within
from waypoint.wire.timers import Timer, Timers

_REQUEST_PSEUDO: Final = frozenset({b":method", b":scheme", b":path", b":authority"})
_UNREAD: Final = 16 * 1024 * 1024
"""Bytes that may wait for a client that asks and asks, and does not read."""
STATUS: Final = {status: b"%d" % status for status in range(100, 1000)}


class H2Responder(H2Stream):
    """One request's stream."""

    __slots__ = ("_connection", "_no_body", "moved_before", "sink")

    def __init__(self, connection: H2ServerMachine, stream: HboneStream) -> None:
        super().__init__(connection)
        self._connection = connection
        self._no_body = False
        self.stream = stream
        self.sink: RequestSink | None = None
        self.moved_before = -1

    # -- the request (H2Stream) --------------------------------------------------------------------------------------

    def begin(self, fields: Fields, *, end: bool) -> None:
        """Read the head, and pass the request on."""
        connection, limits = self._connection, self._connection.limits
        try:
            head = read_request(fields)
            self.expect(head.headers)
            if end and self._length > 0:
                raise MalformedMessage("a length without a body")
        except MalformedMessage as error:
            self.over = True
            connection.machine.reset_stream(self.stream, ErrorCode.PROTOCOL_ERROR)
            connection.owner.refused(400, str(error))
            return
        if len(fields) > limits.headers or len(head.path) > limits.target_bytes:
            status = 431 if len(fields) > limits.headers else 414
            self.over = True
            connection.owner.refused(status, "the request's head is too large")
            connection.machine.send_head(self.stream, encode_fields([(b":status", STATUS[status])]), end=True)
            if not end:
                connection.machine.reset_stream(self.stream, ErrorCode.NO_ERROR)
            return
        self._no_body = head.method == b"HEAD"
        sink = connection.owner.request(self, head, end=end, version="2")
        if not self.over:
            self.sink = sink

    def stream_head(self, fields: Fields, *, end: bool) -> None:
        """Trailers."""
        self.read_trailers(fields)

    def data(self, data: bytes) -> None:
        """See :class:`H2Stream`."""
        if self.sink is not None:
            self.sink.request_data(data)

    def ended(self, trailers: Headers | None) -> None:
        """See :class:`H2Stream`."""
        if self.sink is not None:
            self.sink.request_end(trailers)

    def told(self) -> None:
        """See :class:`H2Stream`."""
        if self.sink is not None:
            self.sink.request_flush()

    def writable(self) -> None:
        """See :class:`H2Stream`."""
        if self.sink is not None:
            self.sink.client_writable()

    def broken(self, reason: str) -> None:
        """See :class:`H2Stream`."""
        self.lose(reason, violation=True)

    def stream_reset(self, code: int) -> None:
        """The client gave the request up, or broke the stream's rules."""
        violation = code not in (ErrorCode.CANCEL, ErrorCode.NO_ERROR, ErrorCode.INTERNAL_ERROR)
        self.lose(f"the client reset the request ({error_name(code)})", violation=violation)

    def lose(self, reason: str, *, violation: bool) -> None:
        """There will be no answer."""
        sink, self.sink = self.sink, None
        self.over = True
        self._connection.stream_over()
        if sink is not None:
            sink.client_gone(reason, violation=violation)

    # -- the answer (Responder) --------------------------------------------------------------------------------------

    def informational(self, head: ResponseHead) -> None:
        """See :class:`Responder`."""
        if not self.over:
            block = encode_fields([(b":status", STATUS[head.status]), *head.headers])
            self._link.machine.send_head(self.stream, block, end=False)
            self._link.output()

    def respond(self, head: ResponseHead, *, end: bool) -> None:
        """See :class:`Responder`."""
        self.moved += 1
        self.stream.answered = True
        if self._no_body or head.status in (204, 304):
            self._no_body = end = True
        block = encode_fields([(b":status", STATUS[head.status]), *head.headers])
        self._link.machine.send_head(self.stream, block, end=end)

    def body(self, data: bytes) -> None:
        """See :class:`Responder`."""
        if data and not self._no_body:
            self.send(data)

    def flush(self) -> None:
        """See :class:`Responder`."""
        self._link.output()

    def finish(self, trailers: Headers | None) -> None:
        """See :class:`Responder`."""
        self.over = True
        self.sink = None
        self.send_finish(None if self._no_body else trailers)
        self._connection.stream_over()

    def all_sent(self) -> None:
        """See :class:`H2Stream`."""
        if not self.stream.remote_ended:
            # Answered early: the rest of the request is not wanted (RFC 9113 section 8.1).
            self._link.machine.reset_stream(self.stream, ErrorCode.NO_ERROR)

    def abort(self, reason: str) -> None:
        """See :class:`Responder`."""
        self.sink = None
        self.give_up(ErrorCode.INTERNAL_ERROR)
        self._connection.stream_over()

    @property
    def congested(self) -> bool:
        """See :class:`Responder`."""
        return self.stuffed


def read_request(fields: Fields) -> RequestHead:
    """A request's head.

    Raises:
        MalformedMessage: it is not to be passed on (RFC 9113 section 8.3.1).
    """
    control, headers = read_fields(fields, _REQUEST_PSEUDO)
    method, path = control.get(b":method", b""), control.get(b":path", b"")
    scheme, authority = control.get(b":scheme", b""), control.get(b":authority", b"")
    host = first(headers, b"host")
    if host is not None:
        headers = [header for header in headers if header[0] != b"host"]
        if authority and authority != host:
            raise MalformedMessage("host and :authority differ")
        authority = host
    if not valid_authority(authority):
        raise MalformedMessage("no authority")
    if method == b"CONNECT":
        if path or scheme or b":" not in authority:
            raise MalformedMessage("a CONNECT with a path, or without a port")
        return RequestHead(method=method, path=b"", authority=authority, headers=headers)
    if not method or scheme not in (b"http", b"https") or not method.isalpha():
        raise MalformedMessage("no method or scheme")
    if path[:1] != b"/" and not (path == b"*" and method == b"OPTIONS"):
        raise MalformedMessage("a path that is none")
    if b"#" in path or b" " in path or min(path) < 33 or max(path) > 126:
        raise MalformedMessage("a path with a character that is not allowed there")
    return RequestHead(method=method, path=path, authority=authority, scheme=scheme, headers=headers)


class H2ServerMachine(H2Link):
    """One client connection."""

    __slots__ = (
        *(
            "_draining",
            "_head_timer",
            "_idle_since",
            "_leftover",
            "_look_timer",
            "_moved_before",
            "_over",
        ),
        *("_refill_at", "_timers", "limits", "owner"),
    )

    def __init__(self, wire: Wire, timers: Timers, limits: HttpLimits, owner: ServerOwner) -> None:
        """The caller attaches it to the wire."""
        super().__init__(wire)
        self._timers = timers
        self.limits = limits
        self.owner = owner
        self._leftover = b""
        self._draining = False
        self._over = False
        self._refill_at = 0.0
        self._idle_since = timers.clock()
        self._head_timer: Timer | None = timers.after(limits.head_seconds, self._head_too_slow)
        self._look_timer = timers.after(min(limits.idle_seconds, limits.stall_seconds), self._look)
        self.machine = Http2Machine(Role.SERVER, self, limits)
        self.output()

    # -- the wire (WireOwner) ----------------------------------------------------------------------------------------

    def wire_data(self, data: Buffer) -> None:
        """Read frames, and act on them."""
        if self._over:
            return
        self.moved += 1
        now = self._timers.clock()
        if now >= self._refill_at:
            self._refill_at = now + 1.0
            self.machine.refill_budget()
        if self._leftover:
            data = self._leftover + bytes(data)
        view = memoryview(data)
        self._receiving = True
        try:
            taken = self.machine.receive(view, len(view))
        except Http2Violation as violation:
            self._violated(violation)
            return
        finally:
            self._receiving = False
        self._leftover = bytes(view[taken:])
        self._watch_head()
        self.tell_touched()
        if self.machine.outgoing:
            self.output()
            if len(self.machine.outgoing) > _UNREAD:
                self._violated(Http2Violation(ErrorCode.ENHANCE_YOUR_CALM, "the client reads nothing"))
        self._maybe_leave()

    def _watch_head(self) -> None:
        """A head that does not end, or a preface that does not come, has its time."""
        if self.machine.in_head:
            if self._head_timer is None:
                self._head_timer = self._timers.after(self.limits.head_seconds, self._head_too_slow)
        elif self._head_timer is not None:
            self._timers.cancel(self._head_timer)
            self._head_timer = None

    def _violated(self, violation: Http2Violation) -> None:
        """The client broke HTTP/2: say so, and end everything."""
        self.machine.go_away(violation.code)
        self.flush()
        if not self.machine.streams:
            self.owner.refused(400, str(violation))
        self._lose_all(str(violation), violation=True)
        end_within(self.wire, self._timers, self.limits.head_seconds)
        self._finish()

    def wire_ended(self) -> None:
        """The client has closed; nobody waits for answers."""
        self._lose_all("the client closed the connection", violation=False)
        end_within(self.wire, self._timers, self.limits.head_seconds)
        self._finish()

    def wire_lost(self, error: MeshError | None) -> None:
        """The connection is gone."""
        reason = "the client's connection was lost" if error is None else str(error)
        self._lose_all(reason, violation=False)
        self._finish()

    def wire_writable(self) -> None:
        """The client has taken all there was."""
        self.flush()
        for stream in list(self.machine.streams.values()):
            party = stream.owner
            if isinstance(party, H2Responder) and not party.stuffed and not party.over:
                party.writable()
        self._maybe_leave()

    # -- the machine (ConnectionOwner) -------------------------------------------------------------------------------

    def head_received(self, stream: HboneStream, fields: Fields, *, end: bool) -> None:
        """A request."""
        responder = H2Responder(self, stream)
        stream.owner = responder
        responder.begin(fields, end=end)

    def going_away(self, last_stream: int, code: int) -> None:
        """The client opens no more streams."""
        self._draining = True

    # -- deadlines and the end ---------------------------------------------------------------------------------------

    def under_way(self) -> list[RequestSink]:
        """The requests under way."""
        parties = [stream.owner for stream in self.machine.streams.values()]
        return [party.sink for party in parties if isinstance(party, H2Responder) and party.sink is not None]

    def drain(self) -> None:
        """Take no new requests, after a moment in which those that are on their way are still taken."""
        if self._draining or self._over:
            return
        self._draining = True
        self.machine.announce_going_away()
        self._timers.after(self.limits.linger_seconds, self._stop_taking)

    def _stop_taking(self) -> None:
        if not self._over:
            self.machine.go_away()
            self._maybe_leave()

    def stream_over(self) -> None:
        """A request is over."""
        self._idle_since = self._timers.clock()
        if not self._receiving:
            self._maybe_leave()

    def _maybe_leave(self) -> None:
        over = self._draining and self.machine.draining and not self.machine.streams
        if over and not self._over and not self.wire.congested:
            self.flush()
            end_within(self.wire, self._timers, self.limits.head_seconds)
            self._finish()

    def _head_too_slow(self) -> None:
        self._head_timer = None
        if not self._over and self.machine.in_head:
            self._violated(Http2Violation(ErrorCode.ENHANCE_YOUR_CALM, "a request's head took too long"))

    def _look(self) -> None:
        """Now and then: is this connection of use, and does each of its requests move?"""
        if self._over:
            return
        wait = self.limits.stall_seconds
        if self.machine.streams:
            for stream in list(self.machine.streams.values()):
                party = stream.owner
                if isinstance(party, H2Responder):
                    if party.moved == party.moved_before:
                        self._stalled(party)
                    party.moved_before = party.moved
        else:
            left = self._idle_since + self.limits.idle_seconds - self._timers.clock()
            if left <= 0:
                self._draining = True
                self.machine.go_away()
                self._maybe_leave()
            wait = min(max(left, 0.01), wait)
        if not self._over:
            self._look_timer = self._timers.after(wait, self._look)

    def _stalled(self, party: H2Responder) -> None:
        if party.sink is not None:
            party.sink.stalled()
        else:
            party.give_up(ErrorCode.CANCEL)  # answered, and the client does not take it

    def _lose_all(self, reason: str, *, violation: bool) -> None:
        for stream in list(self.machine.streams.values()):
            party = stream.owner
            if isinstance(party, H2Responder) and not party.over:
                party.lose(reason, violation=violation)
        self.machine.streams.clear()

    def _finish(self) -> None:
        if self._over:
            return
        self._over = True
        self._timers.cancel(self._look_timer)
        if self._head_timer is not None:
            self._timers.cancel(self._head_timer)
        self.owner.connection_over()
