"""Token buckets of this replica, and the protocol of the store that counts shared ones."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.addresses import PeerAddress, SocketAddress, parse_ip
from mesh.errors import ConfigurationError, InvalidMessage
from mesh.identity import SpiffeId
from mesh.model.http_route import RateLimit
from waypoint.client import Client
from waypoint.http.message import RequestHead
from waypoint.security.rate_limit_machine import CompiledLimit, TokenBuckets
from waypoint.security.resp_codec import MAX_REPLY_BYTES, Reply, ReplyError, ReplyReader, encode_command


def _limit(tokens: int = 2, interval: float = 1.0, **fields: object) -> CompiledLimit:
    return CompiledLimit(RateLimit(name="l", tokens=tokens, interval_seconds=interval, **fields), "r")  # type: ignore[arg-type]


def _head(*headers: tuple[bytes, bytes]) -> RequestHead:
    return RequestHead(method=b"GET", path=b"/", authority=b"echo", headers=list(headers))


def _client(account: str | None = "a") -> Client:
    return Client(
        identity=None if account is None else SpiffeId("td", "ns", account),
        address=PeerAddress(SocketAddress(parse_ip("10.0.0.1"), 1)),
        destination=SocketAddress(parse_ip("10.0.0.2"), 80),
    )


# -- here --------------------------------------------------------------------------------------------------------------


def test_a_bucket_empties_and_fills() -> None:
    buckets = TokenBuckets(_limit(tokens=2, interval=1.0))
    assert [buckets.take(b"", now) for now in (0.0, 0.0, 0.0, 0.25, 0.5, 0.5)] == [0, 0, 0.5, 0.25, 0, 0.5]
    assert [buckets.take(b"", 100.0) for _ in range(3)] == [0, 0, 0.5]


@given(
    st.integers(1, 5),
    st.sampled_from([0.5, 1.0, 7.0]),
    st.lists(st.floats(0, 2, allow_nan=False), min_size=1, max_size=60),
)
def test_no_window_admits_more_than_a_full_bucket_and_what_was_filled(
    tokens: int, interval: float, gaps: list[float]
) -> None:
    buckets = TokenBuckets(_limit(tokens, interval))
    now, admitted = 0.0, []
    for gap in gaps:
        now += gap
        if buckets.take(b"", now) == 0:
            admitted.append(now)
    for start in range(len(admitted)):
        for end in range(start, len(admitted)):
            filled = (admitted[end] - admitted[start]) * tokens / interval
            assert end - start + 1 <= tokens + filled + 1e-6


def test_each_value_and_each_identity_has_a_bucket() -> None:
    by_header = _limit(by_header="X-User")
    assert by_header.key(_head((b"x-user", b"a")), _client()) != by_header.key(_head((b"x-user", b"b")), _client())
    assert by_header.key(_head((b"x-user", b"a")), _client()) == by_header.key(_head((b"x-user", b"a")), _client("b"))
    assert by_header.key(_head(), _client()) != by_header.key(_head((b"x-user", b"-")), _client())
    by_both = _limit(by_header="x-user", by_identity=True)
    clients = [_client("a"), _client("b"), _client(None)]
    keys = {by_both.key(_head((b"x-user", value)), client) for value in (b"a", b"b") for client in clients}
    assert len(keys) == 6
    assert _limit().key(_head(), _client()) == b""
    assert _limit(by_header="host").key(_head(), _client()) != b""


def test_keys_and_buckets_are_bounded() -> None:
    limit = _limit(tokens=1, interval=1000.0, by_header="x")
    assert len(limit.key(_head((b"x", b"y" * 100_000)), _client())) == 16
    buckets = TokenBuckets(limit, max_buckets=10)
    for number in range(1000):
        assert buckets.take(b"%d" % number, 0.0) == 0
    assert len(buckets) == 10
    assert buckets.take(b"999", 0.0) > 0
    assert buckets.take(b"0", 0.0) == 0, "whoever was forgotten starts with a full bucket"


@pytest.mark.parametrize(("tokens", "interval"), [(0, 1.0), (1, 0.0), (1, -1.0), (1, math.nan)])
def test_limits_without_sense_are_refused(tokens: int, interval: float) -> None:
    with pytest.raises(ConfigurationError):
        _limit(tokens, interval)


# -- the protocol ------------------------------------------------------------------------------------------------------


def test_commands_are_arrays_of_strings() -> None:
    assert encode_command(b"GET", b"a\r\nb") == b"*2\r\n$3\r\nGET\r\n$4\r\na\r\nb\r\n"


_REPLIES = b"+OK\r\n:-7\r\n$3\r\na\r\n\r\n$-1\r\n*-1\r\n*3\r\n:1\r\n$0\r\n\r\n*1\r\n+x\r\n-ERR no\r\n"


@given(st.lists(st.integers(0, len(_REPLIES)), max_size=6))
def test_replies_may_arrive_in_any_pieces(cuts: list[int]) -> None:
    reader = ReplyReader()
    replies: list[Reply] = []
    edges = [0, *sorted(cuts), len(_REPLIES)]
    for start, end in pairwise(edges):
        replies += reader.receive(_REPLIES[start:end])
    *plain, error = replies
    assert plain == [b"OK", -7, b"a\r\n", None, None, [1, b"", [b"x"]]]
    assert isinstance(error, ReplyError)
    assert error.text == "ERR no"


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 400\r\n",
        b":x\r\n",
        b":" + b"9" * 19 + b"\r\n",
        b"$-2\r\n",
        b"$999999999\r\n",
        b"$1\r\nabc",
        b"*1\r\n" * 20 + b":1\r\n",
        b"*999999999\r\n",
        b"+" + b"x" * (MAX_REPLY_BYTES + 1),
    ],
)
def test_what_is_no_reply_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidMessage):
        ReplyReader().receive(data)
