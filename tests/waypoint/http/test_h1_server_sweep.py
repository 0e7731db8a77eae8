"""A client's HTTP/1.1 connection under any split of what it sends, and under noise."""

from __future__ import annotations

import itertools

import h11
from hypothesis import given
from hypothesis import strategies as st

from waypoint.testing.exchanges import Stage

GET = b"GET /a HTTP/1.1\r\nhost: h\r\n\r\n"
CONVERSATION = (
    GET
    + b"POST /b HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nx-t: 1\r\n\r\n"
    + b"PUT /c HTTP/1.1\r\nhost: h\r\ncontent-length: 4\r\n\r\n\r\n\r\n"
    + b"HEAD /d HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n"
)


def answered(parts: list[bytes]) -> tuple[list[tuple[bytes, bytes, list[tuple[bytes, bytes]]]], bytes]:
    """What reaches the endpoint, and what the client is told, with each request answered as it comes."""
    stage = Stage()
    client = stage.client()
    told, requests = b"", []
    reader = h11.Connection(h11.SERVER)
    for part in parts:
        client.feed(part)
        for _ in range(10):
            for upstream in stage.upstreams:
                if sent := upstream.take():
                    reader.receive_data(sent)
            while (event := reader.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
                if isinstance(event, h11.Request):
                    requests.append((event.target, b"", [*event.headers]))
                elif isinstance(event, h11.Data):
                    target, body, headers = requests[-1]
                    requests[-1] = (target, body + event.data, headers)
                elif isinstance(event, h11.EndOfMessage):
                    requests[-1][2].extend(event.headers)
                    reader.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
                    reader.send(h11.EndOfMessage())
                    reader.start_next_cycle()
                    stage.upstreams[-1].feed(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                    break
            client.deliver()
    return requests, told + client.take()


@given(cuts=st.lists(st.integers(0, len(CONVERSATION)), max_size=12))
def test_any_split_of_a_conversation_gives_the_same(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(CONVERSATION)]
    requests, told = answered([CONVERSATION[start:end] for start, end in itertools.pairwise(edges) if end > start])
    assert [request[:2] for request in requests] == [
        (b"/a", b""),
        (b"/b", b"abcde"),
        (b"/c", b"\r\n\r\n"),
        (b"/d", b""),
    ]
    assert (b"x-t", b"1") in requests[1][2]
    assert told.count(b"HTTP/1.1 200 OK") == 4
    assert told.count(b"connection: close") == 1


@given(noise=st.binary(max_size=100), at=st.integers(0, len(CONVERSATION)))
def test_noise_harms_nobody_else(noise: bytes, at: int) -> None:
    stage = Stage()
    client = stage.client()
    client.feed(CONVERSATION[:at] + noise + CONVERSATION[at:])
    for _ in range(20):
        for upstream in stage.upstreams:
            if not upstream.closed:
                upstream.feed(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        client.deliver()
    stage.clock.advance(100)
    if not client.closed:
        client.lose()
    assert len(stage.ended) == 1
    assert stage.pools[0].active == 0
