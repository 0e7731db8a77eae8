"""Services as backends: who their endpoints are, and how each is reached."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from mesh.identity import SpiffeId
from mesh.model.service import Service
from mesh.model.upstream_policy import OutlierDetection, Subset, TrafficPolicy, UpstreamPolicy
from mesh.model.workload import AppProtocol, HealthStatus, TunnelProtocol, Workload
from mesh.relay.engine import Engine
from mesh.state.store import MeshState
from mesh.testing.model import make_service, make_workload
from mesh.xds.codec import ADDRESS_TYPE, encode_address
from mesh.xds.discovery_codec import Resource
from waypoint.config import GatewayGroup
from waypoint.host import WaypointHost
from waypoint.http.limits import HttpLimits
from waypoint.http.message import RequestHead
from waypoint.testing.wires import ManualClock
from waypoint.upstream.backend import Chooser, Place, ServiceBackend
from waypoint.upstream.connector import TunnelConnector
from waypoint.upstream.endpoint import Endpoint
from waypoint.upstream.health_driver import HealthChecks
from waypoint.upstream.pool_contract import EndpointPool, Unavailable
from waypoint.upstream.pool_h1 import H1Pool
from waypoint.upstream.pool_h2 import H2Pool
from waypoint.upstream.services import Services
from waypoint.wire.socket_connector import SocketConnector

WEB = "demo/web.demo.svc.cluster.local"
HEAD = RequestHead(method=b"GET", path=b"/", authority=b"web")


def apply(state: MeshState, *values: Workload | Service, removed: tuple[str, ...] = ()) -> None:
    resources = [
        Resource(value.uid if isinstance(value, Workload) else value.key, "1", (), encode_address(value))
        for value in values
    ]
    assert state.apply(ADDRESS_TYPE, resources, list(removed)) == []
    state.applied(ADDRESS_TYPE)


def pod(number: int, **fields: Any) -> Workload:
    return make_workload(f"web-{number}", f"10.0.0.{number}", namespace="demo", services={WEB: {80: 8080}}, **fields)


@pytest.fixture
def state() -> MeshState:
    made = MeshState("node1")
    apply(made, make_service("web", "10.96.0.1", namespace="demo"), pod(1), pod(2, tunnel_protocol=TunnelProtocol.NONE))
    return made


@pytest.fixture
def services(state: MeshState) -> Services:
    nothing: Any = None
    gateway = GatewayGroup(
        name="waypoint", namespace="demo", service_account="waypoint", pod_name="waypoint-1", pod_ip="10.0.0.99"
    )
    host = WaypointHost("demo/waypoint", SpiffeId("cluster.local", "demo", "waypoint"), nothing, nothing)
    labels = {pod(2).uid: {"version": "v2"}}
    return Services(
        Engine(), ManualClock().timers, host, nothing, state, gateway, random.Random(1).random, HttpLimits(),
        lambda uid: labels.get(uid, {}), HealthChecks(ManualClock().timers, CollectorRegistry()),
    )  # fmt: skip


def backend(services: Services, port: int = 80, subset: str | None = None, service: str = WEB) -> ServiceBackend:
    policies = {WEB: UpstreamPolicy(service=WEB, subsets=(Subset(name="v2", labels=(("version", "v2"),)),))}
    found = services.backend(Place(service, port, subset), policies, http2=False)
    assert isinstance(found, ServiceBackend)
    return found


def picked(found: ServiceBackend, count: int = 20) -> dict[str, Endpoint]:
    endpoints = [found.pick(None, None, []) for _ in range(count)]
    made = {endpoint.to.workload.name: endpoint for endpoint in endpoints if isinstance(endpoint, Endpoint)}
    for endpoint in endpoints:
        if isinstance(endpoint, Endpoint):
            found.release(endpoint)
    return made


def test_endpoints_of_the_mesh_are_reached_by_tunnels_and_others_directly(services: Services) -> None:
    web = backend(services)
    assert backend(services) is web
    endpoints = picked(web)
    assert set(endpoints) == {"web-1", "web-2"}
    assert isinstance(web.connector_to(endpoints["web-1"]), TunnelConnector)
    assert isinstance(web.connector_to(endpoints["web-2"]), SocketConnector)
    assert {entry["address"] for entry in services.describe()} == {"10.0.0.1:8080", "10.0.0.2:8080"}


def test_endpoints_come_and_go(services: Services, state: MeshState) -> None:
    web = backend(services)
    first = picked(web)["web-1"]
    pool = web.pool_of(first)
    assert web.endpoint_of(pool) is first
    apply(state, pod(3), removed=(pod(1).uid,))
    assert set(picked(web)) == {"web-2", "web-3"}
    assert web.endpoint_of(pool) is None
    apply(state, removed=(pod(2).uid, pod(3).uid))
    nobody = web.pick(None, None, [])
    assert isinstance(nobody, Unavailable)
    assert nobody.flag == "UH"
    services.tick(0.0)


def test_a_subset_has_the_endpoints_with_its_labels(services: Services) -> None:
    assert set(picked(backend(services, subset="v2"))) == {"web-2"}
    unknown = services.backend(Place(WEB, 80, "v3"), {}, http2=False)
    assert isinstance(unknown, Unavailable)
    assert unknown.flag == "NC"


@pytest.mark.parametrize(("service", "port"), [("demo/none", 80), (WEB, 81)])
def test_what_is_not_there_is_no_cluster(services: Services, service: str, port: int) -> None:
    found = backend(services, port, service=service).pick(None, None, [])
    assert isinstance(found, Unavailable)
    assert found.flag == "NC"


def test_how_a_client_speaks_counts_where_nothing_is_said(services: Services, state: MeshState) -> None:
    old, new = (services.backend(Place(WEB, 80), {}, http2=http2) for http2 in (False, True))
    assert isinstance(old, ServiceBackend)
    assert isinstance(new, ServiceBackend)
    first = picked(old)["web-1"]
    assert picked(new)["web-1"] is first, "what is known of an endpoint is one"
    pools = old.pool_of(first), new.pool_of(first)
    assert [type(pool) for pool in pools] == [H1Pool, H2Pool]
    # Limits are of the service, however it is spoken to.
    assert old.cluster.limits is new.cluster.limits
    assert len(services.describe()) == 2
    apply(state, pod(3), removed=(pod(1).uid,))
    assert set(picked(new)) == {"web-2", "web-3"}
    assert (old.endpoint_of(pools[0]), new.endpoint_of(pools[1])) == (None, None), "both let go of who has gone"


@pytest.mark.parametrize(("protocol", "kind"), [(AppProtocol.HTTP11, H1Pool), (AppProtocol.GRPC, H2Pool)])
def test_a_port_that_says_how_is_spoken_to_so(
    services: Services, state: MeshState, protocol: AppProtocol, kind: type[EndpointPool]
) -> None:
    web = make_service("web", "10.96.0.1", namespace="demo")
    apply(state, replace(web, ports=(replace(web.ports[0], app_protocol=protocol),)))
    old, new = (services.backend(Place(WEB, 80), {}, http2=http2) for http2 in (False, True))
    assert old is new
    assert isinstance(old, ServiceBackend)
    assert isinstance(old.pool_of(picked(old)["web-1"]), kind)


def test_outliers_are_looked_at_in_the_interval_that_was_asked_for(services: Services) -> None:
    detection = OutlierDetection(consecutive_5xx=1, interval_seconds=20.0, base_ejection_seconds=1.0)
    policy = TrafficPolicy(outlier=detection)
    web = services.backend(Place(WEB, 80), {WEB: UpstreamPolicy(service=WEB, policy=policy)}, http2=False)
    assert isinstance(web, ServiceBackend)
    first = picked(web)["web-1"]
    web.judge(first, 503, None)
    start = services._timers.clock()
    for seconds, usable in ((5.0, False), (19.0, False), (20.0, True)):
        services.tick(start + seconds)
        assert first.usable is usable


def test_a_chooser_takes_another_endpoint_and_gives_back_what_it_took(services: Services) -> None:
    web = backend(services)
    chooser = Chooser(web)
    first = chooser.choose(HEAD, [])
    assert not isinstance(first, Unavailable)
    one = chooser.chosen
    assert one is not None
    assert one.active == 1
    chooser.finished(first, 503, None)
    second = chooser.choose(HEAD, [first])
    assert second is not first
    assert chooser.chosen is not one
    assert one.active == 0
    assert chooser.service == WEB


def test_a_workload_that_is_called_itself_is_called_ready_or_not(services: Services, state: MeshState) -> None:
    uid = pod(1).uid
    found = backend(services, 9000, service=uid)
    chosen = found.pick(None, None, [])
    assert isinstance(chosen, Endpoint)
    assert (str(chosen.to.target), chosen.to.workload.uid) == ("10.0.0.1:9000", uid)
    apply(state, pod(1, status=HealthStatus.UNHEALTHY, tunnel_protocol=TunnelProtocol.NONE))
    chosen = found.pick(None, None, [])
    assert isinstance(chosen, Endpoint)
    assert chosen.to.tunnel is None
    apply(state, removed=(uid,))
    assert isinstance(found.pick(None, None, []), Unavailable)
    assert isinstance(backend(services, 9000, service="Kubernetes//Pod/demo/absent").pick(None, None, []), Unavailable)
