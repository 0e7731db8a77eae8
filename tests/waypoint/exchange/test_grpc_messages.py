"""Messages of gRPC are counted however their bytes are cut."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from waypoint.exchange.grpc_messages import MessageCount
from waypoint.testing.exchanges import Stage


@settings(max_examples=50)
@given(st.lists(st.integers(0, 20), max_size=8), st.lists(st.integers(1, 12), min_size=1, max_size=8))
def test_any_cut_counts_the_same(sizes: list[int], cuts: list[int]) -> None:
    body = b"".join(b"\0" + size.to_bytes(4, "big") + b"m" * size for size in sizes)
    counted = MessageCount()
    turn = 0
    while body:
        cut = cuts[turn % len(cuts)]
        counted.take(body[:cut])
        body, turn = body[cut:], turn + 1
    assert counted.count == len(sizes)


def test_a_message_that_began_counts_and_half_a_prefix_does_not() -> None:
    counted = MessageCount()
    counted.take(b"\0\0\0\0\3a\0\0")
    assert counted.count == 1
    counted.take(b"\0\0\0")
    assert counted.count == 1
    counted.take(b"\0\0")
    assert counted.count == 2


def test_a_call_counts_both_ways_and_other_requests_do_not() -> None:
    stage = Stage()
    wire = stage.client(
        b"POST /s/m HTTP/1.1\r\nhost: h\r\ncontent-type: application/grpc\r\ncontent-length: 10\r\n\r\n"
        b"\0\0\0\0\0\0\0\0\0\0"
    )
    stage.upstreams[0].take()
    stage.upstreams[0].feed(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n\0\0\0\0\1a")
    wire.feed(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n")
    stage.upstreams[0].feed(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
    grpc, plain = stage.observer.facts
    assert grpc.grpc is not None
    assert (grpc.grpc.request.count, grpc.grpc.response.count) == (2, 1)
    assert plain.grpc is None
