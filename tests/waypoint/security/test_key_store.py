"""Key sets: when they are fetched, how long they are good, and endpoints that hang, lie or flood."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import jwt
import pytest
import trio
import trio.testing
from cryptography.hazmat.primitives.asymmetric import ec

from mesh.errors import ConfigurationError, ConnectFailed, ConnectionLost, MeshError, ProtocolViolation, TlsFailure
from waypoint.security.http_client_driver import HttpCall, exchange
from waypoint.security.key_set_codec import KeySet, decode_key_set
from waypoint.security.key_store_driver import KeyStore
from waypoint.security.key_store_machine import KeyStoreLimits, KeyStoreMachine
from waypoint.security.tokens import KeysWanted

URI = "http://issuer.example/keys"
LIMITS = KeyStoreLimits(refresh_seconds=100.0, unknown_key_seconds=10.0, stale_seconds=500.0, unused_seconds=300.0)


def _document(key_id: str = "a") -> bytes:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    jwk = json.loads(jwt.get_algorithm_by_name("ES256").to_jwk(key))
    return json.dumps({"keys": [{**jwk, "kid": key_id}]}).encode()


KEYS = decode_key_set(_document())
OTHERS = decode_key_set(_document("b"))

# -- the machine -------------------------------------------------------------------------------------------------------


def test_keys_are_fetched_when_wanted_and_again_after_a_while() -> None:
    machine = KeyStoreMachine(LIMITS)
    assert machine.keys(URI, 0.0) is None
    assert machine.due(0.0) == []
    assert machine.wanted(URI, 0.0)
    assert machine.pending(URI)
    assert machine.due(0.0) == [URI]
    assert machine.due(0.0) == [], "one fetch at a time"
    machine.fetched(URI, KEYS, 1.0)
    assert not machine.pending(URI)
    assert machine.keys(URI, 50.0) is KEYS
    assert machine.next_due() == 101.0
    assert machine.due(101.0) == [URI]
    machine.fetched(URI, OTHERS, 101.0)
    assert machine.keys(URI, 101.0) is OTHERS


def test_stale_keys_are_kept_while_the_issuer_is_away_but_not_for_ever() -> None:
    machine = KeyStoreMachine(LIMITS)
    machine.wanted(URI, 0.0)
    machine.due(0.0)
    machine.fetched(URI, KEYS, 0.0)
    now, attempts = 100.0, 0
    while now < 500.0:
        if machine.due(now):
            attempts += 1
            machine.failed(URI, now, 0.5)
        assert machine.keys(URI, now) is KEYS
        now += 1.0
    assert 5 < attempts < 20, "growing pauses between attempts"
    assert machine.keys(URI, 501.0) is None


def test_unknown_keys_cause_few_fetches() -> None:
    machine = KeyStoreMachine(LIMITS)
    assert machine.key_unknown(URI, 0.0)
    assert machine.due(0.0) == [URI]
    assert machine.key_unknown(URI, 0.0), "the fetch under way may bring it"
    machine.fetched(URI, KEYS, 0.0)
    fetches = 0
    for step in range(1000):
        now = 1.0 + step / 10
        machine.key_unknown(URI, now)
        if machine.due(now):
            fetches += 1
            machine.fetched(URI, KEYS, now)
    assert fetches <= 10
    machine.due(1e6)
    machine.wanted(URI, 1e6)
    machine.due(1e6)
    machine.failed(URI, 1e6, 0.0)
    assert not machine.key_unknown(URI, 1e6), "a failing issuer has its own pace"


def test_addresses_are_bounded_and_forgotten() -> None:
    machine = KeyStoreMachine(KeyStoreLimits(max_addresses=2, unused_seconds=10.0))
    assert [machine.wanted(uri, 0.0) for uri in ("a", "b", "c", "a")] == [True, True, False, True]
    assert machine.due(11.0) == []
    assert machine.wanted("c", 11.0)
    assert not machine.key_unknown("d", 11.0) or machine.wanted("d", 11.0)
    assert machine.next_due() == 11.0


# -- fetching ----------------------------------------------------------------------------------------------------------

Answer = Callable[[trio.abc.Stream], Awaitable[None]]


def _saying(data: bytes) -> Answer:
    async def answer(stream: trio.abc.Stream) -> None:
        await stream.send_all(data)

    return answer


def _http(body: bytes, status: bytes = b"200 OK", *headers: bytes) -> bytes:
    lines = [b"HTTP/1.1 " + status, b"content-length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


async def _hang(stream: trio.abc.Stream) -> None:
    await trio.sleep_forever()


async def _drip(stream: trio.abc.Stream) -> None:
    """One byte a second, for ever: each read succeeds, the whole never ends."""
    await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        await stream.send_all(b"x")
        await trio.sleep(1)


async def _flood(stream: trio.abc.Stream) -> None:
    await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        await stream.send_all(b"x" * 65536)


class _Issuer:
    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.requests: list[bytes] = []
        self._nursery: trio.Nursery

    async def connect(self, host: str, port: int) -> trio.abc.Stream:
        ours, theirs = trio.testing.memory_stream_pair()
        self._nursery.start_soon(self._serve, theirs)
        return ours

    async def _serve(self, stream: trio.abc.Stream) -> None:
        request = b""
        while b"\r\n\r\n" not in request:
            request += bytes(await stream.receive_some())
        self.requests.append(request)
        try:
            await self.answer(stream)
            await stream.aclose()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # The client has had enough.

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as self._nursery:
            yield
            self._nursery.cancel_scope.cancel()


async def test_a_request_and_its_answer(autojump_clock: trio.testing.MockClock) -> None:
    issuer = _Issuer(_saying(_http(b"body", b"201 Created", b"x-a: b")))
    async with issuer.running():
        call = HttpCall(url="http://h:81/p?q=1", method=b"POST", headers=[(b"a", b"b")], body=b"hello")
        answer = await exchange(call, connect=issuer.connect)
    assert (answer.status, answer.body, dict(answer.headers)[b"x-a"]) == (201, b"body", b"b")
    assert issuer.requests[0].startswith(b"POST /p?q=1 HTTP/1.1\r\n")
    assert b"h:81" in issuer.requests[0]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (_hang, ConnectFailed),
        (_drip, ConnectFailed),
        (_flood, ProtocolViolation),
        (_saying(b"SSH-2.0-OpenSSH\r\n"), ProtocolViolation),
        (_saying(b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000), ProtocolViolation),
        (_saying(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc"), ProtocolViolation),
        (_saying(b""), ProtocolViolation),
    ],
)
async def test_answers_that_are_none(
    answer: Answer, error: type[MeshError], autojump_clock: trio.testing.MockClock
) -> None:
    issuer = _Issuer(answer)
    start = trio.current_time()
    async with issuer.running():
        with pytest.raises((error, ConnectionLost)):
            await exchange(HttpCall(url=URI, timeout_seconds=5.0), connect=issuer.connect)
    assert trio.current_time() - start <= 5.0


@pytest.mark.parametrize(
    "url", ["ftp://h/", "http://", "h", "http://h:99999/", "http://user:word@h/", "http://h/\u00e4", "http://h/a b"]
)
async def test_addresses_that_are_none(url: str, autojump_clock: trio.testing.MockClock) -> None:
    issuer = _Issuer(_hang)
    async with issuer.running():
        with pytest.raises((ConfigurationError, ProtocolViolation)):
            await exchange(HttpCall(url=url), connect=issuer.connect)


async def test_no_connection_and_no_tls(autojump_clock: trio.testing.MockClock) -> None:
    async def refuse(host: str, port: int) -> trio.abc.Stream:
        raise OSError("refused")

    with pytest.raises(ConnectFailed):
        await exchange(HttpCall(url=URI), connect=refuse)

    async def plain(host: str, port: int) -> trio.abc.Stream:
        ours, theirs = trio.testing.memory_stream_pair()
        await theirs.send_all(b"HTTP/1.1 400 no TLS here\r\n\r\n")
        await theirs.aclose()
        return ours

    with pytest.raises(TlsFailure):
        await exchange(HttpCall(url="https://h/"), ssl.create_default_context(), plain)


@asynccontextmanager
async def _store(issuer: _Issuer) -> AsyncIterator[KeyStore]:
    async with issuer.running(), trio.open_nursery() as nursery:
        store = KeyStore(limits=LIMITS, connect=issuer.connect, fetch_seconds=5.0)
        nursery.start_soon(store.run)
        yield store
        nursery.cancel_scope.cancel()


WANTED = KeysWanted(URI, 2.0)


async def test_a_token_waits_for_its_keys_and_the_next_one_does_not(autojump_clock: trio.testing.MockClock) -> None:
    issuer = _Issuer(_saying(_http(_document())))
    async with _store(issuer) as store:
        assert store.keys(URI) is None
        assert await store.wait(WANTED)
        assert isinstance(store.keys(URI), KeySet)
        assert len(issuer.requests) == 1
        await trio.sleep(20)
        issuer.answer = _saying(_http(_document("rotated")))
        former = store.keys(URI)
        assert await store.wait(KeysWanted(URI, 2.0, former))
        assert not await store.wait(KeysWanted(URI, 2.0, store.keys(URI))), "not again so soon"
        assert len(issuer.requests) == 2
        # They have come after the token was judged and before anybody waited: that is no reason to refuse it.
        assert await store.wait(WANTED)
        assert await store.wait(KeysWanted(URI, 2.0, former))
        assert len(issuer.requests) == 2


async def test_keys_are_fetched_ahead(autojump_clock: trio.testing.MockClock) -> None:
    async with _store(_Issuer(_saying(_http(_document())))) as store:
        store.want([URI])
        await trio.sleep(0.1)
        assert store.keys(URI) is not None


async def test_an_issuer_that_hangs_holds_nobody_for_long(autojump_clock: trio.testing.MockClock) -> None:
    issuer = _Issuer(_hang)
    async with _store(issuer) as store:
        start = trio.current_time()
        assert not await store.wait(WANTED)
        assert trio.current_time() - start == pytest.approx(2.0)
        # Once the fetch has failed, nobody waits for the next attempt.
        await trio.sleep(3.2)
        start = trio.current_time()
        assert not await store.wait(WANTED)
        assert trio.current_time() == start


async def test_good_keys_outlive_a_hanging_issuer(autojump_clock: trio.testing.MockClock) -> None:
    issuer = _Issuer(_saying(_http(_document())))
    async with _store(issuer) as store:
        assert await store.wait(WANTED)
        keys = store.keys(URI)
        issuer.answer = _hang
        await trio.sleep(250)
        assert len(issuer.requests) > 2
        assert store.keys(URI) is keys


@pytest.mark.parametrize(
    "answer",
    [
        _http(_document(), b"302 Found", b"location: http://elsewhere/"),
        _http(_document(), b"500 Oops"),
        _http(b"{}"),
        _http(b"x" * 300_000),
    ],
)
async def test_bad_documents_are_not_taken(answer: bytes, autojump_clock: trio.testing.MockClock) -> None:
    issuer = _Issuer(_saying(answer))
    async with _store(issuer) as store:
        assert not await store.wait(WANTED)
        assert store.keys(URI) is None
        assert len(issuer.requests) == 1, "a redirection is not followed"


async def test_an_issuers_document_leads_to_its_keys(autojump_clock: trio.testing.MockClock) -> None:
    uri = "http://issuer.example/.well-known/openid-configuration"
    issuer = _Issuer(_hang)

    async def answer(stream: trio.abc.Stream) -> None:
        first = len(issuer.requests) == 1
        await stream.send_all(_http(b'{"jwks_uri": "http://issuer.example/keys"}' if first else _document()))

    issuer.answer = answer
    async with _store(issuer) as store:
        assert await store.wait(KeysWanted(uri, 2.0))
        assert store.keys(uri) is not None
    assert issuer.requests[1].startswith(b"GET /keys ")
