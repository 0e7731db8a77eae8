"""Rate limits that replicas share: against a store for tests, and against the very server.

Debian's ``redis-check-rdb`` is the server's own program, which serves when it is called by that name.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from cryptography.hazmat.primitives import serialization

from mesh.model.http_route import RateLimit
from mesh.testing.ca import TestAuthority
from waypoint.security.rate_limit_machine import CompiledLimit
from waypoint.security.resp_codec import ReplyReader
from waypoint.security.shared_limit_driver import SharedLimits, StoreSettings


def _limit(tokens: int = 2, interval: float = 1.0, **fields: object) -> CompiledLimit:
    return CompiledLimit(RateLimit(name="l", tokens=tokens, interval_seconds=interval, **fields), "r")  # type: ignore[arg-type]


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


async def test_replicas_share_a_bucket(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    store = _Store()
    limit = _limit(tokens=3)
    password = tmp_path / "password"
    password.write_text("p\n")
    async with _shared(store, password_file=password, user="u") as one, _shared_more(store) as other:
        answers = [await replica.take(limit, b"k") for replica in (one, other, one, other)]
    assert answers == [0, 0, 0, 1.5]
    assert store.commands[0] == [b"AUTH", b"u", b"p"]
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
    async with _shared(store, timeout_seconds=0.05, retry_seconds=0.5) as limits:
        start = trio.current_time()
        assert await limits.take(_limit(), b"k") is None
        assert trio.current_time() - start == pytest.approx(0.05)
        assert not limits.answering
        for _ in range(100):
            assert await limits.take(_limit(), b"k") is None
        assert trio.current_time() - start == pytest.approx(0.05)
        assert len(store.commands) == 1


async def test_a_connection_that_owes_answers_is_made_anew(autojump_clock: trio.testing.MockClock) -> None:
    store = _Store()
    store.silent = store.known = True
    async with _shared(store, connect_seconds=1.0, retry_seconds=0.5) as limits:
        for _ in range(30):
            assert await limits.take(_limit(), b"k") is None
            await trio.sleep(0.1)
        assert store.connections > 1
        store.silent = False
        await trio.sleep(5)
        assert await limits.take(_limit(), b"k") == 0


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
        assert not limits.answering
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("answer", [b"-WRONGPASS\r\n", b"$2\r\nno\r\n", b"HTTP/1.1 400 Bad Request\r\n"])
async def test_an_answer_that_is_none_decides_nothing(answer: bytes, autojump_clock: trio.testing.MockClock) -> None:
    class Odd(_Store):
        def _answer(self, parts: list[bytes]) -> bytes:
            return answer

    async with _shared(Odd()) as limits:
        assert await limits.take(_limit(), b"k") is None


# -- the server --------------------------------------------------------------------------------------------------------


async def _until_answering(limits: SharedLimits) -> None:
    with trio.fail_after(10):
        while await limits.take(_limit(tokens=1000), b"hello") is None:  # noqa: ASYNC110 -- nobody tells
            await trio.sleep(0.02)


@asynccontextmanager
async def _replicas(count: int, **settings: object) -> AsyncIterator[list[SharedLimits]]:
    fields = {"timeout_seconds": 2.0, "retry_seconds": 0.05, **settings}
    async with trio.open_nursery() as nursery:
        made = [SharedLimits(StoreSettings(**fields)) for _ in range(count)]  # type: ignore[arg-type]
        for limits in made:
            nursery.start_soon(limits.run)
        for limits in made:
            await _until_answering(limits)
        yield made
        nursery.cancel_scope.cancel()


async def test_two_replicas_take_from_one_bucket_of_a_server(redis: Any) -> None:
    with redis() as port:
        async with _replicas(2, host="127.0.0.1", port=port) as (one, other):
            limit = _limit(tokens=10, interval=3600.0)
            waits: list[float | None] = []

            async def take(limits: SharedLimits) -> None:
                waits.append(await limits.take(limit, b"k"))

            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(take, one)
                    nursery.start_soon(take, other)
            assert waits.count(0) == 10
            assert all(wait is not None and 0 < wait <= 360 for wait in waits if wait != 0)
            assert await one.take(limit, b"other key") == 0
            assert await other.take(_limit(tokens=1, interval=0.02), b"fast") == 0
            await trio.sleep(0.05)
            assert await other.take(_limit(tokens=1, interval=0.02), b"fast") == 0, "filled by the server's clock"


async def test_a_server_that_restarts_is_found_again(redis: Any) -> None:
    with redis() as port:
        pass
    with redis(port):
        async with _replicas(1, host="127.0.0.1", port=port) as (limits,):
            limit = _limit(tokens=1, interval=3600.0)
            assert await limits.take(limit, b"k") == 0
            with redis.stopped(port):
                with trio.fail_after(10):
                    while await limits.take(limit, b"k") is not None:  # noqa: ASYNC110 -- nobody tells
                        await trio.sleep(0.01)
                assert not limits.answering
            await _until_answering(limits)
            assert await limits.take(limit, b"k") == 0, "the server has forgotten everything, the script included"


async def test_a_password_and_tls(redis: Any, tmp_path: Path) -> None:
    authority = TestAuthority()
    server = authority.issue_server("localhost")
    (tmp_path / "cert").write_bytes(b"".join(server.certificate_chain))
    unencrypted = serialization.NoEncryption()
    key = server.key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, unencrypted)
    (tmp_path / "key").write_bytes(key)
    (tmp_path / "ca").write_bytes(authority.roots)
    (tmp_path / "password").write_text("secret")
    options = [
        *("--port", "0", "--tls-cert-file", str(tmp_path / "cert"), "--tls-key-file", str(tmp_path / "key")),
        *("--tls-ca-cert-file", str(tmp_path / "ca"), "--tls-auth-clients", "no", "--requirepass", "secret"),
    ]
    context = ssl.create_default_context(cafile=str(tmp_path / "ca"))
    with redis(None, *options, option="--tls-port") as port:
        settings = {"host": "localhost", "port": port, "tls": context}
        async with _replicas(1, **settings, password_file=tmp_path / "password") as (limits,):
            assert await limits.take(_limit(), b"k") == 0
        async with trio.open_nursery() as nursery:
            bare = SharedLimits(StoreSettings(**settings))
            nursery.start_soon(bare.run)
            with trio.move_on_after(1):
                while await bare.take(_limit(), b"k") is None:  # noqa: ASYNC110 -- it should never end
                    await trio.sleep(0.05)
                pytest.fail("served without a password")
            nursery.cancel_scope.cancel()
