from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from mesh.addresses import HboneTarget, OriginalDestination, SocketAddress, parse_ip
from mesh.identity import SpiffeId
from mesh.rbac import ConnectionFacts
from mesh.state.routes import ToWorkload
from mesh.testing.model import make_workload
from ztunnel.fanout.messages_codec import Admitted, ServiceDialled
from ztunnel.worker.fast_path import FastPathReports

A = SpiffeId("cluster.local", "demo", "a")


def pod(cookie: int, address: str) -> Any:
    return SimpleNamespace(cookie=cookie, addresses=(parse_ip(address),))


def facts(source: str, identity: SpiffeId | None = A, port: int = 80) -> ConnectionFacts:
    return ConnectionFacts(parse_ip(source), identity, parse_ip("10.0.0.2"), port)


def test_what_was_admitted_between_pods_of_the_node_is_told_once_per_state() -> None:
    told: list[Any] = []
    reports = FastPathReports("node1", told.append)
    source, destination = pod(1, "10.0.0.1"), pod(2, "10.0.0.2")
    reports.admitted(destination, facts("10.0.0.1"))
    assert told == []  # from elsewhere
    reports.pod_started(source)
    reports.pod_started(destination)
    reports.version = 7
    for _ in range(3):
        reports.admitted(destination, facts("10.0.0.1"))
    reports.admitted(destination, facts("10.0.0.1", identity=None))
    assert told == [
        Admitted(
            version=7, pod_cookie=2, source=parse_ip("10.0.0.1"), identity=str(A), destination=parse_ip("10.0.0.2"),
            port=80,
        )
    ]
    reports.admitted(destination, facts("10.0.0.1", port=81))
    assert len(told) == 2
    reports.version = 8
    reports.forget()
    reports.admitted(destination, facts("10.0.0.1"))
    assert told[-1].version == 8
    reports.pod_stopped(source)
    reports.forget()
    reports.admitted(destination, facts("10.0.0.1"))
    assert len(told) == 3


def test_services_with_an_endpoint_here_are_told() -> None:
    told: list[Any] = []
    reports = FastPathReports("node1", told.append)
    source = pod(1, "10.0.0.1")
    dialled = OriginalDestination(SocketAddress(parse_ip("10.96.0.1"), 80))
    for node in ("node2", "node1", "node1"):
        workload = make_workload("server", "10.0.0.2", node=node)
        target = HboneTarget(SocketAddress(workload.addresses[0], 8080))
        reports.dialled_service(source, dialled, ToWorkload(workload, target, None, frozenset(), "demo/echo.demo"))
    assert told == [ServiceDialled(version=0, pod_cookie=1, address=parse_ip("10.96.0.1"), port=80)]
