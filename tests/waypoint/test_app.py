"""The waypoint's process: from a client's tunnel to an endpoint and back."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from mesh.errors import TunnelRefused
from mesh.model.http_route import (
    Backend,
    DirectResponse,
    HeaderChange,
    HttpRoute,
    NamedMatch,
    PathMatch,
    PathMatchKind,
    RateLimit,
    RequestMatch,
    Retry,
    TextMatch,
    TextMatchKind,
)
from mesh.model.request_policy import (
    Attribute,
    JwtRule,
    RequestAction,
    RequestAuthentication,
    RequestPolicy,
)
from mesh.model.waypoint import Destination, DestinationPort
from waypoint.testing.applications import applications
from waypoint.testing.policies import condition, policy_of

WEB = "demo/web.demo.svc.cluster.local"
CANARY = "demo/canary.demo.svc.cluster.local"


async def test_a_request_is_carried_to_an_endpoint_and_its_answer_back(own_mesh: Any) -> None:
    async with applications("web") as (web,):
        own_mesh.offer_application(web, WEB, "10.96.0.1", "127.0.0.2", (DestinationPort(number=80),))
        status, answer = await own_mesh.reached()
        assert status == 200
        assert answer.endswith(b"web")
        headers = dict(web.requests[0].headers)
        assert headers[b"x-forwarded-for"] == b"127.0.0.1"
        assert headers[b"x-forwarded-proto"] == b"http"
        assert len(headers[b"x-request-id"]) == 36


async def test_what_is_not_bound_to_it_is_refused(own_mesh: Any) -> None:
    async with applications("web") as (web,):
        own_mesh.offer_application(web, WEB, "10.96.0.1", "127.0.0.2", (DestinationPort(number=80),))
        await own_mesh.reached()
        for authority in ("10.96.0.9:80", "10.96.0.1:81", "somewhere.else:80"):
            with pytest.raises(TunnelRefused) as caught:
                await own_mesh.get(authority)
            assert caught.value.status == 400


async def test_routes_decide_by_header_weight_and_path(own_mesh: Any) -> None:
    async with applications("web", "canary") as (web, canary):
        split = HttpRoute(
            name="split", backends=(Backend(service=WEB, port=80, weight=3), Backend(service=CANARY, port=80, weight=1))
        )
        by_header = HttpRoute(
            name="header",
            matches=(RequestMatch(headers=(NamedMatch("x-canary", TextMatch(TextMatchKind.EXACT, "yes")),)),),
            backends=(Backend(service=CANARY, port=80, request_headers=HeaderChange(set=(("x-via", "header"),))),),
            response_headers=HeaderChange(add=(("x-route", "header"),)),
        )
        direct = HttpRoute(
            name="direct",
            matches=(RequestMatch(path=PathMatch(PathMatchKind.PREFIX, "/direct")),),
            direct_response=DirectResponse(status=418, body="teapot"),
        )
        own_mesh.offer_application(canary, CANARY, "10.96.0.2", "127.0.0.3", (DestinationPort(number=80),))
        routes = (direct, by_header, split)
        own_mesh.offer_application(web, WEB, "10.96.0.1", "127.0.0.2", (DestinationPort(number=80, routes=routes),))
        await own_mesh.reached()
        status, answer = await own_mesh.get("10.96.0.1:80", "/", "x-canary: yes")
        assert status == 200
        assert answer.endswith(b"canary")
        assert b"x-route: header" in answer
        assert dict(canary.requests[-1].headers)[b"x-via"] == b"header"
        status, answer = await own_mesh.get("10.96.0.1:80", "/direct/x")
        assert (status, answer[-6:]) == (418, b"teapot")
        seen = {(await own_mesh.get("10.96.0.1:80"))[1].rpartition(b"\r\n")[2] for _ in range(60)}
        assert seen == {b"web", b"canary"}


async def test_a_changed_route_concerns_the_next_request(own_mesh: Any) -> None:
    async with applications("web") as (web,):
        own_mesh.offer_application(web, WEB, "10.96.0.1", "127.0.0.2", (DestinationPort(number=80),))
        await own_mesh.reached()
        refusing = HttpRoute(name="closed", direct_response=DirectResponse(status=503, body="closed"))
        own_mesh.offer(
            Destination(key=WEB, waypoint="demo/waypoint", ports=(DestinationPort(number=80, routes=(refusing,)),))
        )
        with trio.fail_after(5):
            while (await own_mesh.get("10.96.0.1:80"))[0] != 503:  # noqa: ASYNC110 -- nobody tells when it is taken
                await trio.sleep(0.02)


async def test_a_retry_hides_a_failure(own_mesh: Any) -> None:
    async with applications("web") as (web,):
        route = HttpRoute(
            name="retried",
            backends=(Backend(service=WEB, port=80),),
            retry=Retry(attempts=2, statuses=(503,), backoff_seconds=0.001),
        )
        own_mesh.offer_application(web, WEB, "10.96.0.1", "127.0.0.2", (DestinationPort(number=80, routes=(route,)),))
        await own_mesh.reached()
        web.requests.clear()
        web.statuses = [503, 503]
        assert (await own_mesh.get("10.96.0.1:80"))[0] == 200
        assert len(web.requests) == 3


async def test_a_destination_that_was_withdrawn_is_refused(own_mesh: Any) -> None:
    async with applications("web") as (web,):
        own_mesh.offer_application(web, WEB, "10.96.0.1", "127.0.0.2", (DestinationPort(number=80),))
        await own_mesh.reached()
        own_mesh.withdraw(Destination(key=WEB, waypoint="demo/waypoint"))
        with trio.fail_after(5), pytest.raises(TunnelRefused):
            await _asked_for_ever(own_mesh)


async def _asked_for_ever(mesh: Any) -> None:
    while True:
        await mesh.get("10.96.0.1:80")
        await trio.sleep(0.02)


def allow(*values: str, action: RequestAction = RequestAction.ALLOW) -> RequestPolicy:
    return policy_of(action, condition(Attribute.METHOD, *values))


@pytest.mark.parametrize(
    ("policy", "status"),
    [
        (allow("GET"), 200),
        (allow("POST"), 403),
        (allow("GET", action=RequestAction.DENY), 403),
        (allow("POST", action=RequestAction.DENY), 200),
    ],
)
async def test_policies_decide_per_request(own_mesh: Any, policy: RequestPolicy, status: int) -> None:
    async with applications("web") as (web,):
        own_mesh.offer_application(web, WEB, "10.96.0.1", "127.0.0.2", (DestinationPort(number=80),))
        await own_mesh.reached()
        asked = len(web.requests)
        own_mesh.offer(
            Destination(
                key=WEB,
                waypoint="demo/waypoint",
                ports=(DestinationPort(number=80),),
                policies=(policy,),
                hosts=("told",),
            )
        )
        await told(own_mesh)
        asked = len(web.requests)
        answered, _ = await own_mesh.get("10.96.0.1:80")
        assert answered == status
        assert len(web.requests) == asked + (status == 200)


async def told(mesh: Any) -> None:
    """Return once the version of a destination that has the host ``told`` is in force."""
    await mesh.reached("told:80")


async def test_a_bad_token_is_refused_and_none_passes(own_mesh: Any) -> None:
    async with applications("web") as (web,):
        own_mesh.offer_application(web, WEB, "10.96.0.1", "127.0.0.2", (DestinationPort(number=80),))
        await own_mesh.reached()
        rule = JwtRule(issuer="https://issuer", jwks='{"keys":[]}')
        own_mesh.offer(
            Destination(
                key=WEB,
                waypoint="demo/waypoint",
                ports=(DestinationPort(number=80),),
                hosts=("told",),
                authentication=(RequestAuthentication(key="demo/jwt", rules=(rule,)),),
            )
        )
        await told(own_mesh)
        assert (await own_mesh.get("10.96.0.1:80"))[0] == 200
        status, answer = await own_mesh.get("10.96.0.1:80", "/", "authorization: Bearer not.a.token")
        assert status == 401
        assert b"www-authenticate: Bearer" in answer


async def test_a_rate_limit_outlives_a_change_of_the_destination(own_mesh: Any) -> None:
    async with applications("web") as (web,):
        limit = RateLimit(name="few", tokens=3, interval_seconds=600.0)
        route = HttpRoute(name="limited", backends=(Backend(service=WEB, port=80),), rate_limits=(limit,))
        own_mesh.offer_application(web, WEB, "10.96.0.1", "127.0.0.2", (DestinationPort(number=80, routes=(route,)),))
        await own_mesh.reached()
        assert [(await own_mesh.get("10.96.0.1:80"))[0] for _ in range(3)] == [200, 200, 429]
        status, answer = await own_mesh.get("10.96.0.1:80")
        assert status == 429
        assert b"retry-after: " in answer
        other = HttpRoute(
            name="open",
            matches=(RequestMatch(path=PathMatch(PathMatchKind.PREFIX, "/open")),),
            backends=(Backend(service=WEB, port=80),),
        )
        ports = (DestinationPort(number=80, routes=(other, route)),)
        own_mesh.offer(Destination(key=WEB, waypoint="demo/waypoint", ports=ports, hosts=("told",)))
        with trio.fail_after(10):
            while True:
                try:
                    assert (await own_mesh.get("told:80", "/open"))[0] == 200
                    break
                except TunnelRefused:
                    await trio.sleep(0.02)
        assert (await own_mesh.get("10.96.0.1:80"))[0] == 429


async def test_requests_are_counted_with_both_ends(own_mesh: Any) -> None:
    async with applications("web") as (web,):
        route = HttpRoute(
            name="some",
            matches=(RequestMatch(path=PathMatch(PathMatchKind.PREFIX, "/some")),),
            backends=(Backend(service=WEB, port=80),),
        )
        own_mesh.offer_application(web, WEB, "10.96.0.1", "127.0.0.2", (DestinationPort(number=80, routes=(route,)),))
        await own_mesh.reached()
        before = counted(own_mesh)
        for path in ("/some", "/some", "/other"):
            await own_mesh.get("10.96.0.1:80", path)
        after = counted(own_mesh)
    key = ("waypoint", "web.demo.svc.cluster.local", "spiffe://cluster.local/ns/demo/sa/client")
    assert after[(*key, "web", "200", "-")] - before.get((*key, "web", "200", "-"), 0) == 2
    assert after[(*key, "unknown", "404", "NR")] - before.get((*key, "unknown", "404", "NR"), 0) == 1


def counted(mesh: Any) -> dict[tuple[str, ...], float]:
    names = ("reporter", "destination_service", "source_principal", "destination_workload", "response_code")
    return {
        (*(sample.labels[name] for name in names), sample.labels["response_flags"]): sample.value
        for family in mesh.registry.collect()
        for sample in family.samples
        if sample.name == "istio_requests_total"
    }
