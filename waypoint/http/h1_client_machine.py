"""HTTP/1.1 to endpoints: one request at a time on a connection, and its answer.

As on the server's side, llhttp's callbacks only note what there is; when it has returned, it is told to the sink. A
connection is used again when both messages were complete and framed, and nothing came that nobody has asked for.
"""

from __future__ import annotations

from typing import Protocol

import httptools

from mesh.errors import MeshError
from waypoint.http.contract import UNWANTED, Failure, FailureKind, ResponseSink
from waypoint.http.h1_codec import RESPONSE_SPECIAL, BadHead, connection_tokens, without_named
from waypoint.http.h1_plain_codec import plain_response_at
from waypoint.http.h1_request_machine import EndEvent
from waypoint.http.h1_sending_machine import H1Sending
from waypoint.http.limits import HttpLimits
from waypoint.http.message import Headers, ResponseHead
from waypoint.wire.contract import Buffer, Wire
from waypoint.wire.ending import end_or_reset


class ClientOwner(Protocol):
    """The pool that a connection belongs to."""

    def call_over(self, machine: H1ClientMachine) -> None:
        """The connection can carry another request."""
        ...

    def connection_gone(self, machine: H1ClientMachine) -> None:
        """The connection has ended, or is of no more use."""
        ...


class H1ClientMachine(H1Sending):
    """One connection to an endpoint."""

    __slots__ = (
        *("_closed_ends", "_connection", "_end_noted", "_events", "_fed", "_gone", "_headers", "_in_head"),
        *("_keep_alive", "_length", "_limits", "_owner", "_parser", "_parsing", "_plain_from", "_plain_left"),
        *("_refusal", "_replace_parser", "_response_begun", "_sink", "_te", "_trailers", "_upgrade", "idle_since"),
        *("in_call", "requests"),
    )

    def __init__(self, wire: Wire, limits: HttpLimits, owner: ClientOwner) -> None:
        """The caller attaches it to the wire."""
        super().__init__(wire)
        self._limits = limits
        self._owner = owner
        self._gone = False
        self.in_call = False
        """Between ``begin`` and the pool's ``call_over``."""
        self.requests = 0
        """How many were sent."""
        self.idle_since = 0.0
        """For the pool."""
        # The request under way.
        self._sink: ResponseSink | None = None
        # The answer.
        self._parser = httptools.HttpResponseParser(self)
        self._end_noted = False
        """The parser has seen all of the answer."""
        self._events: list[ResponseHead | bytes | EndEvent] = []
        self._response_begun = False
        """Some of it has arrived."""
        self._in_head = True
        self._fed = 0
        self._headers: Headers = []
        self._trailers: Headers | None = None
        self._connection: bytes | None = None
        self._te: bytes | None = None
        self._upgrade: bytes | None = None
        self._length = -1
        self._keep_alive = True
        self._closed_ends = False
        """The body ends with the connection."""
        self._replace_parser = False
        self._refusal: str | None = None
        self._parsing = False
        """The parser is in the midst of an answer."""
        self._plain_left = 0
        """Of an answer whose head needed no parser: bytes that are to come."""
        self._plain_from = 0
        """Where its body begins in the bytes at hand."""

    @property
    def busy(self) -> bool:
        """A request is under way."""
        return self._sink is not None

    def begin(self, sink: ResponseSink) -> None:
        """Take the connection for one request; ``send_head`` follows."""
        self._sink = sink
        self.in_call = True
        self.requests += 1
        self._request_done = False
        self._response_begun = False
        self._end_noted = False
        self._keep_alive = True

    # -- requests (Call) ---------------------------------------------------------------------------------------------

    def cancel(self) -> None:
        """See :class:`Call`. HTTP/1.1 has no other way than to end the connection, unless the whole answer is here."""
        if self._end_noted and self._request_done:
            self._sink = UNWANTED
            return
        self._sink = None
        self._drop(reset=True)

    @property
    def congested(self) -> bool:
        """See :class:`Call`."""
        return self._wire.congested

    def pause(self) -> None:
        """See :class:`Call`."""
        self._wire.pause()

    def resume(self) -> None:
        """See :class:`Call`."""
        if not self._gone:
            self._wire.resume()

    # -- the wire (WireOwner) ----------------------------------------------------------------------------------------

    def wire_data(self, data: Buffer) -> None:
        """Parse, and tell what has come."""
        if self._sink is None:
            # Said unasked: a 408 before it closes, or the rest of something. No request may be answered with it.
            self._drop(reset=False)
            return
        if self._tunnel:
            self._sink.response_data(bytes(data))
            if self._sink is not None:
                self._sink.response_flush()
            return
        if self._plain_left or (not self._parsing and self._in_head and self._plain_head(data)):
            self._take_plain(data)
            return
        self._response_begun = True
        if self._in_head:
            self._fed += len(data)
        rest = b""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            rest = bytes(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            if self._refusal is None and isinstance(error, httptools.HttpParserCallbackError):
                raise  # a bug of ours
            if self._refusal is None:
                self._refusal = str(error)
        if self._in_head and self._fed > self._limits.head_bytes:
            self._refusal = "the answer's head is too large"
        self._tell(rest)

    def _plain_head(self, data: Buffer) -> bool:
        """Whether this begins with a whole head that needs no parser; it is noted then, and the body that follows."""
        if self._head_method or self._upgrade_asked or self._connect:
            return False
        plain = plain_response_at(data, self._limits.head_bytes)
        if plain is None or plain.status in (204, 304) or len(plain.headers) > self._limits.headers:
            return False
        self._closed_ends = False
        self._events.append(ResponseHead(status=plain.status, headers=plain.headers))
        self._plain_left = plain.size + plain.length
        self._plain_from = plain.size
        return True

    def _take_plain(self, data: Buffer) -> None:
        """Some of a message whose length is known."""
        self._response_begun = True
        events, size, start, left = self._events, len(data), self._plain_from, self._plain_left
        self._plain_from = 0
        self._plain_left = left - min(left, size)
        if min(left, size) > start:
            events.append(bytes(data[start:left]))
        if not self._plain_left:
            events.append(EndEvent(None))
            if size > left:
                events.append(b"")  # more than the answer
        self._tell(b"")

    def _tell(self, rest: bytes) -> None:
        """Pass on what the parser has noted."""
        events, self._events = self._events, []
        self._end_noted = bool(events) and isinstance(events[-1], EndEvent)
        for event in events:
            sink = self._sink
            if sink is None:
                self._drop(reset=False)  # more than one answer, or the exchange has given up
                return
            if isinstance(event, bytes):
                sink.response_data(event)
            elif isinstance(event, EndEvent):
                self._over(event.trailers, sink, last=event is events[-1])
            elif event.status >= 200:
                # What the parser takes for a body that ends with the connection are the tunnel's first bytes.
                self._tunnel = self._connect and event.status < 300
                sink.response_head(event, end=False)
            elif event.status == 101:
                if not self._upgrade_asked:
                    self._refusal = "the endpoint changes to another protocol unasked"
                    break
                self._tunnel = True
                self._chunked_out = False
                sink.response_head(event, end=False)
                if rest and self._sink is not None:
                    self._sink.response_data(rest)
            else:
                sink.response_informational(event)
        sink = self._sink
        if self._refusal is not None:
            self._sink = None
            self._drop(reset=True)
            if sink is not None:
                sink.call_failed(Failure(FailureKind.PROTOCOL, self._refusal))
        elif sink is not None:
            sink.response_flush()

    def _over(self, trailers: Headers | None, sink: ResponseSink, *, last: bool) -> None:
        """The answer is complete. What came behind it (not ``last``) must not answer the next request."""
        self._sink = None
        if self._replace_parser:
            self._replace_parser = False
            self._parser = httptools.HttpResponseParser(self)
            self._parsing = False
            self._in_head = True
        reusable = last and self._request_done and self._keep_alive and not self._gone and self._refusal is None
        reusable = reusable and not self._parsing
        # The pool first: the exchange may want a connection for the next request of its client.
        if not reusable:
            self._drop(reset=False)
        elif not self._wire.congested:
            self.in_call = False
            self._owner.call_over(self)
        else:
            self._drop(reset=False)
        sink.response_end(trailers)

    def wire_ended(self) -> None:
        """The endpoint sends no more."""
        sink = self._sink
        if self._tunnel and sink is not None:
            self._sink = None
            if self._request_done:
                self._drop(reset=False)
            sink.response_end(None)
            return
        self._wire_over("the endpoint closed the connection")

    def wire_lost(self, error: MeshError | None) -> None:
        """The connection is gone."""
        self._wire_over("the endpoint's connection was lost" if error is None else str(error), cut=error is not None)

    def _wire_over(self, reason: str, *, cut: bool = False) -> None:
        sink, self._sink = self._sink, None
        # A body that ends with its connection is whole only if that has ended as it should.
        whole = self._closed_ends and not self._in_head and not cut
        self._drop(reset=False)
        if sink is None:
            return
        if whole:
            sink.response_end(None)
        else:
            stale = self.requests > 1 and not self._response_begun
            sink.call_failed(Failure(FailureKind.LOST, reason, stale))

    def wire_writable(self) -> None:
        """The endpoint has taken all there was."""
        if self._sink is not None:
            self._sink.upstream_writable()

    def close(self) -> None:
        """End an idle connection."""
        self._drop(reset=False)

    def _drop(self, *, reset: bool) -> None:
        """The connection is of no more use."""
        if self._gone:
            return
        self._gone = True
        if reset:
            self._wire.reset()
        else:
            end_or_reset(self._wire)
        self._owner.connection_gone(self)

    # -- what the parser calls ---------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """The first byte of an answer; of one that nobody has asked for, if the one before is over."""
        self._parsing = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer."""
        name = name.lower()
        value = value.rstrip(b" \t")
        if not self._in_head:
            if name not in RESPONSE_SPECIAL:
                if self._trailers is None:
                    self._trailers = []
                self._trailers.append((name, value))
        elif name not in RESPONSE_SPECIAL:
            self._headers.append((name, value))
        elif name == b"content-length":
            self._length = int(value)
            self._headers.append((name, value))
        elif name == b"connection":
            self._connection = value if self._connection is None else self._connection + b"," + value
        elif name == b"transfer-encoding":
            self._te = value if self._te is None else self._te + b"," + value
        elif name == b"upgrade":
            self._upgrade = value

    def on_headers_complete(self) -> None:
        """A whole head: check it, and note it."""
        parser, headers = self._parser, self._headers
        status = parser.get_status_code()
        if len(headers) > self._limits.headers:
            raise self._refuse("too many headers in the answer")
        if not 100 <= status <= 999:
            raise self._refuse(f"status {status}")
        if self._connection is not None:
            headers = without_named(headers, connection_tokens(self._connection))
        if status < 200:
            if status == 101 and self._upgrade is not None:
                headers.append((b"upgrade", self._upgrade))
        else:
            if self._te is not None and self._te.lower() != b"chunked":
                raise self._refuse("a transfer coding other than chunked in the answer")
            self._keep_alive = parser.should_keep_alive()
            bodyless = self._head_method or status in (204, 304)
            self._closed_ends = not bodyless and self._te is None and self._length < 0
            if self._closed_ends:
                self._keep_alive = False
        self._events.append(ResponseHead(status=status, headers=headers))
        self._in_head = False
        self._fed = 0
        self._headers = []
        self._connection = None
        self._upgrade = None
        if self._head_method and status >= 200:
            # The parser waits for a body now that a HEAD's answer has not: the next answer gets a new one.
            self._replace_parser = self._length > 0 or self._te is not None or self._length < 0
            if self._replace_parser:
                self._events.append(EndEvent(None))
        self._te = None
        self._length = -1

    def _refuse(self, text: str) -> BadHead:
        self._refusal = text
        return BadHead(502, text)

    def on_body(self, data: bytes) -> None:
        """Some of the body."""
        self._events.append(data)

    def on_message_complete(self) -> None:
        """The answer is complete, or an interim one."""
        self._parsing = False
        if self._replace_parser:
            return
        self._in_head = True
        last = self._events[-1] if self._events else None
        if not (isinstance(last, ResponseHead) and last.status < 200):
            self._events.append(EndEvent(self._trailers))
            self._trailers = None
