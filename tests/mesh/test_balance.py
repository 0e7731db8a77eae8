from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.balance import WeightedPool, eligible, place_of, rank
from mesh.model.service import BalancingMode, HealthPolicy, LoadBalancing, RoutingScope
from mesh.model.workload import HealthStatus, Locality, Workload
from mesh.testing.model import make_workload


def test_a_place_is_what_the_preference_looks_at() -> None:
    workload = make_workload("a", locality=Locality("r", "z", "s"), node="n", cluster_id="c", network="net")
    assert place_of(workload, list(RoutingScope)) == ("", "r", "z", "s", "n", "c", "net")
    assert place_of(workload, ()) == ()


def test_rank_counts_until_the_first_difference() -> None:
    assert rank((), ()) == 0
    assert rank(("a", "b", "c"), ("a", "b", "c")) == 3
    assert rank(("a", "b", "c"), ("a", "x", "c")) == 1
    assert rank(("a", "b"), ("x", "b")) == 0


small = st.sampled_from(["", "a", "b"])
workloads = st.builds(
    lambda region, zone, node, status, capacity: make_workload(
        "w", locality=Locality(region, zone), node=node, status=status, capacity=capacity
    ),
    small, small, small, st.sampled_from(HealthStatus), st.integers(0, 3),
)
balancings = st.builds(
    LoadBalancing,
    st.lists(st.sampled_from([RoutingScope.REGION, RoutingScope.ZONE, RoutingScope.NODE]), max_size=3, unique=True)
    .map(tuple),
    st.sampled_from(BalancingMode),
    st.sampled_from(HealthPolicy),
)


@given(workloads, st.lists(workloads, max_size=6), balancings)
def test_eligible_endpoints(source: Workload, endpoints: list[Workload], balancing: LoadBalancing) -> None:
    place = place_of(source, balancing.routing_preference)
    result = eligible(endpoints, place, balancing)
    usable = [
        e
        for e in endpoints
        if e.capacity > 0 and (balancing.health_policy == HealthPolicy.ALLOW_ALL or e.status == HealthStatus.HEALTHY)
    ]
    assert all(any(e is u for u in usable) for e in result)
    ranks = {id(e): rank(place, place_of(e, balancing.routing_preference)) for e in usable}
    match balancing.mode:
        case BalancingMode.STRICT:
            assert len(result) == sum(r == len(place) for r in map(ranks.__getitem__, map(id, usable)))
            assert all(ranks[id(e)] == len(place) for e in result)
        case BalancingMode.FAILOVER:
            assert bool(result) == bool(usable)
            best = max(ranks.values(), default=0)
            assert len(result) == sum(ranks[id(e)] == best for e in usable)
            assert all(ranks[id(e)] == best for e in result)
        case _:
            assert result == usable


@given(st.lists(st.integers(1, 5), max_size=6), st.floats(0, 1, exclude_max=True))
def test_a_pick_falls_in_its_share(weights: list[int], chance: float) -> None:
    picked = WeightedPool(range(len(weights)), weights).pick(chance)
    if not weights:
        assert picked is None
        return
    assert picked is not None
    total = sum(weights)
    below, above = sum(weights[:picked]), sum(weights[: picked + 1])
    assert below <= chance * total + 1e-9
    assert chance * total <= above + 1e-9


def test_an_even_sweep_draws_in_proportion() -> None:
    pool = WeightedPool("abc", [1, 2, 5])
    assert Counter(pool.pick(n / 800) for n in range(800)) == {"a": 100, "b": 200, "c": 500}


@pytest.mark.parametrize("chance", [0.0, 0.9999999999999999])
def test_the_ends_are_in_range(chance: float) -> None:
    huge = WeightedPool("ab", [1, 2**60])
    assert huge.pick(chance) in ("a", "b")
