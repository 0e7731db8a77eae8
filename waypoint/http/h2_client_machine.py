"""HTTP/2 to endpoints: many requests at a time on one connection."""

from __future__ import annotations

from typing import Final, Protocol

from mesh.errors import MeshError
from mesh.hbone.codec import ErrorCode, error_name
from mesh.hbone.contract import HboneStream, Http2Violation, Role
from waypoint.http.contract import Failure, FailureKind, ResponseSink
from waypoint.http.h2_header_codec import MalformedMessage, encode_fields, read_fields
from waypoint.http.h2_machine import Fields, Http2Machine
from waypoint.http.h2_stream_machine import H2Link, H2Stream
from waypoint.http.limits import HttpLimits
from waypoint.http.message import Headers, RequestHead, ResponseHead
from waypoint.wire.contract import Buffer, Wire
from waypoint.wire.ending import end_or_reset
from waypoint.wire.timers import Timers

_RESPONSE_PSEUDO: Final = frozenset({b":status"})


class H2ClientOwner(Protocol):
    """The pool that a connection belongs to."""

    def stream_free(self, machine: H2ClientMachine) -> None:
        """A request is over, or the peer admits more of them."""
        ...

    def h2_connection_gone(self, machine: H2ClientMachine) -> None:
        """The connection takes no new requests any more; maybe it has ended."""
        ...


class H2Call(H2Stream):
    """One request's stream."""

    __slots__ = ("_connection", "_no_body", "_request_done", "sink")

    def __init__(self, connection: H2ClientMachine, sink: ResponseSink) -> None:
        super().__init__(connection)
        self._connection = connection
        self.sink = sink
        self._no_body = False
        self._request_done = False

    # -- the request (Call) ------------------------------------------------------------------------------------------

    def send_head(self, head: RequestHead, *, end: bool) -> None:
        """See :class:`Call`."""
        self._no_body = head.method == b"HEAD"
        self._request_done = end
        if head.method == b"CONNECT":
            fields = [(b":method", b"CONNECT"), (b":authority", head.authority)]
        else:
            fields = [
                (b":method", head.method),
                (b":scheme", head.scheme),
                (b":authority", head.authority),
                (b":path", head.path),
            ]
        connection = self._connection
        self.stream = connection.machine.request(encode_fields(fields + head.headers), self, end=end)
        connection.output()

    def send_data(self, data: bytes) -> None:
        """See :class:`Call`."""
        if data and not self.over:
            self.send(data)

    def send_end(self, trailers: Headers | None) -> None:
        """See :class:`Call`."""
        self._request_done = True
        if not self.over:
            self.send_finish(trailers)

    def flush(self) -> None:
        """See :class:`Call`."""
        self._link.output()

    def cancel(self) -> None:
        """See :class:`Call`."""
        if not self.over:
            self.give_up(ErrorCode.CANCEL)
            self._connection.call_over()

    @property
    def congested(self) -> bool:
        """See :class:`Call`."""
        return self.stuffed

    # -- the answer (H2Stream) ---------------------------------------------------------------------------------------

    def stream_head(self, fields: Fields, *, end: bool) -> None:
        """An answer's head, interim or final, or trailers."""
        if self.over:
            return
        if self.stream.answered:
            self.read_trailers(fields)
            return
        try:
            control, headers = read_fields(fields, _RESPONSE_PSEUDO)
            text = control.get(b":status", b"")
            if len(text) != 3 or not text.isdigit() or text < b"100" or text == b"101":
                raise MalformedMessage("the status")
            if len(headers) > self._connection.limits.headers:
                raise MalformedMessage("too many headers")
            status = int(text)
            if status < 200:
                if end:
                    raise MalformedMessage("an interim answer that ends")
                self.sink.response_informational(ResponseHead(status=status, headers=headers))
                return
            self.expect(headers)
            if self._no_body or status in (204, 304):
                self._length = 0
            if end and self._length > 0:
                raise MalformedMessage("a length without a body")
        except MalformedMessage as error:
            self._break(f"malformed: {error}")
            return
        self.stream.answered = True
        if end:
            # Passed on as such: to gRPC's clients a head that ends is another thing than one before an empty body.
            self._end_call()
        else:
            self._link.touched.append(self)
        self.sink.response_head(ResponseHead(status=status, headers=headers), end=end)

    def data(self, data: bytes) -> None:
        """See :class:`H2Stream`."""
        self.sink.response_data(data)

    def ended(self, trailers: Headers | None) -> None:
        """See :class:`H2Stream`."""
        self._end_call()
        self.sink.response_end(trailers)

    def _end_call(self) -> None:
        self.over = True
        if not self._request_done or self._backlog is not None:
            # Answered early: what is left of the request is not sent.
            self._link.machine.reset_stream(self.stream, ErrorCode.NO_ERROR)
        self._connection.call_over()

    def told(self) -> None:
        """See :class:`H2Stream`."""
        self.sink.response_flush()

    def writable(self) -> None:
        """See :class:`H2Stream`."""
        self.sink.upstream_writable()

    def broken(self, reason: str) -> None:
        """See :class:`H2Stream`."""
        self._connection.call_over()
        self.sink.call_failed(Failure(FailureKind.PROTOCOL, reason))

    def stream_reset(self, code: int) -> None:
        """The endpoint gave the request up, or broke the stream's rules."""
        if self.over:
            return
        refused = code == ErrorCode.REFUSED_STREAM and not self.stream.answered
        kind = FailureKind.REFUSED if refused else FailureKind.RESET
        self.fail(Failure(kind, f"the endpoint reset the request ({error_name(code)})"))

    def fail(self, failure: Failure) -> None:
        """There will be no (whole) answer."""
        if not self.over:
            self.over = True
            self._connection.call_over()
            self.sink.call_failed(failure)


class H2ClientMachine(H2Link):
    """One connection to an endpoint."""

    __slots__ = (
        *("_freed", "_gone", "_leftover", "_owner", "_refill_at", "_retired", "_timers"),
        *("calls", "idle_since", "limits", "requests"),
    )

    def __init__(self, wire: Wire, timers: Timers, limits: HttpLimits, owner: H2ClientOwner) -> None:
        """The caller attaches it to the wire."""
        super().__init__(wire)
        self._timers = timers
        self.limits = limits
        self._owner = owner
        self._leftover = b""
        self._refill_at = 0.0
        self._freed = False
        """Requests have ended while the bytes at hand were read."""
        self._gone = False
        self._retired = False
        self.requests = 0
        self.calls = 0
        """Under way."""
        self.idle_since = timers.clock()
        self.machine = Http2Machine(Role.CLIENT, self, limits)
        self.output()

    @property
    def free(self) -> bool:
        """Whether it takes another request now."""
        return not self._retired and not self.wire.closed and self.machine.free_streams > self._unsent

    @property
    def _unsent(self) -> int:
        """Calls begun whose head is not sent yet: they have no stream so far."""
        return max(0, self.calls - len(self.machine.streams))

    def begin(self, sink: ResponseSink) -> H2Call:
        """Take a stream for one request; ``send_head`` follows at once."""
        self.calls += 1
        self.requests += 1
        return H2Call(self, sink)

    def call_over(self) -> None:
        """A call is over."""
        self.calls -= 1
        if not self.calls:
            self.idle_since = self._timers.clock()
        if self._receiving:
            self._freed = True  # its stream counts until the machine has dealt with the frame at hand
        elif self._retired and not self.calls:
            self._leave()
        else:
            self._owner.stream_free(self)

    def retire(self) -> None:
        """Take no new requests; close when those under way are over."""
        if not self._retired:
            self._retired = True
            self._owner.h2_connection_gone(self)
        if not self.calls:
            self._leave()

    def _leave(self) -> None:
        if self._gone:
            return
        self._gone = True
        self.machine.go_away()
        self.flush()
        end_or_reset(self.wire)

    # -- the wire (WireOwner) ----------------------------------------------------------------------------------------

    def wire_data(self, data: Buffer) -> None:
        """Read frames, and act on them."""
        if self._gone:
            return
        now = self._timers.clock()
        if now >= self._refill_at:
            self._refill_at = now + 1.0
            self.machine.refill_budget()
        if self._leftover:
            data = self._leftover + bytes(data)
        view = memoryview(data)
        before = self.machine.peer_max_streams
        self._receiving = True
        try:
            taken = self.machine.receive(view, len(view))
        except Http2Violation as violation:
            self.machine.go_away(violation.code)
            self.flush()
            self._end(Failure(FailureKind.PROTOCOL, str(violation)))
            return
        finally:
            self._receiving = False
        self._leftover = bytes(view[taken:])
        self.tell_touched()
        if self.machine.outgoing:
            self.output()
        if self._retired and not self.calls:
            self._leave()
        elif self._freed or self.machine.peer_max_streams > before:
            self._freed = False
            self._owner.stream_free(self)

    def wire_ended(self) -> None:
        """The endpoint has closed."""
        self._end(Failure(FailureKind.LOST, "the endpoint closed the connection"))

    def wire_lost(self, error: MeshError | None) -> None:
        """The connection is gone."""
        text = "the endpoint's connection was lost" if error is None else str(error)
        self._end(Failure(FailureKind.LOST, text))

    def _end(self, failure: Failure) -> None:
        self._gone = True
        if not self._retired:
            self._retired = True
            self._owner.h2_connection_gone(self)
        end_or_reset(self.wire)
        streams = list(self.machine.streams.values())
        self.machine.streams.clear()
        for stream in streams:
            if isinstance(stream.owner, H2Call):
                stream.owner.fail(failure)

    def wire_writable(self) -> None:
        """The endpoint has taken all there was."""
        self.flush()
        for stream in list(self.machine.streams.values()):
            party = stream.owner
            if isinstance(party, H2Call) and not party.stuffed and not party.over:
                party.writable()

    # -- the machine (ConnectionOwner) -------------------------------------------------------------------------------

    def head_received(self, stream: HboneStream, fields: Fields, *, end: bool) -> None:
        """Requests come to servers only."""
        raise NotImplementedError

    def going_away(self, last_stream: int, code: int) -> None:
        """The endpoint takes no new requests; those under way go on."""
        if not self._retired:
            self._retired = True
            self._owner.h2_connection_gone(self)
