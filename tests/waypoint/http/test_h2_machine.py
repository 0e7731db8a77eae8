"""HTTP/2 connections as machines: any split of what arrives gives the same, and noise harms nobody."""

from __future__ import annotations

import itertools
from typing import Any

import h2.config
import h2.connection
import h11
from hypothesis import given
from hypothesis import strategies as st

from waypoint.http.h2_client_machine import H2ClientMachine
from waypoint.http.h2_machine import Http2Machine
from waypoint.http.h2_server_machine import H2ServerMachine
from waypoint.http.h2_stream_machine import H2Stream
from waypoint.testing.exchanges import Stage
from waypoint.upstream.pool_h2 import H2Pool


def conversation() -> bytes:
    """Three requests, one with a body and trailers, one after a table entry has changed."""
    config = h2.config.H2Configuration(client_side=True, header_encoding=None)
    connection = h2.connection.H2Connection(config)
    connection.initiate_connection()

    def head(path: bytes, *headers: tuple[bytes, bytes]) -> list[tuple[bytes, bytes]]:
        return [(b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"h"), (b":path", path), *headers]

    connection.send_headers(1, head(b"/1", (b"x-a", b"1")), end_stream=False)
    connection.send_data(1, b"a" * 1000)
    connection.send_headers(3, head(b"/3", (b"x-a", b"1"), (b"x-long", b"b" * 17000)), end_stream=True)
    connection.send_data(1, b"c" * 10)
    connection.send_headers(1, [(b"x-t", b"1")], end_stream=True)
    connection.send_headers(5, head(b"/1", (b"x-a", b"1")), end_stream=True)
    connection.ping(b"12345678")
    return connection.data_to_send()


CONVERSATION = conversation()


def served(parts: list[bytes]) -> list[Any]:
    """What reaches the endpoint."""
    stage = Stage()
    wire = stage.client()
    for part in parts:
        wire.feed(part)
    assert not wire.closed
    reader = h11.Connection(h11.SERVER)
    reader.receive_data(stage.upstreams[0].take())
    body = b""
    head = reader.next_event()
    assert isinstance(head, h11.Request)
    while isinstance(event := reader.next_event(), h11.Data):
        body += event.data
    assert isinstance(event, h11.EndOfMessage)
    return [head.target, body, list(event.headers), *(upstream.take() for upstream in stage.upstreams[1:])]


WHOLE = served([CONVERSATION])


def test_the_conversation() -> None:
    assert WHOLE[:3] == [b"/1", b"a" * 1000 + b"c" * 10, [(b"x-t", b"1")]]
    assert [request.split(b" ")[1] for request in WHOLE[3:]] == [b"/3", b"/1"]


@given(cuts=st.lists(st.integers(0, len(CONVERSATION)), max_size=12))
def test_any_split_gives_the_same(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(CONVERSATION)]
    assert served([CONVERSATION[start:end] for start, end in itertools.pairwise(edges)]) == WHOLE


@given(noise=st.binary(max_size=300), at=st.integers(0, len(CONVERSATION)))
def test_noise_ends_the_connection_or_is_ignored(noise: bytes, at: int) -> None:
    stage = Stage()
    wire = stage.client()
    wire.feed(CONVERSATION[:at] + noise + CONVERSATION[at:])
    wire.settle()
    for upstream in stage.upstreams:
        if not upstream.closed:
            upstream.feed(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
    wire.settle()
    if not wire.closed:
        wire.lose()
    assert stage.pools[0].active == 0
    assert len(stage.ended) == 1


@given(noise=st.binary(min_size=1, max_size=300))
def test_an_endpoint_s_noise_fails_its_requests_only(noise: bytes) -> None:
    stage = Stage(http2=True)
    client = stage.client(b"GET /a HTTP/1.1\r\nhost: h\r\n\r\n")
    upstream = stage.upstreams[0]
    upstream.feed(noise)
    if not upstream.closed:
        upstream.lose()
    assert client.take().startswith((b"HTTP/1.1 50", b"HTTP/1.1 2"))
    assert stage.pools[0].active == 0


def test_both_ends_run_on_one_machine() -> None:
    stage = Stage(http2=True)
    wire: Any = stage.client(CONVERSATION)
    server = stage.connections[0].machine
    assert isinstance(server, H2ServerMachine)
    client = stage.upstreams[0].owner
    assert isinstance(client, H2ClientMachine)
    assert isinstance(client.machine, Http2Machine)
    assert isinstance(stage.pools[0], H2Pool)
    assert stage.pools[0].active == 3
    assert all(isinstance(stream.owner, H2Stream) for stream in server.machine.streams.values())
    wire.lose()
    assert stage.pools[0].active == 0
