"""Who goes through which waypoint, how much of it, and that nobody gets past one."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from controlplane.translate.layer7.bypass import BYPASS_ANNOTATION
from resources.objects import Pod, Service

pytestmark = pytest.mark.lab

GATEWAY = """
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: {name}, namespace: {namespace}, labels: {{{labels}}}}}
spec:
  gatewayClassName: ambimesh-waypoint
  listeners: [{{name: mesh, port: 15008, protocol: HBONE{more}}}]
"""
ONLY_GET = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: closed, namespace: conformance}
spec:
  targetRefs: [{group: "", kind: Service, name: closed}]
  action: ALLOW
  rules: [{to: [{operation: {methods: [GET]}}]}]
"""
USE = "istio.io/use-waypoint"
CONNECTIONS = 200
SPREAD = 20.0
"""Six standard deviations of 30 percent of so many, in percent."""


@contextmanager
def gateway(mesh: Any, name: str, namespace: str = "conformance", labels: str = "", more: str = "") -> Iterator[None]:
    """Another waypoint for the length of the block."""
    text = GATEWAY.format(name=name, namespace=namespace, labels=labels, more=more)
    mesh.apply(text)
    try:
        mesh.until(lambda: mesh.programmed(namespace, name), lambda: f"{namespace}/{name} is not ready")
        yield
    finally:
        mesh.delete(text)
        mesh.until(lambda: not mesh.replicas_of(namespace, name), lambda: f"{namespace}/{name} has not gone")


@contextmanager
def marked(mesh: Any, kind: type, name: str, **metadata: Any) -> Iterator[None]:
    """Labels and annotations for the length of the block."""
    mesh.store.patch_metadata(kind, "conformance", name, **metadata)
    try:
        yield
    finally:
        undone = {field: dict.fromkeys(values) for field, values in metadata.items()}
        mesh.store.patch_metadata(kind, "conformance", name, **undone)


def passed(mesh: Any, answer: Any) -> str:
    """The waypoint that a call has passed, as ``namespace/name``; empty if none."""
    peer = str(answer.seen["peer"]).rpartition(":")[0].strip("[]")
    return str(mesh.waypoints().get(peer, ""))


def expect_waypoint(mesh: Any, service: str, wanted: str, **request: Any) -> Any:
    def right(answer: Any) -> bool:
        return answer.status == 200 and passed(mesh, answer) == wanted

    return mesh.expect(service, wanted=right, **request)


def test_replicas_share_the_load(mesh: Any) -> None:
    with mesh.services("shared"), mesh.replicas(3):
        mesh.status("shared", status=200)
        peers = Counter(mesh.ask("shared")[0].seen["peer"].rpartition(":")[0] for _ in range(60))
        assert len(peers) == 3
        assert min(peers.values()) >= 5


def test_a_canary_gets_its_share_of_connections(mesh: Any) -> None:
    labels = {USE: "waypoint", "istio.io/use-waypoint-canary": "canary"}
    weight = {"istio.io/use-waypoint-canary-weight": "30"}
    with (
        mesh.services("tried"),
        gateway(mesh, "canary"),
        marked(mesh, Service, "tried", labels=labels, annotations=weight),
    ):
        mesh.expect("tried", wanted=lambda answer: answer.status == 200)
        mesh.until(
            lambda: passed(mesh, mesh.ask("tried")[0]) == "conformance/canary", lambda: "the canary gets nothing"
        )
        found = Counter(passed(mesh, mesh.ask("tried")[0]) for _ in range(CONNECTIONS))
        assert found.keys() == {"conformance/waypoint", "conformance/canary"}
        assert abs(100 * found["conformance/canary"] / CONNECTIONS - 30) < SPREAD


def test_none_is_no_waypoint(mesh: Any) -> None:
    with mesh.services("alone"):
        expect_waypoint(mesh, "alone", "conformance/waypoint")
        with marked(mesh, Service, "alone", labels={USE: "none"}):
            answer = expect_waypoint(mesh, "alone", "")
            assert answer.received("x-forwarded-for") is None
        expect_waypoint(mesh, "alone", "conformance/waypoint")


def test_a_waypoint_of_another_namespace_must_admit_this_one(mesh: Any) -> None:
    elsewhere = {USE: "open", "istio.io/use-waypoint-namespace": "consumer"}
    closed = {USE: "waypoint", "istio.io/use-waypoint-namespace": "consumer"}
    admitted = ", allowedRoutes: {namespaces: {from: All}}"
    with mesh.services("abroad"):
        with gateway(mesh, "open", "consumer", more=admitted), marked(mesh, Service, "abroad", labels=elsewhere):
            expect_waypoint(mesh, "abroad", "consumer/open")
        with marked(mesh, Service, "abroad", labels=closed):
            mesh.expect("abroad", wanted=lambda answer: bool(answer.error), in_a_row=1)
            assert mesh.bound("abroad") == "AttachmentDenied"
        expect_waypoint(mesh, "abroad", "conformance/waypoint")


@pytest.mark.parametrize(("traffic", "services", "pods"), [("workload", False, True), ("all", True, True)])
def test_what_traffic_a_waypoint_is_for(mesh: Any, traffic: str, services: bool, pods: bool) -> None:
    labels = {USE: "special"}
    with (
        mesh.services("of-kind"),
        gateway(mesh, "special", labels=f"istio.io/waypoint-for: {traffic}"),
        marked(mesh, Service, "of-kind-v2", labels=labels),
        marked(mesh, Pod, "echo-v2", labels=labels),
    ):
        special = "conformance/special"
        address = mesh.pod_address("echo-v2")
        expect_waypoint(mesh, "of-kind-v2", special if pods else "", address=address, port=8080)
        expect_waypoint(mesh, "of-kind-v2", special if services else "")


def test_there_is_no_way_past_but_for_those_named(mesh: Any) -> None:
    with mesh.services("closed"), marked(mesh, Service, "closed", annotations={BYPASS_ANNOTATION: "consumer/default"}):
        mesh.apply(ONLY_GET)
        try:
            mesh.status("closed", status=403, method="DELETE")
            mesh.status("closed", status=200)
            for pod in ("echo-v1", "echo-v2"):
                straight = {"address": mesh.pod_address(pod), "port": 8080}
                mesh.expect("closed", wanted=lambda answer: bool(answer.error), **straight)
                answer = mesh.status("closed", status=200, client="consumer", method="DELETE", **straight)
                assert passed(mesh, answer) == ""
        finally:
            mesh.delete(ONLY_GET)
        mesh.status("closed", status=200, address=mesh.pod_address("echo-v1"), port=8080)


def endpoints(mesh: Any, node: str) -> int:
    """How many replicas of the waypoint a node's ztunnel knows."""
    named = ("conformance", "waypoint")
    services = [each for each in mesh.dump(node)["services"] if (each["namespace"], each["name"]) == named]
    return sum(len(each["endpointWorkloads"]) for each in services)


def test_who_calls_while_the_waypoint_is_not_up_waits_for_it(mesh: Any) -> None:
    with mesh.services("early"):
        mesh.status("early", status=200)
        answers: list[Any] = []
        with mesh.replicas(0):
            mesh.until(lambda: endpoints(mesh, "node1") == 0, lambda: "ztunnel still has a waypoint")
            asking = threading.Thread(target=lambda: answers.extend(mesh.ask("early")))
            asking.start()
        asking.join(20)
        assert [(answer.status, passed(mesh, answer)) for answer in answers] == [(200, "conformance/waypoint")]


def test_who_waits_in_vain_is_told_why(mesh: Any) -> None:
    with mesh.services("vain"):
        mesh.status("vain", status=200)
        with mesh.replicas(0):
            mesh.until(lambda: endpoints(mesh, "node1") == 0, lambda: "ztunnel still has a waypoint")
            (answer,) = mesh.ask("vain")
            assert answer.error
            wanted = "vain.conformance.svc.cluster.local is bound to waypoint conformance/waypoint."
            mesh.until(
                lambda: any(wanted in line for line in mesh.access_log("node1")),
                lambda: f"no reason in {mesh.access_log('node1')[-1:]}",
            )
        mesh.status("vain", status=200)
