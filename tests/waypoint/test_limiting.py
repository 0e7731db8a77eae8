"""Limits of routes: their buckets outlive a version of the route, and go when they are full again."""

from __future__ import annotations

from mesh.model.http_route import HttpRoute, RateLimit
from waypoint.http.message import RequestHead
from waypoint.limiting import Limiter
from waypoint.testing.exchanges import CLIENT
from waypoint.testing.wires import ManualClock

ROUTE = HttpRoute(name="r", rate_limits=(RateLimit(name="few", tokens=2, interval_seconds=10.0),))
HEAD = RequestHead(method=b"GET", path=b"/", authority=b"echo")


def test_a_new_version_of_a_route_fills_nothing_up() -> None:
    clock = ManualClock()
    limiter = Limiter(clock.read)
    first, other = limiter.of("demo/web", ROUTE), limiter.of("demo/other", ROUTE)
    assert [first.check(HEAD, CLIENT), first.check(HEAD, CLIENT)] == [None, None]
    refused = limiter.of("demo/web", ROUTE).check(HEAD, CLIENT)
    assert refused is not None
    assert (refused.status, refused.flag, refused.route) == (429, "RL", "r")
    assert refused.headers == [(b"retry-after", b"5")]
    assert other.check(HEAD, CLIENT) is None
    clock.advance(5)
    assert first.check(HEAD, CLIENT) is None
    assert first.check(HEAD, CLIENT) is not None


def test_buckets_go_when_they_are_as_good_as_new() -> None:
    clock = ManualClock()
    limiter = Limiter(clock.read)
    for _ in range(2):
        limiter.of("demo/web", ROUTE).check(HEAD, CLIENT)
    clock.advance(1)
    limiter.tick(clock.now)
    assert limiter.of("demo/web", ROUTE).check(HEAD, CLIENT) is not None
    clock.advance(21)
    limiter.tick(clock.now)
    assert limiter.of("demo/web", ROUTE).check(HEAD, CLIENT) is None


def test_all_limits_of_a_route_count() -> None:
    limits = (RateLimit(name="a", tokens=9, interval_seconds=1.0), RateLimit(name="b", tokens=1, interval_seconds=1.0))
    route = Limiter(ManualClock().read).of("demo/web", HttpRoute(name="r", rate_limits=limits))
    assert [route.check(HEAD, CLIENT) is None for _ in range(2)] == [True, False]
