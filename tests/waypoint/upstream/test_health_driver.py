"""Health checks as they run: who is asked, how many at a time, what answers do, and when nobody asks any more."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import trio
import trio.testing
from prometheus_client import CollectorRegistry

from mesh.model.service import LoadBalancing
from mesh.model.upstream_policy import HealthCheck, OutlierDetection, Subset, TrafficPolicy, UpstreamPolicy
from mesh.state.routes import ToWorkload
from mesh.testing.model import make_workload
from waypoint.http.limits import HttpLimits
from waypoint.testing.wires import ManualClock, MemoryConnector, MemoryWire
from waypoint.upstream.backend import ServiceBackend
from waypoint.upstream.cluster import Cluster
from waypoint.upstream.endpoint import Endpoint
from waypoint.upstream.health_driver import AT_ONCE, HealthChecks, Interest
from waypoint.upstream.pool_contract import Unavailable

CHECK = HealthCheck(path="/healthz", interval_seconds=10.0, timeout_seconds=2.0, unhealthy_threshold=2)
POLICY = TrafficPolicy(health_check=CHECK)
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
BAD = b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n"


class Checking:
    """A service whose endpoints are memory wires."""

    def __init__(self, *routes: ToWorkload, policy: TrafficPolicy = POLICY) -> None:
        self.clock = ManualClock()
        self.registry = CollectorRegistry()
        self.checks = HealthChecks(self.clock.timers, self.registry)
        self.routes = list(routes)
        self.dialled: list[tuple[str, MemoryConnector]] = []
        self.draw: Callable[[], float] = lambda: 0.0
        """Zero: whoever is new is asked at once."""
        self.cluster = Cluster(policy, make_workload("waypoint", "10.0.0.9"), lambda: self.draw())
        self.backend = ServiceBackend(
            "demo/echo", self.cluster, self._refresh, self._connector, self.clock.timers, HttpLimits(), http2=False
        )
        self.checks.add(self.backend)
        self.held: Any = self.checks.interest([UpstreamPolicy(service="demo/echo", policy=policy)])

    def _refresh(self, cluster: Cluster) -> list[Endpoint] | Unavailable:
        return cluster.update(self.routes, LoadBalancing(), self.clock.now)

    def _connector(self, to: ToWorkload) -> MemoryConnector:
        made = MemoryConnector()
        self.dialled.append((str(to.target), made))
        return made

    def round(self, answers: dict[str, bytes], seconds: float = 11.0) -> dict[str, bytes]:
        """Let whoever is due be asked, and answer by address; returns what each was asked."""
        self.clock.advance(seconds)
        self.dialled.clear()
        self.checks.start_due()
        asked = {}
        for address, connector in list(self.dialled):
            [wire] = connector.wires
            asked[address] = wire.take()
            if address in answers:
                wire.feed(answers[address])
        return asked

    def wires(self) -> list[MemoryWire]:
        return [wire for _, connector in self.dialled for wire in connector.wires]

    @property
    def usable(self) -> list[bool]:
        return [endpoint.usable for endpoint in self.cluster.endpoints]


def test_a_sick_endpoint_goes_out_and_a_well_one_comes_in_again(route: Any) -> None:
    checking = Checking(route(1), route(2))
    one, other = "10.0.0.1:8080", "10.0.0.2:8080"
    asked = checking.round({one: OK, other: BAD})
    assert asked[one].startswith(b"GET /healthz HTTP/1.1\r\n")
    assert b"user-agent: ambimesh-health-check" in asked[one]
    assert checking.usable == [True, True], "once is not twice"
    checking.round({one: OK, other: BAD})
    assert checking.usable == [True, False]
    picked = {str(endpoint.to.target) for _ in range(20) if (endpoint := checking.cluster.pick(checking.clock.now))}
    assert picked == {one}
    checking.round({one: OK, other: OK})
    assert checking.usable == [True, True]
    assert all(wire.closed for wire in checking.wires()), "no connection is kept"
    values = {
        sample.labels["result"]: sample.value
        for family in checking.registry.collect()
        for sample in family.samples
        if sample.name.endswith("_total")
    }
    assert values == {"passed": 4, "failed": 2}


def test_who_does_not_answer_or_is_not_there_is_sick(route: Any) -> None:
    checking = Checking(route(1), route(2))
    for _ in range(2):
        checking.round({})
        [hangs, refuses] = checking.wires()
        refuses.hang_up()
        checking.clock.advance(2.1)
        assert hangs.closed
    assert checking.usable == [False, False]
    assert checking.checks.under_way == 0
    assert checking.cluster.pick(checking.clock.now) is None, "without a bound for panic nobody is chosen"


def test_in_panic_the_sick_are_used_too(route: Any) -> None:
    policy = replace(POLICY, outlier=OutlierDetection(min_health_percent=50))
    checking = Checking(route(1), route(2), route(3), policy=policy)
    addresses = ["10.0.0.1:8080", "10.0.0.2:8080", "10.0.0.3:8080"]
    for _ in range(2):
        checking.round(dict(zip(addresses, (BAD, BAD, OK), strict=True)))
    assert checking.usable == [False, False, True]
    checking.draw = random.Random(1).random
    picked = {str(endpoint.to.target) for _ in range(60) if (endpoint := checking.cluster.pick(checking.clock.now))}
    assert picked == set(addresses)


def test_a_connection_may_be_enough_and_a_port_may_be_named(route: Any) -> None:
    checking = Checking(route(1), policy=TrafficPolicy(health_check=replace(CHECK, path=None, port=9999)))
    assert checking.round({}) == {"10.0.0.1:9999": b""}
    assert all(wire.closed for wire in checking.wires())
    assert checking.usable == [True]
    assert checking.checks.under_way == 0


def test_endpoints_that_come_are_asked_and_those_that_go_are_not(route: Any) -> None:
    checking = Checking(route(1))
    assert set(checking.round({"10.0.0.1:8080": OK})) == {"10.0.0.1:8080"}
    checking.routes = [route(2)]
    assert set(checking.round({})) == {"10.0.0.2:8080"}
    checking.routes = []
    checking.clock.advance(2.1)
    assert checking.round({}) == {}


def test_few_are_asked_at_a_time_and_all_in_the_end(route: Any) -> None:
    checking = Checking(*(route(number) for number in range(1, 3 * AT_ONCE)))
    checking.clock.advance(11)
    asked = set()
    for _ in range(3):
        checking.dialled.clear()
        checking.checks.start_due()
        assert checking.checks.under_way <= AT_ONCE
        assert (checking.checks.start_due() == float("inf")) is (checking.checks.under_way == AT_ONCE)
        for address, connector in checking.dialled:
            asked.add(address)
            connector.wires[0].feed(OK)
    assert len(asked) == 3 * AT_ONCE - 1


def test_nobody_is_asked_for_nobody_and_what_was_found_is_forgotten(route: Any) -> None:
    checking = Checking(route(1))
    for _ in range(2):
        checking.round({"10.0.0.1:8080": BAD})
    assert checking.usable == [False]
    newer = checking.checks.interest([UpstreamPolicy(service="demo/echo", policy=POLICY)])
    checking.held = None
    assert checking.round({}) != {}, "a new version of the destination asks as well"
    checking.clock.advance(3)
    del newer
    assert checking.round({}) == {}
    assert checking.usable == [True]
    checking.held = checking.checks.interest([UpstreamPolicy(service="demo/other", policy=POLICY)])
    assert checking.round({}) == {}


def test_ports_and_subsets_have_checks_too() -> None:
    subset = Subset(name="v1", labels=(), policy=replace(POLICY, health_check=replace(CHECK, path="/s")))
    port = replace(POLICY, health_check=replace(CHECK, path="/p"))
    said = Interest([UpstreamPolicy(service="a", policy=POLICY, ports=((80, port),), subsets=(subset,))]).said
    assert {policy.health_check.path for _, policy in said if policy.health_check} == {"/healthz", "/p", "/s"}
    assert Interest([UpstreamPolicy(service="a")]).said == frozenset()


async def test_the_loop_asks_again_and_again(route: Any, autojump_clock: trio.testing.MockClock) -> None:
    checking = Checking(route(1))
    asked = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(checking.checks.run)
        for _ in range(50):
            await trio.sleep(1)
            checking.clock.advance(1)
            for wire in checking.wires():
                wire.feed(OK)
                asked += 1
            checking.dialled.clear()
        assert 4 <= asked <= 7, "every ten seconds or so"
        checking.routes = [route(number) for number in range(1, 4)]
        with trio.fail_after(100):
            while not checking.checks.under_way:
                await trio.sleep(1)
                checking.clock.advance(1)
        nursery.cancel_scope.cancel()
    assert checking.checks.under_way > 0
    assert all(wire.closed for wire in checking.wires()), "what was under way is given up"


@pytest.mark.parametrize("status", [200, 204, 302, 399])
def test_good_answers(route: Any, status: int) -> None:
    checking = Checking(route(1), policy=TrafficPolicy(health_check=replace(CHECK, unhealthy_threshold=1)))
    checking.round({"10.0.0.1:8080": b"HTTP/1.1 %d X\r\ncontent-length: 0\r\n\r\n" % status})
    assert checking.usable == [True]
    checking.round({"10.0.0.1:8080": b"HTTP/1.1 404 X\r\ncontent-length: 0\r\n\r\n"})
    assert checking.usable == [False]
