"""Token buckets of this replica, and shared ones counted by a store."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest
import trio
import trio.testing
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
from waypoint.security.shared_limit_driver import SharedLimits, StoreSettings


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


# -- shared ------------------------------------------------------------------------------------------------------------


class _Store:
    """A store for tests: it knows one script, which it does not run but counts tokens for, on trio's clock."""

    def __init__(self) -> None:
        self.known = False
        self.tokens: dict[bytes, float] = {}
        self.commands: list[list[bytes]] = []
        self.silent = False
        self.connections = 0

    async def connect(self) -> trio.abc.Stream:
        ours, theirs = trio.testing.memory_stream_pair()
        self.connections += 1
        self._nursery.start_soon(self._serve, theirs)
        return ours

    async def _serve(self, stream: trio.abc.Stream) -> None:
        reader = ReplyReader()
        while data := await stream.receive_some():
            for command in reader.receive(bytes(data)):
                assert isinstance(command, list)
                parts = [part for part in command if isinstance(part, bytes)]
                self.commands.append(parts)
                if self.silent:
                    continue
                await stream.send_all(self._answer(parts))

    def _answer(self, parts: list[bytes]) -> bytes:
        match parts[0]:
            case b"AUTH":
                return b"+OK\r\n"
            case b"EVALSHA" if not self.known:
                return b"-NOSCRIPT No matching script\r\n"
            case b"EVAL":
                self.known = True
        key, capacity = parts[3], float(parts[4])
        left = self.tokens.get(key, capacity)
        if left < 1:
            return b":1500\r\n"
        self.tokens[key] = left - 1
        return b":0\r\n"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as self._nursery:
            yield
            self._nursery.cancel_scope.cancel()


@asynccontextmanager
async def _shared(store: _Store, **settings: object) -> AsyncIterator[SharedLimits]:
    async with store.running(), trio.open_nursery() as nursery:
        limits = SharedLimits(StoreSettings(host="store", **settings), store.connect)  # type: ignore[arg-type]
        nursery.start_soon(limits.run)
        await trio.testing.wait_all_tasks_blocked()
        yield limits
        nursery.cancel_scope.cancel()


async def test_replicas_share_a_bucket(autojump_clock: trio.testing.MockClock) -> None:
    store = _Store()
    limit = _limit(tokens=3)
    async with _shared(store, password="p", user="u") as one, _shared_more(store) as other:
        answers = [await replica.take(limit, b"k") for replica in (one, other, one, other)]
    assert answers == [0, 0, 0, 1.5]
    assert store.commands[0][:2] == [b"AUTH", b"u"]
    # The text of the script goes over once; it is called by its hash afterwards.
    assert [command[0] for command in store.commands].count(b"EVAL") == 1


@asynccontextmanager
async def _shared_more(store: _Store) -> AsyncIterator[SharedLimits]:
    async with trio.open_nursery() as nursery:
        limits = SharedLimits(StoreSettings(host="store"), store.connect)
        nursery.start_soon(limits.run)
        await trio.testing.wait_all_tasks_blocked()
        yield limits
        nursery.cancel_scope.cancel()


async def test_requests_of_one_moment_share_the_connection(autojump_clock: trio.testing.MockClock) -> None:
    store = _Store()
    store.known = True
    async with _shared(store) as limits:
        answers: list[float | None] = []

        async def take() -> None:
            answers.append(await limits.take(_limit(tokens=10), b"k"))

        async with trio.open_nursery() as nursery:
            for _ in range(12):
                nursery.start_soon(take)
    assert sorted(answers, key=str) == [0.0] * 10 + [1.5] * 2
    assert store.connections == 1


async def test_a_store_that_hangs_costs_one_timeout_and_then_nothing(autojump_clock: trio.testing.MockClock) -> None:
    store = _Store()
    store.silent = True
    async with _shared(store, timeout_seconds=0.05, retry_seconds=10.0, fail_open=False) as limits:
        start = trio.current_time()
        assert await limits.take(_limit(), b"k") is None
        assert trio.current_time() - start == pytest.approx(0.05)
        for _ in range(100):
            assert await limits.take(_limit(), b"k") is None
        assert trio.current_time() - start == pytest.approx(0.05)
        assert limits.failures == 101
        assert not limits.admits_without_answer()
        assert len(store.commands) == 1


async def test_a_store_that_is_away_is_no_wait(autojump_clock: trio.testing.MockClock) -> None:
    async def refuse() -> trio.abc.Stream:
        raise OSError("connection refused")

    limits = SharedLimits(StoreSettings(host="store"), refuse)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(limits.run)
        await trio.testing.wait_all_tasks_blocked()
        start = trio.current_time()
        assert await limits.take(_limit(), b"k") is None
        assert trio.current_time() == start
        assert limits.admits_without_answer()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("answer", [b"-WRONGPASS\r\n", b"$2\r\nno\r\n", b"HTTP/1.1 400 Bad Request\r\n"])
async def test_an_answer_that_is_none_decides_nothing(answer: bytes, autojump_clock: trio.testing.MockClock) -> None:
    class Odd(_Store):
        def _answer(self, parts: list[bytes]) -> bytes:
            return answer

    async with _shared(Odd()) as limits:
        assert await limits.take(_limit(), b"k") is None
