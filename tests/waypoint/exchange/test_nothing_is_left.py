"""A request that is over is freed at once: what were left to the collector would show in the latencies of others."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from hpack import Encoder

from waypoint.testing.exchanges import Stage
from waypoint.testing.wires import MemoryWire

DATA, HEADERS, SETTINGS = 0, 1, 4
END_STREAM, END_HEADERS = 1, 4
MESSAGE = b"\0\0\0\0\1a"
_KIND = ("content-type", "application/grpc")
CALL = Encoder().encode([(":method", "POST"), (":scheme", "http"), (":path", "/s/m"), (":authority", "h"), _KIND])


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def forget(stage: Stage) -> None:
    """What the stage keeps for tests to look at."""
    stage.observer.facts.clear()
    stage.decider.heads.clear()
    stage.backend.outcomes.clear()


def call(client: MemoryWire, stage: Stage, number: int, plain: Encoder) -> bytes:
    """A unary call of gRPC, from end to end; gives the answer."""
    client.feed(frame(HEADERS, END_HEADERS, number, CALL) + frame(DATA, END_STREAM, number, MESSAGE))
    (endpoint,) = stage.upstreams
    endpoint.take()
    head, trailers = plain.encode([(":status", "200"), _KIND]), plain.encode([("grpc-status", "0")])
    endpoint.feed(
        frame(HEADERS, END_HEADERS, number, head)
        + frame(DATA, 0, number, MESSAGE)
        + frame(HEADERS, END_HEADERS | END_STREAM, number, trailers)
    )
    return client.take()


def test_of_a_call_over_http2(no_collector: None) -> None:
    stage, plain = Stage(http2=True), Encoder()
    client = stage.client(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0))
    client.feed(frame(HEADERS, END_HEADERS, 1, CALL) + frame(DATA, END_STREAM, 1, MESSAGE))
    (endpoint,) = stage.upstreams
    endpoint.feed(frame(SETTINGS, 0, 0))
    endpoint.feed(frame(HEADERS, END_HEADERS | END_STREAM, 1, plain.encode([(":status", "200")])))
    forget(stage)
    gc.collect()
    for number in range(3, 43, 2):
        assert MESSAGE in call(client, stage, number, plain)
    forget(stage)
    assert gc.collect() == 0


def test_of_a_request_over_http1(no_collector: None) -> None:
    stage = Stage()
    client = stage.client()
    for number in range(20):
        if number == 1:
            forget(stage)
            gc.collect()
        client.feed(b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 1\r\n\r\na")
        (endpoint,) = stage.upstreams
        endpoint.take()
        endpoint.feed(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nb")
        assert client.take().endswith(b"b")
    forget(stage)
    assert gc.collect() == 0
