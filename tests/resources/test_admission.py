"""What the API server would refuse is refused, and names the field; sound objects pass."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from resources.admission import violations
from resources.decode import format_path
from resources.objects import (
    AuthorizationPolicy,
    EndpointSlice,
    KubernetesObject,
    Namespace,
    PeerAuthentication,
    Pod,
    Service,
    ServiceAccount,
)

META = {"name": "web", "namespace": "shop"}


def faults(kind: type[KubernetesObject], **fields: Any) -> list[tuple[str, str]]:
    value: KubernetesObject = msgspec.convert({"metadata": META, **fields}, kind)
    return [(format_path(found.path), found.message) for found in violations(value)]


def policy(**rule: Any) -> list[str]:
    return [path for path, _ in faults(AuthorizationPolicy, spec={"rules": [rule]})]


@pytest.mark.parametrize(
    ("kind", "metadata", "field"),
    [
        (Namespace, {"name": "shop"}, None),
        (Namespace, {"name": "shop", "namespace": "x"}, "$.metadata.namespace"),
        (Namespace, {"name": "a.b"}, "$.metadata.name"),
        (ServiceAccount, {"name": "a.b", "namespace": "shop"}, None),
        (ServiceAccount, {"name": "A", "namespace": "shop"}, "$.metadata.name"),
        (ServiceAccount, {"name": "a/b", "namespace": "shop"}, "$.metadata.name"),
        (ServiceAccount, {"name": "a" * 254, "namespace": "shop"}, "$.metadata.name"),
        (ServiceAccount, {"name": "", "namespace": "shop"}, "$.metadata.name"),
        (ServiceAccount, {"name": "a", "namespace": "../x"}, "$.metadata.namespace"),
        (ServiceAccount, {"name": "a\n", "namespace": "shop"}, "$.metadata.name"),
    ],
)
def test_names(kind: type[KubernetesObject], metadata: dict[str, str], field: str | None) -> None:
    assert [path for path, _ in faults(kind, metadata=metadata)] == ([field] if field else [])


def test_pods() -> None:
    sound = {"containers": [{"name": "c"}]}
    assert faults(Pod, spec=sound, status={"podIP": "10.0.0.1"}) == []
    assert [path for path, _ in faults(Pod, spec={"containers": []})] == ["$.spec.containers"]
    assert faults(Pod, spec=sound, status={"podIP": "10.0.0"})[0][0] == "$.status.podIPs"
    assert faults(Pod, spec={**sound, "serviceAccountName": "a/b"})[0][0] == "$.spec.serviceAccountName"


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"clusterIP": "10.96.0.1", "ports": [{"port": 80}]}, None),
        ({"clusterIP": "None"}, None),
        ({"type": "ExternalName", "externalName": "x.example"}, None),
        ({"clusterIP": "10.96.0.1"}, "$.spec.ports"),
        ({"clusterIP": "10.96.0.300", "ports": [{"port": 80}]}, "$.spec.clusterIPs"),
        ({"externalIPs": ["x"], "ports": [{"port": 80}]}, "$.spec.externalIPs[0]"),
        ({"ports": [{"name": "a", "port": 80}, {"name": "a", "port": 81}]}, "$.spec.ports"),
    ],
)
def test_services(spec: dict[str, Any], field: str | None) -> None:
    assert [path for path, _ in faults(Service, spec=spec)] == ([field] if field else [])


def test_endpoint_slices() -> None:
    endpoints = [{"addresses": ["10.0.0.1"]}, {"addresses": ["10.0.0.2", "web"]}]
    assert [path for path, _ in faults(EndpointSlice, addressType="IPv4", endpoints=endpoints)] == [
        "$.endpoints[1].addresses[1]"
    ]
    assert faults(EndpointSlice, addressType="FQDN", endpoints=endpoints) == []


@pytest.mark.parametrize(
    ("rule", "field"),
    [
        ({}, None),
        ({"from": [{"source": {"ipBlocks": ["10.0.0.0/8", "::/0", "10.1.2.3"]}}]}, None),
        ({"from": []}, "from"),
        ({"to": []}, "to"),
        ({"when": []}, "when"),
        ({"from": [{}]}, "from[0].source"),
        ({"from": [{"source": {}}]}, "from[0].source"),
        ({"from": [{"source": {"principals": []}}]}, "from[0].source.principals"),
        ({"from": [{"source": {"namespaces": ["a", ""]}}]}, "from[0].source.namespaces[1]"),
        ({"from": [{"source": {"notIpBlocks": ["10.0.0.0/33"]}}]}, "from[0].source.notIpBlocks[0]"),
        ({"to": [{"operation": {"ports": ["80", "0"]}}]}, "to[0].operation.ports[1]"),
        ({"to": [{"operation": {"notPorts": ["http"]}}]}, "to[0].operation.notPorts[0]"),
        ({"to": [{"operation": {"ports": ["٨٠"]}}]}, "to[0].operation.ports[0]"),
        ({"when": [{"key": "source.ip"}]}, "when[0]"),
        ({"when": [{"key": "source.ip", "values": ["10.0.0.0/8", "x"]}]}, "when[0].values[1]"),
        ({"when": [{"key": "destination.port", "notValues": ["65536"]}]}, "when[0].notValues[0]"),
        ({"when": [{"key": "source.namespace", "values": ["x"]}]}, None),
    ],
)
def test_rules(rule: dict[str, Any], field: str | None) -> None:
    assert policy(**rule) == ([f"$.spec.rules[0].{field}"] if field else [])


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({}, None),
        ({"action": "CUSTOM"}, "$.spec.provider"),
        ({"selector": {}, "targetRef": {"kind": "Service", "name": "x"}}, "$.spec"),
        ({"selector": {"matchLabels": {"app": "web*"}}}, "$.spec.selector.matchLabels"),
    ],
)
def test_authorization_policies(spec: dict[str, Any], field: str | None) -> None:
    assert [path for path, _ in faults(AuthorizationPolicy, spec=spec)] == ([field] if field else [])


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"mtls": {"mode": "STRICT"}}, None),
        ({"selector": {"matchLabels": {"a": "b"}}, "portLevelMtls": {"80": {}}}, None),
        ({"portLevelMtls": {"80": {}}}, "$.spec.portLevelMtls"),
        ({"selector": {"matchLabels": {"": "b"}}}, "$.spec.selector.matchLabels"),
    ],
)
def test_peer_authentications(spec: dict[str, Any], field: str | None) -> None:
    assert [path for path, _ in faults(PeerAuthentication, spec=spec)] == ([field] if field else [])


def test_a_port_that_is_none_is_named() -> None:
    spec = {"selector": {"matchLabels": {"a": "b"}}, "portLevelMtls": {"http": {}}}
    [(path, message)] = faults(PeerAuthentication, spec=spec)
    assert "portLevelMtls" in path
    assert "'http' is not a port" in message
