"""Services one by one: names, ports and protocols, balancing, and what is told when a wish has no effect."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from controlplane.translate.binding import Binding, waypoint_address
from controlplane.translate.finding import Condition
from controlplane.translate.services import (
    app_protocol,
    service_hostname,
    service_key,
    target_number,
    tcp_ports,
    translate_service,
)
from controlplane.translate.settings import MeshSettings
from mesh.addresses import parse_ip
from mesh.model.service import BalancingMode, HealthPolicy, IpFamilies, LoadBalancing, RoutingScope, WeightedWaypoint
from mesh.model.workload import AppProtocol, NetworkAddress, ServicePort
from resources.network import ServicePort as Port
from resources.network import ServiceSpec
from resources.objects import Service

SETTINGS = MeshSettings(cluster_domain="cluster.test", network="blue")
NETWORK = (RoutingScope.NETWORK, RoutingScope.REGION, RoutingScope.ZONE)


def source(labels: dict[str, str] | None = None, **spec: Any) -> Service:
    metadata = {"name": "web", "namespace": "shop", "labels": labels or {}}
    return msgspec.convert({"metadata": metadata, "spec": spec}, Service)


def test_names_end_in_the_clusters_domain() -> None:
    assert service_hostname("web", "shop", SETTINGS) == "web.shop.svc.cluster.test"
    assert service_key("web", "shop", SETTINGS) == "shop/web.shop.svc.cluster.test"


def test_addresses_ports_and_families() -> None:
    ports = [{"name": "http", "port": 80, "targetPort": 8080}, {"name": "dns", "port": 53, "protocol": "UDP"}]
    service, findings = translate_service(
        source(clusterIP="10.96.0.1", clusterIPs=["10.96.0.1", "fd00::1"], ipFamilies=["IPv6", "IPv4"], ports=ports),
        SETTINGS,
    )
    assert service is not None
    assert findings == ()
    assert service.key == "shop/web.shop.svc.cluster.test"
    assert service.addresses == (
        NetworkAddress("blue", parse_ip("10.96.0.1")),
        NetworkAddress("blue", parse_ip("fd00::1")),
    )
    assert service.ports == (ServicePort(80, 8080, AppProtocol.HTTP11),)
    assert service.ip_families is IpFamilies.DUAL


def test_a_name_in_dns_only_is_not_carried() -> None:
    service, [finding] = translate_service(source(type="ExternalName", externalName="x.example"), SETTINGS)
    assert service is None
    assert finding.condition is Condition.NOT_APPLIED


@pytest.mark.parametrize(
    ("spec", "balancing"),
    [
        ({}, LoadBalancing()),
        ({"publishNotReadyAddresses": True}, LoadBalancing(health_policy=HealthPolicy.ALLOW_ALL)),
        ({"trafficDistribution": "PreferClose"}, LoadBalancing(NETWORK, BalancingMode.FAILOVER)),
        (
            {"trafficDistribution": "PreferSameNode"},
            LoadBalancing((*NETWORK, RoutingScope.SUBZONE, RoutingScope.NODE), BalancingMode.FAILOVER),
        ),
        (
            {"internalTrafficPolicy": "Local", "trafficDistribution": "PreferClose"},
            LoadBalancing((RoutingScope.NODE,), BalancingMode.STRICT),
        ),
    ],
)
def test_balancing(spec: dict[str, Any], balancing: LoadBalancing) -> None:
    service, findings = translate_service(source(ports=[{"port": 80}], **spec), SETTINGS)
    assert service is not None
    assert service.load_balancing == balancing
    assert findings == ()


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ({"sessionAffinity": "ClientIP"}, "sessionAffinity ClientIP"),
        ({"trafficDistribution": "PreferMoon"}, "PreferMoon"),
    ],
)
def test_wishes_without_effect_are_told(spec: dict[str, Any], text: str) -> None:
    service, [finding] = translate_service(source(ports=[{"port": 80}], **spec), SETTINGS)
    assert service is not None
    assert finding.condition is Condition.UNSUPPORTED_VALUE
    assert text in str(finding)


def test_a_binding_is_taken_over() -> None:
    address = waypoint_address("shop", "w", SETTINGS)
    weighted = (WeightedWaypoint(address, 9),)
    service, findings = translate_service(source(ports=[{"port": 80}]), SETTINGS, Binding(address, weighted))
    assert service is not None
    assert (service.waypoint, service.weighted_waypoints, findings) == (address, weighted, ())
    assert str(address.destination) == "shop/w.shop.svc.cluster.test"


@pytest.mark.parametrize(
    ("port", "protocol"),
    [
        (Port(port=80, name="grpc-web"), AppProtocol.GRPC),
        (Port(port=80, name="HTTP2"), AppProtocol.HTTP2),
        (Port(port=80, name="web"), AppProtocol.UNKNOWN),
        (Port(port=80, name="http", app_protocol="kubernetes.io/h2c"), AppProtocol.HTTP2),
        (Port(port=80, name="http", app_protocol="example.com/own"), AppProtocol.UNKNOWN),
        (Port(port=443, app_protocol="HTTPS"), AppProtocol.TLS),
        (Port(port=80), AppProtocol.UNKNOWN),
    ],
)
def test_protocols(port: Port, protocol: AppProtocol) -> None:
    assert app_protocol(port) is protocol


def test_target_ports() -> None:
    assert target_number(Port(port=80)) == 80
    assert target_number(Port(port=80, target_port=0)) == 80
    assert target_number(Port(port=80, target_port=8080)) == 8080
    assert target_number(Port(port=80, target_port="http")) == 0
    spec = ServiceSpec(ports=(Port(port=53, protocol="UDP"), Port(port=80), Port(port=9, protocol="SCTP")))
    assert [port.port for port in tcp_ports(spec)] == [80]
