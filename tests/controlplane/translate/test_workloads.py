"""Pods and bare endpoints one by one."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from controlplane.translate.settings import MeshSettings
from controlplane.translate.workloads import (
    REDIRECTION_ANNOTATION,
    Backing,
    endpoint_services,
    endpoint_uid,
    is_pod,
    pod_uid,
    translate_bare_endpoints,
    translate_pod,
    workload_owner,
)
from mesh.model.workload import (
    AppProtocol,
    HealthStatus,
    Locality,
    NetworkMode,
    ServicePort,
    TunnelProtocol,
    Workload,
    WorkloadType,
)
from resources.network import Endpoint
from resources.objects import EndpointSlice, Pod, Service

SETTINGS = MeshSettings()
READY = {"phase": "Running", "podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]}


def pod(
    *, metadata: dict[str, Any] | None = None, spec: dict[str, Any] | None = None, status: dict[str, Any] | None = None
) -> Pod:
    plain = {
        "metadata": {"name": "web-1", "namespace": "shop", **(metadata or {})},
        "spec": {"nodeName": "node1", "containers": [{"name": "c"}], **(spec or {})},
        "status": READY if status is None else status,
    }
    return msgspec.convert(plain, Pod)


def service(*ports: dict[str, Any], name: str = "web") -> Service:
    return msgspec.convert(
        {"metadata": {"name": name, "namespace": "shop"}, "spec": {"clusterIP": "10.96.0.1", "ports": list(ports)}},
        Service,
    )


def endpoint_slice(endpoints: list[dict[str, Any]], *ports: dict[str, Any], kind: str = "IPv4") -> EndpointSlice:
    metadata = {"name": "web-x", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}}
    plain = {"metadata": metadata, "addressType": kind, "endpoints": endpoints, "ports": list(ports)}
    return msgspec.convert(plain, EndpointSlice)


def workload(value: Pod, *backings: Backing) -> Workload:
    found = translate_pod(value, backings, ("shop/p",), SETTINGS)
    assert found is not None
    return found


def test_names() -> None:
    assert pod_uid("shop", "web-1", SETTINGS) == "Kubernetes//Pod/shop/web-1"
    uid = endpoint_uid(endpoint_slice([]), "192.0.2.1", SETTINGS)
    assert uid == "Kubernetes/discovery.k8s.io/EndpointSlice/shop/web-x/192.0.2.1"


@pytest.mark.parametrize(
    "value",
    [
        pod(spec={"nodeName": ""}),
        pod(status={"phase": "Pending"}),
        pod(status={**READY, "phase": "Succeeded"}),
        pod(status={**READY, "phase": "Failed"}),
    ],
    ids=["no node", "no address", "succeeded", "failed"],
)
def test_a_pod_that_nobody_can_reach_is_none(value: Pod) -> None:
    assert translate_pod(value, (), (), SETTINGS) is None


def test_defaults() -> None:
    found = workload(pod())
    assert found.tunnel_protocol is TunnelProtocol.NONE
    assert found.service_account == "default"
    assert found.canonical_name == "web-1"
    assert found.canonical_revision == "latest"
    assert found.status is HealthStatus.HEALTHY
    assert found.authorization_policies == ("shop/p",)
    assert found.network_mode is NetworkMode.STANDARD


def test_capture_is_what_makes_a_tunnel() -> None:
    captured = workload(pod(metadata={"annotations": {REDIRECTION_ANNOTATION: "enabled"}}))
    assert (captured.tunnel_protocol, captured.native_tunnel) == (TunnelProtocol.HBONE, False)
    pending = workload(pod(metadata={"annotations": {REDIRECTION_ANNOTATION: "pending"}}))
    assert pending.tunnel_protocol is TunnelProtocol.NONE
    native = workload(pod(metadata={"labels": {"networking.istio.io/tunnel": "http"}}))
    assert (native.tunnel_protocol, native.native_tunnel) == (TunnelProtocol.HBONE, True)


@pytest.mark.parametrize(
    "value",
    [
        pod(metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"}),
        pod(status={"phase": "Running", "podIP": "10.0.0.1"}),
    ],
    ids=["going", "not ready"],
)
def test_health(value: Pod) -> None:
    assert workload(value).status is HealthStatus.UNHEALTHY


def test_labels_name_program_and_place() -> None:
    labels = {
        "app": "c",
        "app.kubernetes.io/name": "b",
        "service.istio.io/canonical-name": "",
        "version": "v2",
        "topology.kubernetes.io/region": "eu",
        "topology.istio.io/subzone": "rack1",
    }
    backing = Backing(service(), endpoint_slice([]), Endpoint(addresses=("10.0.0.1",), zone="eu-a"))
    found = workload(pod(metadata={"labels": labels}, spec={"hostNetwork": True}), backing)
    assert (found.canonical_name, found.canonical_revision) == ("b", "v2")
    assert found.locality == Locality("eu", "eu-a", "rack1")
    assert found.network_mode is NetworkMode.HOST_NETWORK
    own = workload(pod(metadata={"labels": {"topology.kubernetes.io/zone": "eu-b"}}), backing)
    assert own.locality.zone == "eu-b"


@pytest.mark.parametrize(
    ("kind", "name", "labels", "expected"),
    [
        ("ReplicaSet", "web-5d4f", {"pod-template-hash": "5d4f"}, ("web", WorkloadType.DEPLOYMENT)),
        ("ReplicaSet", "web-5d4f", {}, ("web-5d4f", WorkloadType.POD)),
        ("ReplicaSet", "web", {"pod-template-hash": "5d4f"}, ("web", WorkloadType.POD)),
        ("Job", "clean", {}, ("clean", WorkloadType.JOB)),
        ("Job", "clean-29312345", {}, ("clean", WorkloadType.CRONJOB)),
        ("Job", "clean-1234567", {}, ("clean-1234567", WorkloadType.JOB)),
        ("StatefulSet", "db", {}, ("db", WorkloadType.POD)),
    ],
)
def test_owners(kind: str, name: str, labels: dict[str, str], expected: tuple[str, WorkloadType]) -> None:
    owners = [
        {"apiVersion": "v1", "kind": "Other", "name": "x", "uid": "u"},
        {"apiVersion": "v1", "kind": kind, "name": name, "uid": "u", "controller": True},
    ]
    assert workload_owner(pod(metadata={"labels": labels, "ownerReferences": owners})) == expected
    assert workload_owner(pod(metadata={"ownerReferences": owners[:1]})) == ("web-1", WorkloadType.POD)


def test_named_target_ports_are_the_slices_numbers() -> None:
    offered = service(
        {"name": "http", "port": 80, "targetPort": "web"},
        {"name": "admin", "port": 81, "targetPort": "absent"},
        {"name": "raw", "port": 82, "targetPort": 9000},
        {"name": "dns", "port": 53, "protocol": "UDP"},
    )
    first = endpoint_slice([], {"name": "http", "port": 8080}, {"name": "dns", "port": 53, "protocol": "UDP"})
    endpoint = Endpoint(addresses=("10.0.0.1",))
    second = endpoint_slice([], kind="IPv6")
    found = endpoint_services([Backing(offered, first, endpoint), Backing(offered, second, endpoint)], SETTINGS)
    assert found == {
        "shop/web.shop.svc.cluster.local": (
            ServicePort(80, 8080, AppProtocol.HTTP11),
            ServicePort(82, 9000, AppProtocol.UNKNOWN),
        )
    }


def test_bare_endpoints() -> None:
    endpoints: list[dict[str, Any]] = [
        {"addresses": ["10.0.0.1"], "targetRef": {"kind": "Pod", "name": "web-1"}},
        {"addresses": ["192.0.2.1", "192.0.2.2"], "nodeName": "node2", "zone": "a"},
        {"addresses": ["192.0.2.3"], "conditions": {"ready": False}},
        {"addresses": ["192.0.2.4"], "targetRef": {"kind": "Node", "name": "n"}},
    ]
    value = endpoint_slice(endpoints, {"name": "", "port": 80})
    found = translate_bare_endpoints(value, service({"port": 80}), SETTINGS)
    assert [one.uid.rpartition("/")[2] for one in found] == ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"]
    assert [one.status is HealthStatus.HEALTHY for one in found] == [True, True, False, True]
    assert {one.tunnel_protocol for one in found} == {TunnelProtocol.NONE}
    assert found[0].node == "node2"
    assert found[0].locality == Locality(zone="a")
    assert [is_pod(endpoint) for endpoint in value.endpoints] == [True, False, False, False]
    assert translate_bare_endpoints(value, None, SETTINGS) == ()
    assert translate_bare_endpoints(endpoint_slice(endpoints, kind="FQDN"), service(), SETTINGS) == ()
