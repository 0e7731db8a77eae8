"""Endpoints taken from the state, localities, slow start, panic, retries elsewhere, limits, outliers, health."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.model.service import BalancingMode, HealthPolicy, LoadBalancing, RoutingScope
from mesh.model.upstream_policy import (
    Algorithm,
    Balancing,
    ConnectionPool,
    HashKey,
    HashKind,
    HealthCheck,
    LocalityShare,
    OutlierDetection,
    TrafficPolicy,
)
from mesh.model.workload import HealthStatus, Locality
from mesh.state.routes import ToWorkload
from mesh.state.service_index import ServiceView
from mesh.testing.model import make_service, make_workload
from waypoint.upstream.cluster import Cluster
from waypoint.upstream.endpoint import Endpoint, routes_of
from waypoint.upstream.health_machine import HealthMachine
from waypoint.upstream.limits_machine import Limits
from waypoint.upstream.outlier_machine import OutlierMachine
from waypoint.upstream.priorities import by_priority

Route = Callable[..., ToWorkload]
Make = Callable[..., list[Endpoint]]
PLAIN = LoadBalancing()


def _cluster(*routes: ToWorkload, service: LoadBalancing = PLAIN, where: str = "r/z/s", **policy: Any) -> Cluster:
    policy.setdefault("balancing", Balancing(algorithm=Algorithm.RANDOM))
    source = make_workload("waypoint", "10.9.9.9", locality=Locality(*where.split("/")))
    cluster = Cluster(TrafficPolicy(**policy), source, random.Random(7).random)
    cluster.update(routes, service, 0.0)
    return cluster


def _shares(cluster: Cluster, now: float = 0.0, count: int = 2000) -> dict[str, float]:
    hits = Counter(cluster.pick(now) for _ in range(count))
    return {endpoint.to.workload.name: hits[endpoint] / count for endpoint in hits if endpoint is not None}


# -- endpoints from the state ------------------------------------------------------------------------------------------


def test_endpoints_are_read_from_the_service() -> None:
    view = ServiceView("default/echo.default.svc.cluster.local")
    view.set_service(make_service("echo", "10.96.0.1", ports={80: 8080, 81: 0}))
    serves = {view.key: {80: 8080}}
    view.set_endpoint(make_workload("a", "10.0.0.1", services=serves))
    view.set_endpoint(make_workload("b", "10.0.0.2", services={view.key: {80: 9090, 81: 9091}}))
    view.set_endpoint(make_workload("unready", "10.0.0.3", services=serves, status=HealthStatus.UNHEALTHY))
    view.set_endpoint(make_workload("elsewhere", "10.0.0.4", services=serves, network="other"))
    view.set_endpoint(make_workload("no-address", services=serves))

    def found(port: int, **fields: Any) -> list[str]:
        return [f"{to.workload.name} {to.target}" for to in routes_of(view, port, "", **fields)]

    assert found(80) == ["a 10.0.0.1:8080", "b 10.0.0.2:9090"]
    assert found(81) == ["b 10.0.0.2:9091"]
    assert found(82) == []
    labels = {"Kubernetes//Pod/default/b": {"version": "v2"}}
    assert found(80, labels=(("version", "v2"),), labels_of=lambda uid: labels.get(uid, {})) == ["b 10.0.0.2:9090"]
    view.set_service(
        make_service("echo", "10.96.0.1", load_balancing=LoadBalancing(health_policy=HealthPolicy.ALLOW_ALL))
    )
    assert "unready 10.0.0.3:8080" in found(80)
    view.set_service(None)
    assert found(80) == []


def test_endpoints_keep_what_was_seen_of_them(route: Route) -> None:
    cluster = _cluster(route(1), route(2))
    first, second = cluster.endpoints
    first.active = 5
    gone = cluster.update([route(1, capacity=3), route(3)], PLAIN, 1.0)
    assert gone == [second]
    assert cluster.endpoints[0] is first
    assert (first.active, first.weight) == (5, 3)
    assert cluster.by_key(first.key) is first
    first.usable = False
    assert cluster.by_key(first.key) is None
    assert cluster.by_key("absent") is None


def test_nobody_is_chosen_where_nobody_is(route: Route) -> None:
    assert _cluster().pick(0.0) is None
    cluster = _cluster(route(1))
    cluster.endpoints[0].healthy = False
    cluster.endpoints[0].settle()
    cluster.changed()
    assert cluster.pick(0.0) is None


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_every_algorithm_reaches_everybody_and_no_one_else(algorithm: Algorithm, route: Route) -> None:
    keys = (HashKey(kind=HashKind.HEADER, name="u"),)
    cluster = _cluster(
        *(route(number) for number in range(5)),
        balancing=Balancing(algorithm=algorithm, hash_keys=keys, table_size=1009),
    )
    hits = Counter(cluster.pick(0.0) for _ in range(500))
    assert set(hits) == set(cluster.endpoints)
    cluster.endpoints[3].healthy = False
    cluster.endpoints[3].settle()
    cluster.changed()
    hits = Counter(cluster.pick(0.0) for _ in range(500))
    assert set(hits) == {endpoint for endpoint in cluster.endpoints if endpoint.usable}
    assert (cluster.hash is not None) is (algorithm in (Algorithm.RING_HASH, Algorithm.MAGLEV))


def test_a_retry_goes_elsewhere_if_there_is_an_elsewhere(route: Route) -> None:
    cluster = _cluster(*(route(number) for number in range(6)))
    one, *_, last = cluster.endpoints
    for _ in range(50):
        assert cluster.pick(0.0, tried=[one]) is not one
        assert cluster.pick(0.0, tried=cluster.endpoints[:-1]) is last
        assert cluster.pick(0.0, tried=cluster.endpoints) is not None


# -- where -------------------------------------------------------------------------------------------------------------


def test_the_services_preference_makes_tiers(route: Route) -> None:
    near, far = route(1, "r", "z"), route(2, "r", "other")
    zone = (RoutingScope.REGION, RoutingScope.ZONE)
    failover = LoadBalancing(routing_preference=zone, mode=BalancingMode.FAILOVER)
    strict = LoadBalancing(routing_preference=zone, mode=BalancingMode.STRICT)
    assert _shares(_cluster(near, far, service=failover)) == {"pod-1": 1.0}
    assert _shares(_cluster(far, service=failover)) == {"pod-2": 1.0}
    assert _shares(_cluster(far, service=strict)) == {}
    assert len(_shares(_cluster(near, far))) == 2


def test_failover_by_locality(route: Route) -> None:
    routes = {
        "subzone": route(1, "r", "z", "s"),
        "zone": route(2, "r", "z", "t"),
        "region": route(3, "r", "y"),
        "named": route(4, "next"),
        "any": route(5, "far"),
    }
    balancing = Balancing(algorithm=Algorithm.RANDOM, failover=(("r", "next"),))
    left = list(routes)
    while left:
        cluster = _cluster(*(routes[name] for name in reversed(left)), balancing=balancing)
        assert list(_shares(cluster)) == [routes[left[0]].workload.name]
        left.pop(0)
    # Istio: without outlier detection nobody could tell when to fail over.
    assert len(_shares(_cluster(*routes.values()))) == 5
    assert len(_shares(_cluster(*routes.values(), outlier=OutlierDetection()))) == 1
    off = Balancing(algorithm=Algorithm.RANDOM, failover=(("r", "next"),), locality_enabled=False)
    assert len(_shares(_cluster(*routes.values(), balancing=off))) == 5


def test_a_tier_that_is_half_down_shares_with_the_next(route: Route) -> None:
    routes = [*(route(number, "r", "z", "s") for number in range(4)), route(9, "far")]
    cluster = _cluster(*routes, outlier=OutlierDetection())
    for endpoint in cluster.endpoints[:2]:
        endpoint.healthy = False
        endpoint.settle()
    cluster.changed()
    # Half of the tier, times 1.4: it carries 70 percent.
    assert _shares(cluster)["pod-9"] == pytest.approx(0.3, abs=0.05)


@given(st.lists(st.lists(st.booleans(), max_size=5), max_size=4))
def test_shares_of_tiers_add_up(health: list[list[bool]]) -> None:
    tiers = []
    for tier, usable in enumerate(health):
        workloads = [make_workload(f"{tier}-{number}", f"10.0.{tier}.{number}") for number in range(len(usable))]
        endpoints = [Endpoint(_to(workload), 0.0) for workload in workloads]
        for endpoint, well in zip(endpoints, usable, strict=True):
            endpoint.usable = well
        tiers.append(endpoints)
    shares = by_priority(tiers)
    if any(tiers):
        assert sum(share for _, share in shares) == pytest.approx(1)
    if any(any(tier) for tier in health):
        assert all(any(endpoint.usable for endpoint in tier) for tier, _ in shares)


def _to(workload: Any) -> ToWorkload:
    from mesh.state.service_index import route_to

    return route_to(workload, workload.addresses[0], 80)


def test_shares_by_locality(route: Route) -> None:
    routes = [route(1, "r", "z"), route(2, "r", "y"), route(3, "far", "z")]
    balancing = Balancing(
        algorithm=Algorithm.RANDOM,
        locality_shares=(
            LocalityShare(source="other/*", shares=(("far/*", 100),)),
            LocalityShare(source="r/z/*", shares=(("r/z/*", 70), ("r/*", 20), ("far/*", 10))),
        ),
    )
    cluster = _cluster(*routes, balancing=balancing)
    shares = _shares(cluster, count=6000)
    assert shares == pytest.approx({"pod-1": 0.7, "pod-2": 0.2, "pod-3": 0.1}, abs=0.03)
    cluster.endpoints[0].healthy = False
    cluster.endpoints[0].settle()
    cluster.changed()
    assert _shares(cluster, count=6000) == pytest.approx({"pod-2": 2 / 3, "pod-3": 1 / 3}, abs=0.03)


# -- slow start and panic ----------------------------------------------------------------------------------------------


def test_a_new_endpoint_starts_slowly(route: Route) -> None:
    balancing = Balancing(algorithm=Algorithm.RANDOM, slow_start_seconds=100.0)
    cluster = _cluster(route(1), balancing=balancing)
    cluster.update([route(1), route(2)], PLAIN, 1000.0)
    assert _shares(cluster, 1000.0)["pod-2"] == pytest.approx(0.1 / 1.1, abs=0.03)
    assert _shares(cluster, 1050.0)["pod-2"] == pytest.approx(1 / 3, abs=0.04)
    assert _shares(cluster, 1100.0)["pod-2"] == pytest.approx(1 / 2, abs=0.04)


def test_in_a_panic_health_is_not_believed(route: Route) -> None:
    routes = [route(number) for number in range(4)]
    for percent, reached in [(50, 4), (25, 1)]:
        cluster = _cluster(*routes, outlier=OutlierDetection(min_health_percent=percent))
        for endpoint in cluster.endpoints[1:]:
            endpoint.healthy = False
            endpoint.settle()
        cluster.changed()
        assert len(_shares(cluster)) == reached


# -- limits ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["connection", "pending", "request", "retry"])
def test_limits(what: str) -> None:
    limits = Limits(
        ConnectionPool(max_connections=2, max_pending_requests=2, max_requests=2, max_retries=2)
    )
    take, give = getattr(limits, f"take_{what}"), getattr(limits, f"give_{what}")
    assert [take(), take(), take()] == [True, True, False]
    assert limits.overflows == 1
    give()
    assert [take(), take()] == [True, False]


# -- outliers ----------------------------------------------------------------------------------------------------------


def _outliers(endpoints: list[Endpoint], **fields: Any) -> tuple[OutlierMachine, list[None]]:
    changes: list[None] = []
    fields.setdefault("max_ejection_percent", 100)
    machine = OutlierMachine(OutlierDetection(**fields), lambda: changes.append(None))
    machine.endpoints_changed(endpoints)
    return machine, changes


def test_errors_in_a_row_eject_and_time_lets_back_in(endpoints: Make) -> None:
    those = endpoints(4)
    machine, changes = _outliers(those, consecutive_5xx=3)
    bad = those[0]
    for status in (500, 503, 200, 500, 501):
        machine.answered(bad, status, 0.0)
    assert bad.usable
    machine.answered(bad, 599, 0.0)
    assert not bad.usable
    assert (len(changes), machine.ejections) == (1, 1)
    machine.sweep(29.0)
    assert not bad.usable
    machine.sweep(30.0)
    assert bad.usable
    assert len(changes) == 2


def test_ejections_grow_and_are_forgiven(endpoints: Make) -> None:
    those = endpoints(4)
    machine, _ = _outliers(those, consecutive_5xx=1, base_ejection_seconds=30.0)
    bad, now = those[0], 0.0
    for times in (1, 2, 3):
        machine.answered(bad, 500, now)
        assert bad.ejected_until == now + 30.0 * times
        now = bad.ejected_until
        machine.sweep(now)
    machine.sweep(now)
    machine.sweep(now)
    machine.answered(bad, 500, now)
    assert bad.ejected_until == now + 60.0
    bad.ejected_until, bad.ejections = 0.0, 50
    machine.answered(bad, 500, now)
    assert bad.ejected_until == now + 300.0


def test_only_some_may_be_out_but_always_one(endpoints: Make) -> None:
    those = endpoints(10)
    machine, _ = _outliers(those, consecutive_5xx=1, max_ejection_percent=20)
    for endpoint in those:
        machine.answered(endpoint, 500, 0.0)
    assert sum(not endpoint.usable for endpoint in those) == 2
    [only] = endpoints(1)
    machine, _ = _outliers([only], consecutive_5xx=1, max_ejection_percent=0)
    machine.answered(only, 500, 0.0)
    assert not only.usable


def test_gateway_errors_and_local_failures(endpoints: Make) -> None:
    one, two, three = endpoints(3)
    machine, _ = _outliers([one], consecutive_5xx=0, consecutive_gateway_errors=2)
    for status in (503, 500, 503):
        machine.answered(one, status, 0.0)
    assert one.usable
    machine.answered(one, 504, 0.0)
    assert not one.usable
    machine, _ = _outliers([two], consecutive_5xx=2)
    machine.failed_locally(two, 0.0)
    machine.answered(two, 500, 0.0)
    assert not two.usable
    machine, _ = _outliers([three], consecutive_5xx=2, split_local_errors=True, consecutive_local_failures=3)
    for _ in range(2):
        machine.failed_locally(three, 0.0)
    machine.answered(three, 200, 0.0)
    for _ in range(2):
        machine.failed_locally(three, 0.0)
    assert three.usable
    machine.failed_locally(three, 0.0)
    assert not three.usable


def test_success_rates_far_below_the_others(endpoints: Make) -> None:
    those = endpoints(6)
    machine, _ = _outliers(
        those, consecutive_5xx=0, success_rate=True, success_rate_minimum_hosts=5, success_rate_request_volume=10
    )
    for number, endpoint in enumerate(those):
        for request in range(10):
            machine.answered(endpoint, 500 if number == 3 and request % 2 else 200, 0.0)
    machine.sweep(10.0)
    assert [endpoint.usable for endpoint in those] == [True, True, True, False, True, True]
    assert those[0].requests == 0


def test_too_few_hosts_or_requests_are_not_judged(endpoints: Make) -> None:
    those = endpoints(4)
    machine, _ = _outliers(those, consecutive_5xx=0, success_rate=True, success_rate_request_volume=1)
    for endpoint in those:
        machine.answered(endpoint, 200, 0.0)
    machine.answered(those[0], 500, 0.0)
    machine.sweep(10.0)
    assert all(endpoint.usable for endpoint in those)


# -- health checks -----------------------------------------------------------------------------------------------------


def test_health_checks(endpoints: Make) -> None:
    changes: list[None] = []
    [one] = endpoints(1)
    policy = HealthCheck(interval_seconds=10.0, unhealthy_threshold=2, healthy_threshold=2)
    machine = HealthMachine(policy, lambda: changes.append(None), lambda: 0.5)
    machine.endpoints_changed([one], 0.0)
    assert machine.due(4.9) == []
    assert machine.next_due() == 5.0
    now = 5.0
    for well, usable in [(False, True), (True, True), (False, True), (False, False), (True, False), (True, True)]:
        assert machine.due(now) == [one]
        assert machine.due(now) == [], "one check at a time"
        assert machine.next_due() is None
        (machine.succeeded if well else machine.failed)(one, now)
        assert one.usable is usable
        now += 10.0
    assert len(changes) == 2
    machine.endpoints_changed([], now)
    machine.failed(one, now)
    assert machine.due(now + 100) == []


def test_an_endpoint_that_must_prove_something_else_is_another_one(route: Route) -> None:
    cluster = Cluster(TrafficPolicy(), make_workload("waypoint", "10.0.0.9"), lambda: 0.5)
    to = route(1)
    cluster.update([to], LoadBalancing(), 0.0)
    [before] = cluster.endpoints
    assert cluster.update([replace(to)], LoadBalancing(), 1.0) == []
    assert cluster.update([replace(to, expected_identities=frozenset())], LoadBalancing(), 2.0) == [before]
