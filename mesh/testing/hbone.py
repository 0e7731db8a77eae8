"""Both ends of an HBONE connection without I/O: owners that record what the machine tells them, and send when they may.

An :class:`Endpoint` is a machine with its owner; bytes are carried by hand (``endpoint.feed(peer.take())``) or, until
both ends are quiet, by :func:`exchange`.
"""

from __future__ import annotations

from collections.abc import Callable

from mesh.hbone.codec import encode_response
from mesh.hbone.contract import HboneSettings, HboneStream, Role
from mesh.hbone.machine import HboneMachine


class RecordingStream:
    """One stream as its application sees it (a ``StreamOwner``)."""

    def __init__(self, machine: HboneMachine, *, consume: bool) -> None:
        self.machine = machine
        self.stream: HboneStream
        self.headers: list[tuple[str, str]] | None = None
        """The request's on a server, the response's on a client."""
        self.received = bytearray()
        self.ended = False
        self.resets: list[int] = []
        self.events_when_over = 0
        """Calls that came although the stream had been reset."""
        self.unconsumed = 0
        """Bytes received and not yet given back."""
        self.consume = consume
        """Give bytes back as soon as they arrive."""
        self._queue = bytearray()
        self._finish = False

    def send(self, data: bytes, *, end: bool = False) -> None:
        """Send as much as the windows admit now, the rest when they open."""
        self._queue += data
        self._finish = self._finish or end
        self._pump()

    @property
    def unsent(self) -> int:
        """Bytes that still wait for a window."""
        return len(self._queue)

    def give_back(self, size: int | None = None) -> None:
        """Consume ``size`` bytes, by default all."""
        size = self.unconsumed if size is None else min(size, self.unconsumed)
        self.unconsumed -= size
        self.machine.consumed(self.stream, size)

    def _pump(self) -> None:
        while self._queue and not self.resets:
            size = min(len(self._queue), self.machine.sendable(self.stream))
            if not size:
                return
            self.machine.send_data(self.stream, memoryview(bytes(self._queue[:size])), size)
            del self._queue[:size]
        if self._finish:
            self.machine.end_stream(self.stream)

    # -- StreamOwner

    def stream_answered(self, headers: list[tuple[str, str]]) -> None:
        """Keep the response."""
        assert self.headers is None, "a second response"
        self._count()
        self.headers = headers

    def stream_data(self, payload: memoryview) -> None:
        """Keep the payload."""
        assert not self.ended, "DATA after the end"
        self._count()
        self.received += payload
        self.unconsumed += len(payload)
        if self.consume:
            self.give_back()

    def stream_ended(self) -> None:
        """Note the half close."""
        assert not self.ended, "a second end"
        self._count()
        self.ended = True

    def stream_reset(self, code: int) -> None:
        """Note the code."""
        self._count()
        self.resets.append(code)

    def stream_writable(self) -> None:
        """Go on sending."""
        self._count()
        self._pump()

    def _count(self) -> None:
        if self.resets:
            self.events_when_over += 1


class Endpoint:
    """A machine and its owner (a ``ConnectionOwner``)."""

    def __init__(
        self,
        role: Role,
        settings: HboneSettings | None = None,
        *,
        consume: bool = True,
        on_request: Callable[[RecordingStream], None] | None = None,
    ) -> None:
        self.requests: list[RecordingStream] = []
        self.going_aways: list[tuple[int, int]] = []
        self.pings: list[bytes] = []
        self.largest_rest = 0
        """The most that ever had to be kept between two calls, in bytes."""
        self._rest = b""
        self._consume = consume
        self._on_request = on_request or accept
        self.machine = HboneMachine(role, self, settings)

    def open(self, block: bytes) -> RecordingStream:
        """Request a stream (client)."""
        record = RecordingStream(self.machine, consume=self._consume)
        record.stream = self.machine.open_stream(block, record)
        return record

    def feed(self, data: bytes) -> None:
        """Receive bytes; what the machine leaves is kept for the next time."""
        data = self._rest + data
        self._rest = data[self.machine.receive(memoryview(data), len(data)) :]
        self.largest_rest = max(self.largest_rest, len(self._rest))

    def take(self) -> bytes:
        """Everything there is to send."""
        data = bytes(self.machine.outgoing)
        self.machine.outgoing.clear()
        return data

    # -- ConnectionOwner

    def stream_requested(self, stream: HboneStream, headers: list[tuple[str, str]]) -> None:
        """Keep the request and answer it as the test said."""
        record = RecordingStream(self.machine, consume=self._consume)
        record.stream = stream
        record.headers = headers
        stream.owner = record
        self.requests.append(record)
        self._on_request(record)

    def going_away(self, last_stream: int, code: int) -> None:
        """Keep it."""
        self.going_aways.append((last_stream, code))

    def ping_answered(self, payload: bytes) -> None:
        """Keep it."""
        self.pings.append(payload)

    def output_ready(self) -> None:
        """Nothing: tests take output when they want it."""

    def output_can_wait(self) -> None:
        """Nothing waits here."""
        self.output_ready()


def accept(request: RecordingStream) -> None:
    """Answer 200."""
    request.machine.respond(request.stream, encode_response(200))


def exchange(left: Endpoint, right: Endpoint) -> None:
    """Carry bytes both ways until neither end has anything to send."""
    while left.machine.outgoing or right.machine.outgoing:
        right.feed(left.take())
        left.feed(right.take())


def connected_pair(
    client_settings: HboneSettings | None = None, server_settings: HboneSettings | None = None, *, consume: bool = True
) -> tuple[Endpoint, Endpoint]:
    """A client and a server that have exchanged their SETTINGS."""
    client = Endpoint(Role.CLIENT, client_settings, consume=consume)
    server = Endpoint(Role.SERVER, server_settings, consume=consume)
    exchange(client, server)
    return client, server
