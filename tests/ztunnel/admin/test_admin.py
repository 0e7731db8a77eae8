from __future__ import annotations

import json
from datetime import UTC, datetime
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from mesh.addresses import parse_ip, parse_socket_address
from mesh.admin import admin_routes, metrics_routes, readiness_routes
from mesh.certificates.manager import CertificateReport, CertificateState
from mesh.model.policy import Match, PolicyScope
from mesh.model.service import Service
from mesh.model.workload import (
    GatewayAddress,
    HealthStatus,
    NamespacedHostname,
    NetworkAddress,
    TunnelProtocol,
    Workload,
)
from mesh.relay.acceptor import Acceptor
from mesh.state.store import MeshState
from mesh.telemetry import log
from mesh.telemetry.access_log import AccessLog
from mesh.telemetry.http_endpoint import HttpRequest, HttpResponse
from mesh.telemetry.metrics import L4Metrics, ServiceLabels
from mesh.testing.ca import TestAuthority
from mesh.testing.model import make_policy, make_service, make_workload
from mesh.tls.kernel_driver import NoKernelTls
from mesh.xds.codec import ADDRESS_TYPE, AUTHORIZATION_TYPE, encode_address, encode_authorization
from mesh.xds.discovery_codec import Resource
from ztunnel.admin.dump import dump
from ztunnel.admin.readiness import Readiness
from ztunnel.admin.routes import HELP, set_levels
from ztunnel.proxy.connections import ConnectionTable


class Lines:
    def __init__(self) -> None:
        self.lines: list[bytes] = []

    def write(self, line: bytes) -> None:
        self.lines.append(line)


def access_log() -> tuple[AccessLog, Lines]:
    lines: Any = Lines()
    return AccessLog("text", "info", lines), lines


def request(method: str = "GET", path: str = "/", **query: str) -> HttpRequest:
    return HttpRequest(method=method, path=path, query=query, headers={}, body=b"")


def described() -> MeshState:
    state = MeshState("node1")
    waypoint = GatewayAddress(NamespacedHostname("demo", "wp.demo.svc.cluster.local"), 15008)
    by_address = GatewayAddress(NetworkAddress("net", parse_ip("10.9.9.9")), 15008)
    values: list[Workload | Service] = [
        make_service("web", "10.96.0.1", "fd00::1", waypoint=waypoint),
        make_workload("a", "10.0.0.1", services={"default/web.default.svc.cluster.local": {80: 8080}}),
        make_workload(
            "b",
            "10.0.0.2",
            services={"default/web.default.svc.cluster.local": {80: 8080}},
            status=HealthStatus.UNHEALTHY,
            tunnel_protocol=TunnelProtocol.NONE,
            waypoint=by_address,
        ),
    ]
    resources = [
        Resource(value.uid if isinstance(value, Workload) else value.key, "1", (), encode_address(value))
        for value in values
    ]
    assert state.apply(ADDRESS_TYPE, resources, []) == []
    policy = make_policy("p", Match(destination_ports=(80,)), scope=PolicyScope.WORKLOAD_SELECTOR, dry_run=True)
    assert state.apply(AUTHORIZATION_TYPE, [Resource(policy.key, "1", (), encode_authorization(policy))], []) == []
    return state


def test_the_dump_is_flat_and_can_be_written_as_json() -> None:
    authority = TestAuthority()
    identity = authority.identity("demo", "a")
    credentials = authority.issue(identity)
    reports = [
        CertificateReport(identity, CertificateState.AVAILABLE, credentials, datetime(2026, 1, 2, tzinfo=UTC), None),
        CertificateReport(identity, CertificateState.UNAVAILABLE, None, None, "refused"),
    ]
    identities: Any = SimpleNamespace(report=lambda: reports)
    pod: Any = SimpleNamespace(
        uid="u1", name="demo/a", identity=identity, addresses=(parse_ip("10.0.0.1"),), workload=None
    )
    server = SimpleNamespace(pod=pod, pool=[1, 2], terminator=[3])
    pods: Any = SimpleNamespace(serving=[server], pending=["u2"])
    table = ConnectionTable(L4Metrics(CollectorRegistry()), access_log()[0])
    outbound = table.begin(pod, "outbound", parse_socket_address("10.0.0.1:9"), parse_socket_address("10.0.0.2:15008"))
    outbound.record.no_mtls = None
    outbound.record.source_identity = identity
    outbound.record.hbone_target = "10.0.0.2:80"
    table.begin(pod, "inbound", parse_socket_address("10.0.0.3:9"), parse_socket_address("10.0.0.1:80"))

    found = json.loads(json.dumps(dump(described(), identities, table, pods, NoKernelTls("no such protocol"))))
    assert set(found) == {"workloads", "services", "policies", "certificates", "connections", "pods", "processes"}
    a, b = found["workloads"]
    assert (a["name"], a["protocol"], a["status"], a["waypoint"]) == ("a", "HBONE", "Healthy", "None")
    assert (b["protocol"], b["status"], b["waypoint"]) == ("TCP", "Unhealthy", "net/10.9.9.9")
    (service,) = found["services"]
    assert service["vips"] == ["10.96.0.1", "fd00::1"]
    assert service["endpoints"] == "1/2"
    assert "wp.demo.svc.cluster.local" in service["waypoint"]
    (policy,) = found["policies"]
    assert (policy["scope"], policy["action"], policy["dryRun"]) == ("WorkloadSelector", "Allow", True)
    good, bad = found["certificates"]
    assert good["valid"]
    assert good["serialNumber"] == f"{credentials.serial:x}"
    assert not bad["valid"]
    assert bad["error"] == "refused"
    by_direction = {one["direction"]: one for one in found["connections"]}
    assert by_direction["Outbound"]["remoteTarget"] == "10.0.0.2:80"
    assert by_direction["Outbound"]["protocol"] == "HBONE"
    assert by_direction["Inbound"]["protocol"] == "TCP"
    assert (by_direction["Inbound"]["local"], by_direction["Inbound"]["remote"]) == ("10.0.0.1:80", "10.0.0.3:9")
    assert found["processes"][0]["kernelTls"] == "off: no such protocol"
    served, pending = found["pods"]
    assert (served["tunnelsOut"], served["tunnelsIn"], served["described"]) == (2, 1, False)
    assert pending == {"uid": "u2", "pending": True}
    text = json.dumps(found)
    assert "PRIVATE KEY" not in text


async def test_readiness_names_everything_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    state: Any = SimpleNamespace(synchronized=False)
    pods: Any = SimpleNamespace(snapshot_received=False, pending=["u1"])
    monkeypatch.setattr(Acceptor, "out_of_descriptors", 0)
    readiness = Readiness(state, pods)
    readiness.draining = True
    Acceptor.out_of_descriptors = 3

    async def missing() -> list[str]:
        return readiness.missing()

    handler = readiness_routes(missing)["GET", "/healthz/ready"]
    answer = await handler(request())
    assert answer.status == 503
    for part in (b"draining", b"control plane", b"node agent", b"1 pods", b"3 connections"):
        assert part in answer.body
    assert len(readiness.missing()) == 4  # no connection was refused since
    readiness.draining = False
    state.synchronized = pods.snapshot_received = True
    pods.pending = []
    assert (await handler(request())).status == 200


async def test_the_admin_port() -> None:
    quits: list[str] = []
    log_, lines = access_log()

    async def everything() -> object:
        return {"a": 1}

    routes = admin_routes(HELP, everything, partial(set_levels, log_), lambda: quits.append("now"))
    assert b"/quitquitquit" in (await routes["GET", "/"](request())).body
    assert json.loads((await routes["GET", "/config_dump"](request())).body) == {"a": 1}
    assert ("GET", "/quitquitquit") not in routes  # a link must not stop the proxy
    await routes["POST", "/quitquitquit"](request("POST"))
    assert quits == ["now"]
    before = log.current_level()
    try:
        assert b"debug" in (await routes["POST", "/logging"](request("POST", level="debug"))).body
        assert log.current_level() == "debug"
        bad = await routes["POST", "/logging"](request("POST", level="loud"))
        assert bad.status == 400
        assert log.current_level() == "debug"
        assert (await routes["POST", "/logging"](request("POST", access="loud"))).status == 400
        # Of two wishes none is fulfilled when the other cannot be.
        assert (await routes["POST", "/logging"](request("POST", level="error", access="loud"))).status == 400
        assert (await routes["GET", "/logging"](request())).body == b"level: debug\naccess: info\n"
    finally:
        log.set_level(before)
    await routes["POST", "/logging"](request("POST", access="off"))
    table = ConnectionTable(L4Metrics(CollectorRegistry()), log_)
    pod: Any = None
    connection = table.begin(pod, "inbound", parse_socket_address("10.0.0.3:9"), parse_socket_address("10.0.0.1:80"))
    table.described(connection, ServiceLabels())
    table.finished(connection, None)
    assert lines.lines == []
    assert b"access: off" in (await routes["GET", "/logging"](request())).body
    assert b"access: warning" in (await routes["POST", "/logging"](request("POST", access="WARN"))).body


async def test_metrics_are_brought_up_to_date_first() -> None:
    calls: list[str] = []

    async def page(_request: HttpRequest) -> HttpResponse:
        calls.append("page")
        return HttpResponse(200, b"", "text/plain")

    async def count() -> None:
        calls.append("count")

    routes = metrics_routes(page, count)
    for path in ("/metrics", "/stats/prometheus"):
        await routes["GET", path](request())
    assert calls == ["count", "page"] * 2
