from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from mesh.addresses import OriginalDestination, parse_cidr, parse_ip, parse_socket_address
from mesh.errors import NoHealthyUpstream, SelfCall
from mesh.model.service import BalancingMode, HealthPolicy, LoadBalancing, RoutingScope, Service, WeightedWaypoint
from mesh.model.workload import (
    GatewayAddress,
    HealthStatus,
    Locality,
    NamespacedHostname,
    NetworkAddress,
    NetworkMode,
    TunnelProtocol,
    Workload,
)
from mesh.state.routes import Passthrough, PassthroughReason, ToWorkload, Upstream
from mesh.state.store import MeshState
from mesh.state.upstream import choose_upstream
from mesh.testing.model import make_service, make_workload
from tests.mesh.state.views import state_of

KEY = "default/web.default.svc.cluster.local"
SOURCE = make_workload("client", "10.0.0.9", node="node1", locality=Locality("r1", "z1", ""))


def state(*values: Workload | Service) -> MeshState:
    return state_of(SOURCE, *values)


def to(text: str) -> OriginalDestination:
    return OriginalDestination(parse_socket_address(text))


def choose(view: MeshState, destination: str, chance: float = 0.0, source: Workload = SOURCE) -> Upstream:
    return choose_upstream(view, source, to(destination), lambda: chance)


def chosen(view: MeshState, destination: str, chance: float = 0.0, source: Workload = SOURCE) -> ToWorkload:
    upstream = choose(view, destination, chance, source)
    assert isinstance(upstream, ToWorkload)
    return upstream


def endpoint(name: str, *addresses: str, ports: dict[int, int] | None = None, **fields: Any) -> Workload:
    return make_workload(name, *addresses, services={KEY: ports if ports is not None else {80: 8080}}, **fields)


def test_what_the_mesh_does_not_know_passes_through() -> None:
    assert choose(state(), "1.2.3.4:443") == Passthrough(
        parse_socket_address("1.2.3.4:443"), PassthroughReason.UNKNOWN_DESTINATION
    )


def test_a_workload_address_leads_to_it_through_its_tunnel() -> None:
    server = make_workload("server", "10.0.0.1", service_account="s")
    up = chosen(state(server), "10.0.0.1:8080")
    assert up.workload is server
    assert str(up.target) == "10.0.0.1:8080"
    assert str(up.tunnel) == "10.0.0.1:15008"
    assert up.expected_identities == {server.identity}
    assert up.service_key is None
    assert up.service_hostname is None


@pytest.mark.parametrize("protocol", [TunnelProtocol.NONE, TunnelProtocol.LEGACY_ISTIO_MTLS])
def test_a_workload_without_hbone_is_reached_in_plain_tcp(protocol: TunnelProtocol) -> None:
    assert chosen(state(make_workload("s", "10.0.0.1", tunnel_protocol=protocol)), "10.0.0.1:80").tunnel is None


def test_another_network_is_another_address_space() -> None:
    far = make_workload("far", "10.0.0.1", network="n2")
    assert isinstance(choose(state(far), "10.0.0.1:80"), Passthrough)


def test_host_network_pods_are_not_found_by_their_node_address() -> None:
    host = make_workload("host", "172.18.0.11", network_mode=NetworkMode.HOST_NETWORK)
    assert isinstance(choose(state(host), "172.18.0.11:80"), Passthrough)


def test_a_service_address_leads_to_an_endpoint_and_its_target_port() -> None:
    server = endpoint("server", "10.0.0.1")
    view = state(make_service("web", "10.96.0.1", subject_alt_names=("spiffe://x/y",)), server)
    up = chosen(view, "10.96.0.1:80")
    assert up.workload is server
    assert str(up.target) == "10.0.0.1:8080"
    assert up.service_key == KEY
    assert up.service_hostname == "web.default.svc.cluster.local"
    assert up.expected_identities == {server.identity, "spiffe://x/y"}


def test_host_network_endpoints_serve_services() -> None:
    host = endpoint("h", "172.18.0.11", network_mode=NetworkMode.HOST_NETWORK, tunnel_protocol=TunnelProtocol.NONE)
    assert chosen(state(make_service("web", "10.96.0.1"), host), "10.96.0.1:80").workload is host


def test_own_service_may_lead_back_to_oneself() -> None:
    me = endpoint("client", "10.0.0.9")
    assert chosen(state(make_service("web", "10.96.0.1"), me), "10.96.0.1:80", source=me).workload is me


def test_order_of_arrival_does_not_matter() -> None:
    server, service = endpoint("server", "10.0.0.1"), make_service("web", "10.96.0.1")
    for first, second in ((server, service), (service, server)):
        assert chosen(state(first, second), "10.96.0.1:80").workload is server


def test_a_port_the_service_lacks_is_named() -> None:
    view = state(make_service("web", "10.96.0.1", ports={80: 8080, 443: 8443}), endpoint("s", "10.0.0.1"))
    with pytest.raises(NoHealthyUpstream, match="no port 81; it has: 80, 443"):
        choose(view, "10.96.0.1:81")


def test_named_target_ports_are_each_endpoints_own() -> None:
    service = make_service("web", "10.96.0.1", ports={80: 0})
    one, two = endpoint("one", "10.0.0.1", ports={80: 8081}), endpoint("two", "10.0.0.2", ports={80: 8082})
    silent = endpoint("silent", "10.0.0.3", ports={})
    view = state(service, one, two, silent)
    seen = {str(chosen(view, "10.96.0.1:80", chance / 10).target) for chance in range(10)}
    assert seen == {"10.0.0.1:8081", "10.0.0.2:8082"}
    with pytest.raises(NoHealthyUpstream, match="do not declare the named target port"):
        choose(state(service, silent), "10.96.0.1:80")


def test_the_endpoints_own_port_comes_before_the_services() -> None:
    view = state(make_service("web", "10.96.0.1"), endpoint("s", "10.0.0.1", ports={80: 9090}))
    assert chosen(view, "10.96.0.1:80").target.port == 9090
    view = state(make_service("web", "10.96.0.1"), endpoint("s", "10.0.0.1", ports={}))
    assert chosen(view, "10.96.0.1:80").target.port == 8080


def test_the_dialled_family_is_kept_where_there_is_a_choice() -> None:
    service = make_service("web", "10.96.0.1", "fd00:96::1")
    view = state(service, endpoint("s", "10.0.0.1", "fd00::1"))
    assert str(chosen(view, "10.96.0.1:80").target) == "10.0.0.1:8080"
    assert str(chosen(view, "[fd00:96::1]:80").target) == "[fd00::1]:8080"
    assert str(chosen(view, "[fd00:96::1]:80").tunnel) == "[fd00::1]:15008"
    only4 = state(service, endpoint("s", "10.0.0.1"))
    assert str(chosen(only4, "[fd00:96::1]:80").target) == "10.0.0.1:8080"


def test_unready_endpoints_are_left_out_unless_the_service_says_otherwise() -> None:
    ready, unready = endpoint("r", "10.0.0.1"), endpoint("u", "10.0.0.2", status=HealthStatus.UNHEALTHY)
    service = make_service("web", "10.96.0.1")
    view = state(service, ready, unready)
    assert {chosen(view, "10.96.0.1:80", n / 10).workload.name for n in range(10)} == {"r"}
    with pytest.raises(NoHealthyUpstream, match=r"none of the 1 endpoints of service .* is ready"):
        choose(state(service, unready), "10.96.0.1:80")
    all_of_them = make_service(
        "web", "10.96.0.1", load_balancing=LoadBalancing(health_policy=HealthPolicy.ALLOW_ALL)
    )
    assert chosen(state(all_of_them, unready), "10.96.0.1:80").workload is unready


def test_no_endpoints_at_all_is_named() -> None:
    with pytest.raises(NoHealthyUpstream, match="has no endpoints"):
        choose(state(make_service("web", "10.96.0.1")), "10.96.0.1:80")
    with pytest.raises(NoHealthyUpstream, match="other networks only"):
        choose(state(make_service("web", "10.96.0.1"), endpoint("far", "10.0.0.1", network="n2")), "10.96.0.1:80")


def test_failover_prefers_the_near_and_falls_back() -> None:
    balancing = LoadBalancing((RoutingScope.REGION, RoutingScope.ZONE), BalancingMode.FAILOVER)
    service = make_service("web", "10.96.0.1", load_balancing=balancing)
    near = endpoint("near", "10.0.0.1", locality=Locality("r1", "z1"))
    mid = endpoint("mid", "10.0.0.2", locality=Locality("r1", "z2"))
    far = endpoint("far", "10.0.0.3", locality=Locality("r2", "z1"))
    for values, expected in [([near, mid, far], "near"), ([mid, far], "mid"), ([far], "far")]:
        view = state(service, *values)
        assert {chosen(view, "10.96.0.1:80", n / 10).workload.name for n in range(10)} == {expected}


def test_strict_never_falls_back() -> None:
    balancing = LoadBalancing((RoutingScope.NODE,), BalancingMode.STRICT)
    service = make_service("web", "10.96.0.1", load_balancing=balancing)
    here, there = endpoint("here", "10.0.0.1", node="node1"), endpoint("there", "10.0.0.2", node="node2")
    view = state(service, here, there)
    assert {chosen(view, "10.96.0.1:80", n / 10).workload.name for n in range(10)} == {"here"}
    with pytest.raises(NoHealthyUpstream, match="own node only"):
        choose(state(service, there), "10.96.0.1:80")


def test_endpoints_are_drawn_by_capacity() -> None:
    view = state(
        make_service("web", "10.96.0.1"),
        endpoint("one", "10.0.0.1"),
        endpoint("three", "10.0.0.2", capacity=3),
        endpoint("zero", "10.0.0.3", capacity=0),
    )
    dice = random.Random(7)
    drawn = Counter(
        chosen(view, "10.96.0.1:80", dice.random()).workload.name for _ in range(4000)
    )
    assert set(drawn) == {"one", "three"}
    assert drawn["three"] / drawn["one"] == pytest.approx(3, rel=0.15)


def test_changes_show_at_once() -> None:
    view = state(make_service("web", "10.96.0.1"), endpoint("a", "10.0.0.1"))
    assert chosen(view, "10.96.0.1:80").workload.name == "a"
    moved = endpoint("a", "10.0.0.5")
    view.services.replace_endpoint(view.workloads.put(moved), moved)
    assert str(chosen(view, "10.96.0.1:80").target) == "10.0.0.5:8080"
    view.services.put(make_service("web", "10.96.0.1", ports={80: 0, 90: 9090}))
    assert str(chosen(view, "10.96.0.1:90").target) == "10.0.0.5:9090"
    left = make_workload("a", "10.0.0.5")
    view.services.replace_endpoint(view.workloads.put(left), left)
    with pytest.raises(NoHealthyUpstream, match="no endpoints"):
        choose(view, "10.96.0.1:80")
    view.services.remove(KEY)
    assert isinstance(choose(view, "10.96.0.1:80"), Passthrough)
    assert dict(view.services.views) == {}


def test_a_service_may_have_a_network_for_an_address() -> None:
    cidr = parse_cidr("240.1.0.0/24")
    service = make_service("web", addresses=(NetworkAddress("", cidr.ip, cidr.length),))
    view = state(service, endpoint("s", "10.0.0.1"), make_service("exact", "240.1.0.7", ports={80: 1}))
    assert chosen(view, "240.1.0.6:80").service_key == KEY
    with pytest.raises(NoHealthyUpstream, match="exact"):
        choose(view, "240.1.0.7:80")
    assert isinstance(choose(view, "240.1.1.6:80"), Passthrough)
    view.services.remove(KEY)
    assert isinstance(choose(view, "240.1.0.6:80"), Passthrough)


def test_a_kubernetes_service_keeps_its_address_against_others() -> None:
    canonical = make_service("web", "10.96.0.1")
    other = make_service("other", "10.96.0.1", canonical=False)
    for values in ([canonical, other], [other, canonical]):
        view = state(*values, endpoint("s", "10.0.0.1"))
        assert chosen(view, "10.96.0.1:80").service_key == KEY


def test_a_passthrough_service_leaves_the_choice_to_the_client() -> None:
    service = make_service("web", "10.96.0.1", "10.0.0.7", load_balancing=LoadBalancing(mode=BalancingMode.PASSTHROUGH))
    pod = make_workload("pod", "10.0.0.7")
    view = state(service, pod)
    assert choose(view, "10.96.0.1:9") == Passthrough(
        parse_socket_address("10.96.0.1:9"), PassthroughReason.PASSTHROUGH_SERVICE
    )
    assert chosen(view, "10.0.0.7:9").workload is pod


WAYPOINT = GatewayAddress(NamespacedHostname("default", "waypoint.default.svc.cluster.local"))


@pytest.mark.parametrize(
    "value",
    [
        make_service("web", "10.96.0.1", waypoint=WAYPOINT),
        make_service("web", "10.96.0.1", weighted_waypoints=(WeightedWaypoint(WAYPOINT, 1),)),
        make_workload("pod", "10.96.0.1", waypoint=WAYPOINT),
        make_workload("pod", "10.96.0.1", waypoint=GatewayAddress(NetworkAddress("", parse_ip("10.9.9.9")))),
    ],
)
def test_what_needs_a_waypoint_never_goes_past_it(value: Workload | Service) -> None:
    with pytest.raises(NoHealthyUpstream, match="bound to waypoint"):
        choose(state(value, endpoint("s", "10.0.0.1")), "10.96.0.1:80")


@pytest.mark.parametrize("port", [15001, 15006, 15008])
def test_the_mesh_own_ports_are_not_for_applications(port: int) -> None:
    with pytest.raises(SelfCall):
        choose(state(make_workload("s", "10.0.0.1")), f"10.0.0.1:{port}")
    outside = make_workload("s", "10.0.0.1", tunnel_protocol=TunnelProtocol.NONE)
    assert chosen(state(outside), f"10.0.0.1:{port}").target.port == port
