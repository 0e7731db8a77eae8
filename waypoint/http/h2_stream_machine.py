"""One stream of an HTTP/2 connection, as both roles need it: sending within windows, giving windows back, lengths."""

from __future__ import annotations

from mesh.hbone.codec import ErrorCode
from mesh.hbone.contract import HboneStream
from waypoint.http.h2_header_codec import MalformedMessage, encode_fields, read_fields
from waypoint.http.h2_machine import Fields, Http2Machine, StreamParty
from waypoint.http.message import Headers, first
from waypoint.wire.contract import Wire

_NO_PSEUDO: frozenset[bytes] = frozenset()


class H2Link:
    """A connection, as its streams see it."""

    __slots__ = ("_receiving", "dirty", "machine", "moved", "touched", "wire")

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.machine: Http2Machine
        self.dirty = False
        self.moved = 0
        self.touched: list[H2Stream] = []
        """Streams that were told something while the bytes at hand were read."""
        self._receiving = False

    def output(self) -> None:
        """There is something to write: at the end of the turn, together with what others have to say."""
        if not self.dirty:
            self.dirty = True
            self.wire.later(self)

    def tell_touched(self) -> None:
        """Tell each stream that has received something that the bytes at hand are used up, once."""
        touched, self.touched = self.touched, []
        for stream in dict.fromkeys(touched):
            if not stream.over:
                stream.told()

    def flush(self) -> None:
        """Write (``waypoint.wire.contract.Flushable``)."""
        self.dirty = False
        outgoing = self.machine.outgoing
        if outgoing and not self.wire.closed and not self.wire.congested:
            self.moved += 1
            self.wire.write(outgoing)
            outgoing.clear()

    # -- the machine (ConnectionOwner), as far as both roles are alike -----------------------------------------------

    def stream_requested(self, stream: HboneStream, headers: list[tuple[str, str]]) -> None:
        """HBONE's form of a request: does not come."""
        raise NotImplementedError

    def ping_answered(self, payload: bytes) -> None:
        """None is sent."""

    def output_ready(self) -> None:
        """The machine has something to send."""
        if not self._receiving:
            self.output()

    def output_can_wait(self) -> None:
        """The machine has something to send that nobody waits for."""
        self.output_ready()


class H2Stream(StreamParty):
    """Sending and receiving the body of a message each."""

    __slots__ = (
        *("_backlog", "_finish_due", "_length", "_link", "_paused", "_received", "_trailers", "_unconsumed", "moved"),
        *("over", "stream"),
    )

    def __init__(self, link: H2Link) -> None:
        self._link = link
        self.stream: HboneStream
        self.over = False
        """Nobody is told anything any more."""
        self.moved = 0
        self._backlog: bytearray | None = None
        """Of the body, not admitted by windows yet."""
        self._finish_due = False
        self._trailers: Headers | None = None
        self._paused = False
        self._unconsumed = 0
        """Bytes passed on while paused: their window is given back when reading goes on."""
        self._length = -1
        """What ``content-length`` says is still to come; -1 if it says nothing."""
        self._received: Headers | None = None
        """Trailers."""

    # -- what the roles define ---------------------------------------------------------------------------------------

    def data(self, data: bytes) -> None:
        """Some of the body has arrived."""
        raise NotImplementedError

    def ended(self, trailers: Headers | None) -> None:
        """The peer's message is complete."""
        raise NotImplementedError

    def told(self) -> None:
        """The bytes at hand are used up."""
        raise NotImplementedError

    def writable(self) -> None:
        """All that waited was sent."""
        raise NotImplementedError

    def all_sent(self) -> None:
        """Our message is complete, and out."""

    def broken(self, reason: str) -> None:
        """The peer's message is malformed; the stream was reset."""
        raise NotImplementedError

    # -- sending -----------------------------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Send some of the body, or keep it until a window opens."""
        if self._backlog is not None:
            self._backlog += data
            return
        view = memoryview(data)
        sent = self._send(view)
        if sent < len(view):
            self._backlog = bytearray(view[sent:])

    def _send(self, view: memoryview) -> int:
        machine, stream = self._link.machine, self.stream
        position, end = 0, len(view)
        while position < end:
            size = machine.sendable(stream)
            if not size:
                break
            size = min(size, end - position)
            machine.send_data(stream, view[position : position + size], size)
            position += size
        self.moved += 1
        return position

    def send_finish(self, trailers: Headers | None) -> None:
        """End our message, after what waits."""
        if self._backlog is not None:
            self._finish_due = True
            self._trailers = trailers
            self._link.output()
            return
        if trailers:
            self._link.machine.send_head(self.stream, encode_fields(trailers), end=True)
        else:
            self._link.machine.end_with_data(self.stream)
        self.all_sent()
        self._link.output()

    @property
    def stuffed(self) -> bool:
        """What was sent last still waits."""
        return self._backlog is not None or self._link.wire.congested

    def stream_writable(self) -> None:
        """A window has opened (``StreamOwner``)."""
        backlog = self._backlog
        if backlog is None:
            return
        with memoryview(backlog) as view:
            sent = self._send(view)
        del backlog[:sent]
        self._link.output()
        if backlog:
            return
        self._backlog = None
        if self._finish_due:
            self._finish_due = False
            self.send_finish(self._trailers)
        elif not self.over:
            self.writable()

    # -- receiving ---------------------------------------------------------------------------------------------------

    def expect(self, headers: Headers) -> None:
        """Note the length that a head announces.

        Raises:
            MalformedMessage: it is no number, or there are two.
        """
        value = first(headers, b"content-length")
        if value is None:
            return
        if not value.isdigit() or len(value) > 18 or sum(name == b"content-length" for name, _ in headers) > 1:
            raise MalformedMessage("content-length")
        self._length = int(value)

    def stream_data(self, payload: memoryview) -> None:
        """Some of the body (``StreamOwner``)."""
        size = len(payload)
        self.moved += 1
        if self._length >= 0:
            self._length -= size
            if self._length < 0:
                self._break("more data than its content-length")
                return
        if not self.over:
            self._link.touched.append(self)
            self.data(bytes(payload))
        if self._paused:
            self._unconsumed += size
        else:
            self._link.machine.consumed(self.stream, size)

    def pause(self) -> None:
        """Let the peer send no more than its window."""
        self._paused = True

    def resume(self) -> None:
        """Give back the window of what was passed on."""
        self._paused = False
        size, self._unconsumed = self._unconsumed, 0
        if size:
            self._link.machine.consumed(self.stream, size)
            self._link.output()

    def read_trailers(self, fields: Fields) -> None:
        """Keep the trailers; they are told with the message's end."""
        try:
            self._received = read_fields(fields, _NO_PSEUDO)[1]
        except MalformedMessage as error:
            self._break(str(error))

    def stream_ended(self) -> None:
        """The peer's message is complete (``StreamOwner``)."""
        if self._length > 0:
            self._break("less data than its content-length")
        elif not self.over:
            self.ended(self._received)

    def _break(self, reason: str) -> None:
        """The peer's message is malformed."""
        self._link.machine.reset_stream(self.stream, ErrorCode.PROTOCOL_ERROR)
        self._link.output()
        if not self.over:
            self.over = True
            self.broken(reason)

    def give_up(self, code: ErrorCode) -> None:
        """Reset the stream from here."""
        self.over = True
        self._link.machine.reset_stream(self.stream, code)
        self._link.output()
