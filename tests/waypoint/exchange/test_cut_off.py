"""What becomes of requests that are under way when the time to drain is up."""

from __future__ import annotations

from typing import Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from hpack import Decoder, Encoder

from waypoint.testing.exchanges import Stage
from waypoint.testing.wires import MemoryWire

GET = b"GET / HTTP/1.1\r\nhost: h\r\n\r\n"
HEADERS, RESET, GOAWAY = 1, 3, 7
END_STREAM, END_HEADERS = 1, 4


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


class Http2Client:
    """One that reads on after GOAWAY, which h2 does not."""

    def __init__(self, stage: Stage) -> None:
        self.wire = stage.client(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b""))
        self._decoder = Decoder()

    def ask(self, *headers: tuple[str, str], end: bool) -> None:
        """A request on stream 1."""
        pseudo = [(":method", "POST"), (":scheme", "http"), (":path", "/s/m"), (":authority", "h")]
        block = Encoder().encode([*pseudo, *headers])
        self.wire.feed(frame(HEADERS, END_HEADERS | END_STREAM if end else END_HEADERS, 1, block))

    def told(self) -> list[tuple[int, Any, bool]]:
        """The heads (as fields), resets and goings away (as codes) that have come, and whether they end a stream."""
        sent, found = self.wire.take(), list[tuple[int, Any, bool]]()
        while sent:
            size, kind, flags = int.from_bytes(sent[:3], "big"), sent[3], sent[4]
            payload, sent = sent[9 : 9 + size], sent[9 + size :]
            if kind == HEADERS:
                found.append((kind, dict(self._decoder.decode(payload)), bool(flags & END_STREAM)))
            elif kind == RESET:
                found.append((kind, int.from_bytes(payload, "big"), True))
            elif kind == GOAWAY:
                found.append((kind, int.from_bytes(payload[4:8], "big"), False))
        return found


def cut_off(stage: Stage) -> None:
    """As the process does it: drain, and when the time is up end what is left."""
    (connection,) = stage.connections
    connection.drain()
    stage.clock.advance(2 * stage.limits.linger_seconds)
    connection.cut_off()


def upstream_http2(wire: MemoryWire) -> H2Connection:
    """The endpoint's end of a connection."""
    server = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
    server.initiate_connection()
    server.receive_data(wire.take())
    wire.feed(server.data_to_send())
    return server


def test_a_request_that_is_not_answered_yet_is_answered_503() -> None:
    stage = Stage()
    client = stage.client(GET)
    cut_off(stage)
    answer = client.take()
    assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert b"\r\nconnection: close\r\n" in answer
    assert answer.endswith(b"this waypoint shuts down")
    assert client.closed
    assert stage.observer.summary == [(503, "LR")]
    assert stage.observer.facts[0].details == "drain_time_up"
    assert stage.upstreams[0].closed, "nobody waits for the endpoint's answer"


def test_an_answer_in_its_midst_is_reset() -> None:
    stage = Stage()
    client = stage.client(GET)
    stage.upstreams[0].feed(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")
    client.take()
    cut_off(stage)
    assert client.take() == b""
    assert client.was_reset
    assert stage.observer.summary == [(200, "LR")]


def test_a_websocket_is_reset() -> None:
    stage = Stage()
    client = stage.client(b"GET / HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
    stage.upstreams[0].feed(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
    assert client.take().startswith(b"HTTP/1.1 101 ")
    cut_off(stage)
    assert client.was_reset
    assert stage.upstreams[0].closed
    assert stage.observer.summary == [(101, "LR")]


def test_a_grpc_stream_ends_with_a_status() -> None:
    stage = Stage(http2=True)
    client = Http2Client(stage)
    client.ask(("content-type", "application/grpc"), end=False)
    server = upstream_http2(stage.upstreams[0])
    server.send_headers(1, [(":status", "200"), ("content-type", "application/grpc")])
    server.send_data(1, b"\0\0\0\0\1a")
    stage.upstreams[0].feed(server.data_to_send())
    ((_, head, _),) = client.told()
    assert head[":status"] == "200"
    cut_off(stage)
    trailers = {"grpc-status": "14", "grpc-message": "this waypoint shuts down"}
    assert client.told() == [
        (GOAWAY, 0, False),
        (GOAWAY, 0, False),
        (HEADERS, trailers, True),
        (RESET, 0, True),  # the rest of the request is not wanted
    ]
    assert client.wire.closed
    assert not client.wire.was_reset
    assert stage.observer.facts[0].grpc_status == b"14"
    assert stage.observer.summary == [(200, "LR")]


def test_a_grpc_call_that_is_not_answered_yet_is_unavailable() -> None:
    stage = Stage(http2=True)
    client = Http2Client(stage)
    client.ask(("content-type", "application/grpc"), end=True)
    cut_off(stage)
    (*goings, (kind, fields, end)) = client.told()
    assert [code for _, code, _ in goings] == [0, 0]
    assert (kind, fields["grpc-status"], end) == (HEADERS, "14", True)


def test_another_answer_over_http2_is_reset_and_its_connection_is_not() -> None:
    stage = Stage(http2=True)
    client = Http2Client(stage)
    client.ask(end=True)
    server = upstream_http2(stage.upstreams[0])
    server.send_headers(1, [(":status", "200")])
    stage.upstreams[0].feed(server.data_to_send())
    client.told()
    cut_off(stage)
    assert client.told() == [(GOAWAY, 0, False), (GOAWAY, 0, False), (RESET, 2, True)]
    assert client.wire.closed
    assert not client.wire.was_reset
