"""Bad tokens, bad key servers and bad expressions at a whole waypoint: each has its status, costs a bounded time, and
harms no other request.

Key servers are servers on loopback that do what they should not; how much they could send says what was read of them.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import jwt
import pytest
import trio
from cryptography.hazmat.primitives.asymmetric import ec

from mesh.model.http_route import (
    DirectResponse,
    HttpRoute,
    PathMatch,
    PathMatchKind,
    RequestMatch,
    TextMatchKind,
)
from mesh.model.request_policy import (
    Attribute,
    JwtRule,
    RequestAction,
    RequestAuthentication,
    RequestPolicy,
)
from mesh.model.waypoint import Destination, DestinationPort, LogFormat, Telemetry
from mesh.testing.model import make_service
from waypoint.security.key_set_codec import MAX_DOCUMENT_BYTES
from waypoint.testing.policies import condition, policy_of

WEB = "demo/web.demo.svc.cluster.local"
GOOD, OTHER, BAD = "https://good.example", "https://other.example", "https://bad.example"
KEYS = {issuer: ec.generate_private_key(ec.SECP256R1()) for issuer in (GOOD, OTHER, BAD)}
SOCKET_BYTES = 8 << 20
"""What may be on its way when a reader stops."""

Serve = Callable[[trio.SocketStream], Awaitable[None]]


def key_set(issuer: str) -> bytes:
    made = json.loads(jwt.get_algorithm_by_name("ES256").to_jwk(KEYS[issuer].public_key()))
    return json.dumps({"keys": [{**made, "kid": issuer, "use": "sig"}]}).encode()


def token(issuer: str, **claims: Any) -> str:
    content = {"iss": issuer, "sub": "alice", **claims}
    return "authorization: Bearer " + jwt.encode(content, KEYS[issuer], algorithm="ES256", headers={"kid": issuer})


class KeyServer:
    """A key server that answers as ``serve`` does."""

    def __init__(self, serve: Serve) -> None:
        self._serve = serve
        self.uri = ""
        self.asked = 0
        self.sent = 0

    async def run(self, stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            self.asked += 1
            try:
                await self._serve(_Counting(self, stream))  # type: ignore[arg-type]
            except trio.BrokenResourceError:
                return


class _Counting:
    def __init__(self, server: KeyServer, stream: trio.SocketStream) -> None:
        self._server = server
        self._stream = stream

    async def send_all(self, data: bytes) -> None:
        await self._stream.send_all(data)
        self._server.sent += len(data)


async def answer(document: bytes, stream: Any, status: str = "200 OK", *headers: str) -> None:
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(document)}", *headers]
    await stream.send_all("\r\n".join([*lines, "", ""]).encode() + document)


async def hang(_stream: Any) -> None:
    await trio.sleep_forever()


async def drip(stream: Any) -> None:
    await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
    while True:
        await stream.send_all(b" ")
        await trio.sleep(0.05)


async def endless(stream: Any) -> None:
    await stream.send_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    while True:
        await stream.send_all(b"10000\r\n" + bytes(65536) + b"\r\n")


async def endless_head(stream: Any) -> None:
    await stream.send_all(b"HTTP/1.1 200 OK\r\n")
    while True:
        await stream.send_all(b"x: " + b"y" * 65536 + b"\r\n")


async def announced(stream: Any) -> None:
    await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n")
    while True:
        await stream.send_all(bytes(65536))


MANY_KEYS = json.dumps({"keys": [json.loads(key_set(BAD))["keys"][0]] * 1000}).encode()
DEEP = b"[" * 100_000
HUGE = b" " * MAX_DOCUMENT_BYTES + key_set(BAD)
SECRET = json.dumps({"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": BAD}]}).encode()


@asynccontextmanager
async def key_servers(*serves: Serve) -> AsyncIterator[list[KeyServer]]:
    made = [KeyServer(serve) for serve in serves]
    async with trio.open_nursery() as nursery:
        for server in made:
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            server.uri = f"http://127.0.0.1:{listener.socket.getsockname()[1]}/keys"
            nursery.start_soon(trio.serve_listeners, server.run, [listener])
        yield made
        nursery.cancel_scope.cancel()


async def guarded(mesh: Any, *rules: JwtRule, policies: tuple[RequestPolicy, ...] = (), **fields: Any) -> None:
    """A Service that answers 204 to whoever is admitted."""
    route = HttpRoute(name="all", direct_response=DirectResponse(status=204, body=""))
    mesh.offer(
        make_service("web", "10.96.0.1", ports={80: 8080}, namespace="demo"),
        Destination(
            key=WEB,
            waypoint="demo/waypoint",
            ports=fields.pop("ports", (DestinationPort(number=80, routes=(route,)),)),
            authentication=(RequestAuthentication(key="demo/jwt", rules=rules),),
            policies=policies,
            **fields,
        ),
    )
    await mesh.served("10.96.0.1:80")


async def status(mesh: Any, *headers: str, path: str = "/") -> int:
    return int((await mesh.get("10.96.0.1:80", path, *headers))[0])


@pytest.mark.parametrize(
    "serve",
    [
        hang,
        drip,
        endless,
        endless_head,
        announced,
        partial(answer, HUGE),
        partial(answer, MANY_KEYS),
        partial(answer, DEEP),
        partial(answer, SECRET),
        partial(answer, b"{}"),
        partial(answer, key_set(BAD), status="500 No"),
        lambda stream: answer(b"", stream, "302 Elsewhere", "location: /keys"),
    ],
    ids=["hangs", "drips", "endless", "endless head", "announced", "huge", "many keys", "deep", "secret", "none", "500",
         "redirects"],
)  # fmt: skip
async def test_a_bad_key_server_costs_its_own_issuer_only(own_mesh: Any, serve: Serve) -> None:
    sound = [partial(answer, key_set(issuer)) for issuer in (GOOD, OTHER)]
    async with key_servers(serve, *sound) as (bad, good, other):
        rules = [
            JwtRule(issuer=issuer, jwks_uri=server.uri, timeout_seconds=0.3)
            for issuer, server in ((BAD, bad), (GOOD, good), (OTHER, other))
        ]
        await guarded(own_mesh, *rules)
        results: list[int] = []

        async def refused(number: int) -> None:
            results.append(await status(own_mesh, token(BAD, number=number)))

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                for number in range(20):
                    nursery.start_soon(refused, number)
                for issuer in (GOOD, OTHER):
                    assert await status(own_mesh, token(issuer)) == 204
                assert await status(own_mesh) == 204
        assert results == [401] * 20
        assert bad.asked <= 3, "however many ask, the server is spared"
        assert bad.sent < SOCKET_BYTES


async def test_good_and_bad_tokens_of_one_issuer(own_mesh: Any) -> None:
    async with key_servers(partial(answer, key_set(GOOD))) as (good,):
        await guarded(own_mesh, JwtRule(issuer=GOOD, jwks_uri=good.uri, audiences=("shop",)))
        assert await status(own_mesh, token(GOOD, aud="shop")) == 204
        head, payload, signature = token(GOOD, aud="shop").removeprefix("authorization: Bearer ").split(".")
        forged = jwt.encode({"iss": GOOD, "aud": "shop"}, "x" * 32, algorithm="HS256", headers={"kid": GOOD})
        unsigned = jwt.encode({"iss": GOOD, "aud": "shop"}, "", algorithm="none", headers={"kid": GOOD})
        bad = [
            unsigned,
            forged,
            token(GOOD, aud="shop", exp=1).removeprefix("authorization: Bearer "),
            token(GOOD, aud="other").removeprefix("authorization: Bearer "),
            token(GOOD, aud="shop", pad="x" * 20_000).removeprefix("authorization: Bearer "),
            f"{head}.{payload}.{signature[:-4]}AAAA",
            f"{head}.{payload}.",
            "a.b.c",
            "." * 1000,
        ]
        for each in bad:
            code, text = await own_mesh.get("10.96.0.1:80", "/", f"authorization: Bearer {each}")
            assert code == 401, each[:80]
            assert b"www-authenticate: Bearer" in text
            assert each.encode()[:200] not in text, "nothing of a token is repeated"
        # The head alone may be too large: that depends on how it arrives.
        assert await status(own_mesh, f"authorization: Bearer {'x' * 70_000}") in (401, 431)
        assert await status(own_mesh, token(GOOD, aud="shop")) == 204
        assert good.asked == 1


async def test_a_key_that_is_not_known_yet_is_fetched_but_not_again_and_again(own_mesh: Any) -> None:
    documents = [key_set(OTHER).replace(OTHER.encode(), b"old"), key_set(GOOD)]

    async def rotating(stream: Any) -> None:
        await answer(documents[0] if server.asked == 1 else documents[1], stream)

    async with key_servers(rotating) as (server,):
        await guarded(own_mesh, JwtRule(issuer=GOOD, jwks_uri=server.uri, timeout_seconds=2.0))
        with trio.fail_after(10):
            while not server.asked:  # noqa: ASYNC110 -- nobody tells
                await trio.sleep(0.01)
        results = {await status(own_mesh, token(GOOD, number=number)) for number in range(20)}
        assert results <= {204, 401}
        assert server.asked <= 2


async def test_the_principal_of_a_token_decides_and_is_logged(own_mesh: Any, capfd: pytest.CaptureFixture[str]) -> None:
    policy = policy_of(RequestAction.ALLOW, condition(Attribute.REQUEST_PRINCIPAL, f"{GOOD}/alice"))
    template = "%RESPONSE_CODE% %DYNAMIC_METADATA(istio_authn:request.auth.principal)% logged"
    telemetry = Telemetry(log_format=LogFormat.TEMPLATE, log_template=template)
    rules = [JwtRule(issuer=issuer, jwks=key_set(issuer).decode()) for issuer in (GOOD, OTHER)]
    await guarded(own_mesh, *rules, policies=(policy,), telemetry=telemetry)
    assert await status(own_mesh, token(GOOD)) == 204
    assert await status(own_mesh, token(OTHER)) == 403
    assert await status(own_mesh) == 403
    lines: list[str] = []
    with trio.fail_after(10):
        while len(lines) < 3:
            await trio.sleep(0.02)
            lines += [line for line in capfd.readouterr().out.splitlines() if line.endswith("logged")]
    assert lines == [f"204 {GOOD}/alice logged", f"403 {OTHER}/alice logged", "403 - logged"]


async def test_expressions_that_blow_up_elsewhere_cost_nothing_here(own_mesh: Any) -> None:
    """Backtracking would take longer than the world lasts: that this ends is what it shows."""
    expression = "(a+)+(a+)+(a+)+b"
    matching = HttpRoute(
        name="regex",
        matches=(RequestMatch(path=PathMatch(PathMatchKind.REGEX, f"/{expression}")),),
        direct_response=DirectResponse(status=200, body=""),
    )
    other = HttpRoute(name="all", direct_response=DirectResponse(status=204, body=""))
    denied = condition(Attribute.HEADER, expression, kind=TextMatchKind.REGEX, name="x-a")
    policy = policy_of(RequestAction.DENY, denied)
    ports = (DestinationPort(number=80, routes=(matching, other)),)
    await guarded(own_mesh, policies=(policy,), ports=ports)
    with trio.fail_after(20):
        for _ in range(20):
            assert await status(own_mesh, f"x-a: {'a' * 20_000}", path="/" + "a" * 20_000) == 204
        assert await status(own_mesh, path="/" + "a" * 100 + "b") == 200
        assert await status(own_mesh, f"x-a: {'a' * 100}b") == 403
