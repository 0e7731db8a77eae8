from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from mesh.addresses import OriginalDestination, parse_ip, parse_socket_address
from mesh.errors import WaypointUnavailable
from mesh.model.service import Service, WeightedWaypoint
from mesh.model.workload import (
    GatewayAddress,
    HealthStatus,
    NamespacedHostname,
    NetworkAddress,
    TunnelProtocol,
    Workload,
)
from mesh.state.routes import ToWorkload
from mesh.state.store import MeshState
from mesh.state.upstream import choose_upstream
from mesh.state.waypoints import bound_waypoint
from mesh.testing.model import make_service, make_workload
from tests.mesh.state.views import state_of

GATEWAY = GatewayAddress(NamespacedHostname("default", "waypoint.default.svc.cluster.local"))
WAYPOINT_KEY = "default/waypoint.default.svc.cluster.local"
SOURCE = make_workload("client", "10.0.0.9")


def replica(name: str, ip: str, **fields: Any) -> Workload:
    return make_workload(name, ip, service_account="waypoint", services={WAYPOINT_KEY: {15008: 15008}}, **fields)


def state(*values: Workload | Service) -> MeshState:
    return state_of(SOURCE, *values)


def waypoint_service() -> Service:
    return make_service("waypoint", "10.96.0.50", ports={15008: 15008})


def choose(view: MeshState, to: str, draw: float = 0.0) -> ToWorkload:
    route = choose_upstream(view, SOURCE, OriginalDestination(parse_socket_address(to)), lambda: draw)
    assert isinstance(route, ToWorkload)
    return route


def test_a_bound_service_is_reached_by_its_waypoint_which_is_told_what_was_dialled() -> None:
    pod = replica("waypoint-1", "10.0.0.5")
    route = choose(state(make_service("web", "10.96.0.1", waypoint=GATEWAY), waypoint_service(), pod), "10.96.0.1:80")
    assert route.waypoint
    assert route.workload is pod
    assert str(route.target) == "10.96.0.1:80"
    assert str(route.tunnel) == "10.0.0.5:15008"
    assert route.expected_identities == {route.workload.identity}
    assert route.service_key == "default/web.default.svc.cluster.local"


def test_a_bound_workload_as_well() -> None:
    server = make_workload("server", "10.0.0.1", waypoint=GATEWAY)
    route = choose(state(server, waypoint_service(), replica("waypoint-1", "10.0.0.5")), "10.0.0.1:8080")
    assert route.waypoint
    assert str(route.target) == "10.0.0.1:8080"
    assert route.service_key is None


@pytest.mark.parametrize("address", ["10.96.0.50", "10.0.0.5"])
def test_a_waypoint_may_be_told_by_address(address: str) -> None:
    gateway = GatewayAddress(NetworkAddress("", parse_ip(address)))
    web = make_service("web", "10.96.0.1", waypoint=gateway)
    route = choose(state(web, waypoint_service(), replica("waypoint-1", "10.0.0.5")), "10.96.0.1:80")
    assert str(route.tunnel) == "10.0.0.5:15008"
    assert route.waypoint


def test_replicas_share_the_load() -> None:
    web = make_service("web", "10.96.0.1", waypoint=GATEWAY)
    view = state(web, waypoint_service(), replica("w-1", "10.0.0.5"), replica("w-2", "10.0.0.6"))
    drawn = Counter(str(choose(view, "10.96.0.1:80", i / 100).tunnel) for i in range(100))
    assert drawn == {"10.0.0.5:15008": 50, "10.0.0.6:15008": 50}


def test_weighted_waypoints_share_by_weight_and_leave_a_uniform_chance() -> None:
    other = GatewayAddress(NamespacedHostname("default", "canary.default.svc.cluster.local"))
    service = make_service(
        "web", "10.96.0.1", waypoint=GATEWAY,
        weighted_waypoints=(WeightedWaypoint(GATEWAY, 90), WeightedWaypoint(other, 10)),
    )
    drawn = [bound_waypoint(service, i / 1000) for i in range(1000)]
    canary = [left for gateway, left in filter(None, drawn) if gateway is other]
    assert len(canary) == 100
    assert 0 <= min(canary) < 0.02
    assert 0.98 < max(canary) < 1
    assert bound_waypoint(make_service("web", "10.96.0.1"), 0.5) is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((), "does not exist"),
        ((waypoint_service(),), "none of its 0 replicas"),
        ((waypoint_service(), replica("w", "10.0.0.5", status=HealthStatus.UNHEALTHY)), "none of its 1 replicas"),
        ((make_service("waypoint", "10.96.0.50", ports={80: 80}),), "no port 15008"),
        ((waypoint_service(), replica("w", "10.0.0.5", tunnel_protocol=TunnelProtocol.NONE)), "taking HBONE"),
    ],
)
def test_a_waypoint_that_is_not_there_is_an_error_and_not_a_detour(
    values: tuple[Workload | Service, ...], message: str
) -> None:
    view = state(make_service("web", "10.96.0.1", waypoint=GATEWAY), make_workload("s", "10.0.0.1"), *values)
    with pytest.raises(WaypointUnavailable, match=message):
        choose(view, "10.96.0.1:80")
