"""Both proxies are told the same, and the lab's manifest can be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.layer7 import envoy_scene, scene, waypoint_scene
from benchmarks.layer7.mesh import MANIFEST
from mesh.state.store import MeshState
from mesh.xds.codec import ADDRESS_TYPE
from resources.decode import decode_documents
from waypoint.client import Client
from waypoint.http.message import RequestHead
from waypoint.routing.port import PortRoutes
from waypoint.security.authorization import PolicyTable
from waypoint.security.subject import Peer, Subject
from waypoint.testing.exchanges import CLIENT

ROUTES = (scene.SERVING_ROUTES, 1000)


def head(path: str, **headers: str) -> RequestHead:
    fields = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return RequestHead(method=b"GET", path=path.encode(), authority=b"shop", headers=fields)


@pytest.fixture(params=ROUTES)
def routes(request: pytest.FixtureRequest) -> int:
    number: int = request.param
    return number


def test_both_have_as_many_routes_as_the_case_says(routes: int) -> None:
    (port,) = waypoint_scene.destination(routes).ports
    assert len(port.routes) == routes
    manager = envoy_manager(routes)
    (host,) = manager["route_config"]["virtual_hosts"]
    assert len(host["routes"]) == routes
    for ours, theirs in zip(port.routes, host["routes"], strict=True):
        (match,) = ours.matches
        assert match.path is not None
        assert match.path.value in theirs["match"].values()
        assert len(match.headers) == len(theirs["match"].get("headers", ()))
        assert ("weighted_clusters" in theirs["route"]) is (len(ours.backends) > 1)


def envoy_manager(routes: int) -> dict[str, Any]:
    configuration = envoy_scene.configuration(1, 2, routes, Path("/x/access"), 3)
    (listener,) = configuration["static_resources"]["listeners"]
    (chain,) = listener["filter_chains"]
    (only,) = chain["filters"]
    manager: dict[str, Any] = only["typed_config"]
    return manager


def test_envoy_judges_by_policy_and_writes_the_waypoints_line(routes: int) -> None:
    manager = envoy_manager(routes)
    assert [one["name"] for one in manager["http_filters"]] == ["refuse", "admit", "router"]
    (log,) = manager["access_log"]
    assert log["typed_config"]["path"] == "/x/access"
    assert "%ROUTE_NAME%" in log["typed_config"]["log_format"]["text_format_source"]["inline_string"]


def test_the_waypoint_routes_the_load_as_the_scene_says(routes: int) -> None:
    destination = waypoint_scene.destination(routes)
    port = PortRoutes(destination.key, destination.ports[0], b"k" * 32)
    assert not port.problems

    def serving(request: RequestHead) -> str:
        found = port.select(request, CLIENT)
        assert found is not None
        return found.route.name

    assert serving(head("/api/items/1?page=2")) == "split/api"
    assert serving(head("/api/items/1?page=2", x_canary="yes")) == "canary/api"
    assert serving(head("/large/items/1")) == "split/large"
    assert serving(head("/shop.Items/Get")) == "grpc"
    if routes > scene.SERVING_ROUTES:
        assert serving(head("/team-0/service-0")) == "other-0"


def test_the_waypoint_admits_the_load_and_nothing_else() -> None:
    table = PolicyTable(waypoint_scene.destination(scene.SERVING_ROUTES).policies)
    peer = Peer(Client(identity=None, address=CLIENT.address, destination=CLIENT.destination))

    def admitted(request: RequestHead) -> bool:
        return table.decide(Subject(peer, request)).allowed

    assert admitted(head("/api/items/1"))
    assert admitted(head("/shop.Items/Get"))
    assert not admitted(head("/secret"))
    assert not admitted(head("/api/items/1", x_blocked="1"))
    delete = head("/api/items/1")
    delete.method = b"DELETE"
    assert not admitted(delete)


def test_the_waypoint_takes_the_scenes_services() -> None:
    state = MeshState("")
    assert not state.apply(ADDRESS_TYPE, waypoint_scene.resources(4000), [])
    assert len(state.services.views) == len(scene.VERSIONS)


def test_the_labs_manifest_can_be_read() -> None:
    objects, problems = decode_documents(MANIFEST.read_text().replace("@HTTP@", "/bin/http"), "mesh.yaml")
    assert not problems
    assert {type(one).__name__ for one in objects} >= {"Gateway", "HTTPRoute", "AuthorizationPolicy", "Service", "Pod"}
