"""The order in which a request is decided about, and what its endpoint is told of its client."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from mesh.model.http_route import Backend, HttpRoute, PathMatch, PathMatchKind, RateLimit, RequestMatch
from mesh.model.request_policy import RequestAction, RequestPolicy, RequestRule
from mesh.model.upstream_policy import TrafficPolicy, UpstreamPolicy
from mesh.model.waypoint import Destination, DestinationPort
from mesh.testing.model import make_workload
from waypoint.deciding import ConnectionDecider, PortDecider
from waypoint.exchange.decision import Answer, Decision, Forward
from waypoint.exchange.facts import Facts
from waypoint.guarding import Guard
from waypoint.http.limits import HttpLimits
from waypoint.http.message import RequestHead
from waypoint.limiting import Limiter
from waypoint.routing.port import PortRoutes
from waypoint.security.key_store_driver import KeyStore
from waypoint.testing.exchanges import CLIENT
from waypoint.testing.wires import ManualClock, MemoryConnector
from waypoint.upstream.backend import Place, ServiceBackend
from waypoint.upstream.cluster import Cluster
from waypoint.upstream.pool_contract import Unavailable

WEB = "demo/web.demo.svc.cluster.local"


class Found:
    """Knows one service."""

    def __init__(self) -> None:
        clock = ManualClock()
        cluster = Cluster(TrafficPolicy(), make_workload("self"), lambda: 0.5)
        self.web = ServiceBackend(
            WEB, cluster, lambda cluster: [], lambda to: MemoryConnector(), clock.timers, HttpLimits(), http2=False
        )
        self.asked: list[bool] = []

    def backend(
        self, place: Place, policies: Mapping[str, UpstreamPolicy], *, http2: bool
    ) -> ServiceBackend | Unavailable:
        self.asked.append(http2)
        return self.web if place.service == WEB else Unavailable("NC", "no such service")


def decide(
    path: bytes = b"/",
    *headers: tuple[bytes, bytes],
    routes: tuple[HttpRoute, ...] = (),
    policies: tuple[RequestPolicy, ...] = (),
    version: str = "1.1",
    found: Found | None = None,
) -> tuple[Decision, RequestHead, Facts]:
    port = DestinationPort(number=80, routes=routes)
    tasks: Any = None
    guard = Guard(Destination(key=WEB, waypoint="demo/waypoint", policies=policies), KeyStore(), tasks, tasks)
    limiter = Limiter(lambda: 0.0)
    decider = PortDecider(
        WEB, guard, limiter, PortRoutes(WEB, port, b"k" * 32), found or Found(), {}, lambda: 0.5
    )
    head = RequestHead(method=b"GET", path=path, authority=b"web", headers=list(headers))
    facts = Facts(head, CLIENT, version, 0.0)
    return ConnectionDecider(decider, CLIENT).decide(head, CLIENT, facts), head, facts


def test_the_endpoint_is_told_of_the_client() -> None:
    found = Found()
    decision, head, facts = decide(
        b"/a/../b", (b"x-forwarded-for", b"1.2.3.4"), (b"x-forwarded-proto", b"https"), found=found, version="2"
    )
    assert isinstance(decision, Forward)
    assert head.path == b"/b"
    assert head.headers == [
        (b"x-forwarded-for", b"1.2.3.4, 10.0.0.1"), (b"x-forwarded-proto", head.scheme)
    ]  # fmt: skip
    assert facts.chooser is not None
    assert facts.chooser.service == WEB
    assert found.asked == [True]
    _, head, _ = decide(b"/", (b"x-request-id", b"own"))
    assert [value for name, value in head.headers if name == b"x-request-id"] == [b"own"]


def route(**fields: Any) -> HttpRoute:
    return HttpRoute(name="r", backends=(Backend(service=WEB, port=80),), **fields)


_ELSEWHERE = RequestMatch(path=PathMatch(PathMatchKind.EXACT, "/y"))


@pytest.mark.parametrize(
    ("path", "routes", "status", "flag", "details"),
    [
        (b"/%00", (), 400, "DPE", "path_normalization_failed"),
        (b"/x", (route(matches=(_ELSEWHERE,)),), 404, "NR", "route_not_found"),
        (b"/", (HttpRoute(name="r"),), 500, "", "no_usable_backend"),
        (b"/", (HttpRoute(name="r", backends=(Backend(service="demo/none", port=80),)),), 503, "NC", "no_backend"),
        (b"/", (route(rate_limits=(RateLimit(name="none", tokens=0, interval_seconds=1.0),)),), 429, "RL", ""),
    ],
)  # fmt: skip
def test_what_is_answered_here_says_why(
    path: bytes, routes: tuple[HttpRoute, ...], status: int, flag: str, details: str
) -> None:
    decision, _, facts = decide(path, routes=routes)
    assert isinstance(decision, Answer)
    assert (decision.status, decision.flag) == (status, flag)
    assert details in decision.details
    assert facts.chooser is None


def test_policies_come_before_routes() -> None:
    deny = RequestPolicy(key="demo/p", action=RequestAction.DENY, rules=(RequestRule(),))
    decision, _, facts = decide(policies=(deny,), routes=(HttpRoute(name="r"),))
    assert isinstance(decision, Answer)
    assert decision.status == 403
    assert facts.chooser is None
