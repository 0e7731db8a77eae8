"""What may be remembered."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.addresses import IpBytes, is_ipv4, parse_ip
from mesh.balance import WeightedPool
from mesh.identity import SpiffeId
from mesh.model.workload import GatewayAddress, NetworkAddress
from mesh.rbac import ConnectionFacts
from mesh.state.service_index import route_to
from mesh.testing.model import make_workload
from ztunnel.fastpath.decisions import may_remember, slots_of

A4, B4, B6 = parse_ip("10.244.1.2"), parse_ip("10.244.1.3"), parse_ip("fd00::3")
CLIENT = SpiffeId("cluster.local", "demo", "client")


def pod(name: str, *addresses: IpBytes, **fields: Any) -> Any:
    return SimpleNamespace(
        name=name,
        addresses=addresses,
        identity=SpiffeId("cluster.local", "demo", name),
        workload=make_workload(name, **fields),
        address=lambda *, ipv4: next((ip for ip in addresses if is_ipv4(ip) == ipv4), None),
    )


def facts(**changes: Any) -> ConnectionFacts:
    fields: dict[str, Any] = {
        "source_ip": A4,
        "source_identity": CLIENT,
        "destination_ip": B4,
        "destination_port": 8080,
    }
    return ConnectionFacts(**{**fields, **changes})


def test_an_admitted_connection_between_two_pods_is_remembered() -> None:
    assert may_remember(pod("client", A4), pod("server", B4), facts())


WAYPOINT = GatewayAddress(NetworkAddress("", parse_ip("10.96.0.99")))


@pytest.mark.parametrize(
    ("source", "destination", "what"),
    [
        (pod("client", A4), pod("server", B4, waypoint=WAYPOINT), facts()),
        (pod("client", A4), pod("server", B4, network="elsewhere"), facts()),
        (pod("client", A4), pod("server", B4), facts(source_identity=None)),
        (pod("client", A4), pod("server", B4), facts(source_identity=SpiffeId("cluster.local", "demo", "other"))),
        (pod("client", parse_ip("10.244.1.9"), A4), pod("server", B4), facts()),
        (pod("client", A4), pod("server", B4, B6), facts(destination_ip=B6)),
        (pod("client", A4), pod("server", B4), facts(destination_ip=parse_ip("10.244.1.4"))),
        (pod("client", A4), pod("server", B4), facts(destination_port=15008)),
    ],
    ids=["waypoint", "network", "plaintext", "identity", "second address", "family", "foreign address", "mesh port"],
)
def test_what_the_kernel_could_not_repeat_faithfully_is_not(
    source: Any, destination: Any, what: ConnectionFacts
) -> None:
    assert not may_remember(source, destination, what)


def test_a_pod_is_not_its_own_neighbour() -> None:
    one = pod("client", A4)
    assert not may_remember(one, one, facts(destination_ip=A4))


@given(st.lists(st.integers(1, 200), min_size=1, max_size=80))
def test_slots_hold_each_endpoint_as_often_as_its_weight_asks(weights: list[int]) -> None:
    routes = [route_to(make_workload(f"w{number}", f"10.0.0.{number}"), parse_ip(f"10.0.0.{number}"), 80)
              for number in range(len(weights))]
    slots = slots_of(WeightedPool(routes, weights), 64)
    if slots is None:
        return
    assert len(slots) <= 64
    counts = [slots.count(route.target) for route in routes]
    for count, weight in zip(counts, weights, strict=True):
        assert count * sum(weights) == weight * len(slots)


def test_weights_that_do_not_fit_keep_to_the_slow_path() -> None:
    routes = [route_to(make_workload(ip, ip), parse_ip(ip), 80) for ip in ("10.0.0.1", "10.0.0.2")]
    assert slots_of(WeightedPool(routes, [1, 64]), 64) is None
    assert slots_of(WeightedPool(routes, [100, 300]), 64) == [routes[0].target, *[routes[1].target] * 3]
    assert slots_of(WeightedPool([], []), 64) is None
