"""Replicas of a waypoint that count a shared rate limit in one store: whole waypoints, and a real server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from mesh.errors import ConfigurationError
from mesh.model.http_route import DirectResponse, HttpRoute, PathMatch, PathMatchKind, RateLimit, RequestMatch
from mesh.model.waypoint import Destination, DestinationPort
from mesh.testing.model import make_service
from waypoint.app import store_settings
from waypoint.config import RateLimitStoreGroup

WEB = "demo/web.demo.svc.cluster.local"
TOKENS = 10


def limited(**fields: Any) -> tuple[Any, ...]:
    """A Service whose requests under ``/limited`` share a limit; the waypoint answers them itself."""
    limit = RateLimit(name="ours", tokens=TOKENS, interval_seconds=3600.0, shared=True)
    route = HttpRoute(
        name="limited",
        matches=(RequestMatch(path=PathMatch(PathMatchKind.PREFIX, "/limited")),),
        rate_limits=(limit,),
        direct_response=DirectResponse(status=204, body=""),
    )
    return (
        make_service("web", "10.96.0.1", ports={80: 8080}, namespace="demo"),
        Destination(key=WEB, waypoint="demo/waypoint", ports=(DestinationPort(number=80, routes=(route,)),), **fields),
    )


async def statuses(mesh: Any, count: int) -> list[int]:
    return [(await mesh.get("10.96.0.1:80", "/limited"))[0] for _ in range(count)]


async def serving(meshes: list[Any]) -> None:
    for mesh in meshes:
        mesh.offer(*limited())
        await mesh.served("10.96.0.1:80")


def answers(mesh: Any) -> dict[str, float]:
    return {
        sample.labels["answer"]: sample.value
        for family in mesh.registry.collect()
        for sample in family.samples
        if sample.name == "ambimesh_waypoint_shared_limit_answers_total"
    }


async def connected(meshes: list[Any], port: int) -> None:
    """Wait until each has its connection to the store."""

    def connections() -> int:
        lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
        ends = [line.split()[1:4] for line in lines]
        return sum(remote.endswith(f":{port:04X}") and state == "01" for _, remote, state in ends)

    with trio.fail_after(10):
        while connections() < len(meshes):  # noqa: ASYNC110 -- nobody tells
            await trio.sleep(0.01)


async def test_two_replicas_admit_together_what_the_limit_says(redis: Any, replicas: Any) -> None:
    with redis() as port:
        store = RateLimitStoreGroup(host="127.0.0.1", port=port, timeout_seconds=5.0)
        async with replicas(2, rate_limit_store=store) as (one, other):
            await serving([one, other])
            await connected([one, other], port)
            seen: list[int] = []

            async def ask(mesh: Any) -> None:
                seen.extend(await statuses(mesh, TOKENS))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask, one)
                nursery.start_soon(ask, other)
            assert (seen.count(204), seen.count(429)) == (TOKENS, TOKENS)
            counted = [answers(mesh) for mesh in (one, other)]
            assert sum(each.get("admitted", 0) for each in counted) == TOKENS
            assert sum(each.get("limited", 0) for each in counted) == TOKENS
            assert all("away" not in each for each in counted)
            assert (await one.get("10.96.0.1:80", "/other"))[0] == 404, "what has no limit is not counted"


async def test_a_store_that_goes_away_makes_each_count_for_itself_until_it_is_back(redis: Any, replicas: Any) -> None:
    with redis() as port:
        store = RateLimitStoreGroup(host="127.0.0.1", port=port, timeout_seconds=1.0)
        async with replicas(2, rate_limit_store=store) as (one, other):
            await serving([one, other])
            await connected([one, other], port)
            assert await statuses(one, TOKENS) == [204] * TOKENS
            assert await statuses(other, 1) == [429]
            with redis.stopped(port):
                for mesh in (one, other):
                    assert await statuses(mesh, TOKENS + 1) == [*[204] * TOKENS, 429]
                    assert answers(mesh)["away"] == TOKENS + 1
            await connected([one, other], port)
            # A new store knows of nothing: the limit is full again, and counted together again.
            assert await statuses(one, TOKENS) == [204] * TOKENS
            assert await statuses(other, 1) == [429]


@pytest.mark.parametrize(("when_away", "status"), [("admit", 204), ("refuse", 500)])
async def test_a_store_that_hangs_costs_little(replicas: Any, when_away: Any, status: int) -> None:
    async def hang(stream: trio.SocketStream) -> None:
        async with stream:
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, hang, [listener])
        port = listener.socket.getsockname()[1]
        store = RateLimitStoreGroup(host="127.0.0.1", port=port, when_away=when_away)
        async with replicas(1, rate_limit_store=store) as (mesh,):
            await serving([mesh])
            await connected([mesh], port)
            with trio.fail_after(20):
                assert await statuses(mesh, 2 * TOKENS) == [status] * (2 * TOKENS)
            assert answers(mesh) == {"away": 2 * TOKENS}
        nursery.cancel_scope.cancel()


def test_the_settings_of_the_store(tmp_path: Path) -> None:
    made = store_settings(RateLimitStoreGroup(host="redis", prefix="p:"), "demo/waypoint")
    assert (made.host, made.port, made.tls, made.prefix) == ("redis", 6379, None, "p:demo/waypoint|")
    assert store_settings(RateLimitStoreGroup(host="redis", tls=True), "a/b").tls is not None
    for content in (None, "no certificate"):
        file = tmp_path / "roots.pem"
        if content is not None:
            file.write_text(content)
        with pytest.raises(ConfigurationError, match="root_certificate"):
            store_settings(RateLimitStoreGroup(host="redis", tls=True, root_certificate=file), "a/b")


