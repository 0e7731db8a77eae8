"""Peers that speak HTTP/2 with the ``h2`` library, over memory wires."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest

from waypoint.testing.wires import MemoryWire

Pairs = list[tuple[bytes, bytes]]


@dataclass
class Message:
    """What one stream has brought."""

    heads: list[Pairs] = field(default_factory=list)
    body: bytes = b""
    trailers: Pairs | None = None
    ended: bool = False
    reset: int | None = None

    @property
    def head(self) -> dict[bytes, bytes]:
        return dict(self.heads[-1])


class H2Peer:
    """The other end of a memory wire."""

    def __init__(self, wire: MemoryWire, *, client: bool, acknowledge: bool = True) -> None:
        self.wire = wire
        config = h2.config.H2Configuration(
            client_side=client, header_encoding=None, validate_outbound_headers=False, normalize_outbound_headers=False
        )
        self.connection = h2.connection.H2Connection(config)
        self.acknowledge = acknowledge
        self.messages: dict[int, Message] = {}
        self.goaway: int | None = None
        self.connection.initiate_connection()
        self.sync()

    def sync(self) -> None:
        """Carry bytes both ways until nothing moves."""
        for _ in range(100):
            sent = self.connection.data_to_send()
            if sent and not self.wire.closed:
                self.wire.feed(sent)
            received = self.wire.take()
            if received:
                for event in self.connection.receive_data(received):
                    self._handle(event)
            if not sent and not received:
                return
        raise AssertionError("no end to it")

    def _handle(self, event: Any) -> None:
        stream_id: Any = getattr(event, "stream_id", None)
        message = self.messages.setdefault(stream_id, Message()) if stream_id else Message()
        kinds = (h2.events.RequestReceived, h2.events.ResponseReceived, h2.events.InformationalResponseReceived)
        if isinstance(event, kinds):
            message.heads.append(list(event.headers))
        elif isinstance(event, h2.events.DataReceived):
            message.body += event.data
            if self.acknowledge and event.flow_controlled_length:
                self.connection.acknowledge_received_data(event.flow_controlled_length, stream_id)
        elif isinstance(event, h2.events.TrailersReceived):
            message.trailers = list(event.headers)
        elif isinstance(event, h2.events.StreamEnded):
            message.ended = True
        elif isinstance(event, h2.events.StreamReset):
            message.reset = int(event.error_code)
        elif isinstance(event, h2.events.ConnectionTerminated):
            self.goaway = int(event.error_code or 0)

    def request(
        self, *headers: tuple[bytes, bytes], end: bool = True, method: bytes = b"GET", path: bytes = b"/a"
    ) -> int:
        """Open a stream."""
        stream_id = self.connection.get_next_available_stream_id()
        fields = [(b":method", method), (b":scheme", b"http"), (b":authority", b"h"), (b":path", path), *headers]
        self.connection.send_headers(stream_id, fields, end_stream=end)
        self.sync()
        return stream_id

    def respond(
        self, stream_id: int, *headers: tuple[bytes, bytes], status: bytes = b"200", body: bytes = b"ok"
    ) -> None:
        """Answer a stream, whole."""
        self.connection.send_headers(stream_id, [(b":status", status), *headers], end_stream=not body)
        if body:
            self.connection.send_data(stream_id, body, end_stream=True)
        self.sync()

    def data(self, stream_id: int, data: bytes, *, end: bool = False) -> None:
        """Some of a body."""
        self.connection.send_data(stream_id, data, end_stream=end)
        self.sync()

    def trailers(self, stream_id: int, *headers: tuple[bytes, bytes]) -> None:
        """The end of a message."""
        self.connection.send_headers(stream_id, list(headers), end_stream=True)
        self.sync()


@pytest.fixture
def h2_peer() -> type[H2Peer]:
    """The class itself: tests make as many as they need."""
    return H2Peer
