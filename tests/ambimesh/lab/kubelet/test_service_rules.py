from __future__ import annotations

import subprocess

import pytest

from ambimesh.lab.kubelet.service_rules import Backend, ServiceRule, ruleset, service_rules
from resources.base import ObjectMeta
from resources.network import Endpoint, EndpointConditions, EndpointPort, ServicePort, ServiceSpec
from resources.objects import SERVICE_NAME_LABEL, EndpointSlice, Service


def service(*addresses: str, ports: tuple[ServicePort, ...] = (ServicePort(port=80),)) -> Service:
    spec = ServiceSpec(ports=ports, cluster_ip=addresses[0] if addresses else "None", cluster_ips=addresses)
    return Service(metadata=ObjectMeta(name="web", namespace="shop"), spec=spec)


def endpoints(*ips: str, ready: bool | None = True, port: int = 8080, namespace: str = "shop") -> EndpointSlice:
    return EndpointSlice(
        metadata=ObjectMeta(name="web-1", namespace=namespace, labels={SERVICE_NAME_LABEL: "web"}),
        address_type="IPv6" if ips and ":" in ips[0] else "IPv4",
        endpoints=tuple(Endpoint(addresses=(ip,), conditions=EndpointConditions(ready=ready)) for ip in ips),
        ports=(EndpointPort(port=port),),
    )


def test_a_port_leads_to_its_ready_endpoints() -> None:
    rules = service_rules([service("10.96.0.1")], [endpoints("10.0.0.2", "10.0.0.1")])
    backends = (Backend("10.0.0.1", 8080), Backend("10.0.0.2", 8080))
    assert rules == [ServiceRule("10.96.0.1", "tcp", 80, backends)]


def test_unready_endpoints_and_other_namespaces_do_not_count() -> None:
    slices = [endpoints("10.0.0.1", ready=False), endpoints("10.0.0.2", namespace="other")]
    assert service_rules([service("10.96.0.1")], slices)[0].backends == ()


def test_unknown_readiness_means_ready() -> None:
    assert service_rules([service("10.96.0.1")], [endpoints("10.0.0.1", ready=None)])[0].backends


def test_families_do_not_mix() -> None:
    rules = service_rules([service("10.96.0.1", "fd00::1")], [endpoints("10.0.0.1"), endpoints("fd00::2")])
    assert [(rule.address, rule.backends[0].ip) for rule in rules] == [
        ("10.96.0.1", "10.0.0.1"),
        ("fd00::1", "fd00::2"),
    ]


def test_ports_are_matched_by_name() -> None:
    ports = (ServicePort(port=80, name="http"), ServicePort(port=90, name="other"))
    rules = service_rules([service("10.96.0.1", ports=ports)], [endpoints("10.0.0.1")])
    assert [rule.backends for rule in rules] == [(), ()]


def test_a_headless_service_needs_no_translation() -> None:
    assert service_rules([service()], [endpoints("10.0.0.1")]) == []


def test_a_service_without_endpoints_is_refused_not_translated() -> None:
    text = ruleset([ServiceRule("10.96.0.1", "tcp", 80, ())])
    assert "dnat" not in text
    assert "ip daddr . meta l4proto . th dport { 10.96.0.1 . tcp . 80 } reject" in text


@pytest.mark.root
def test_nftables_takes_the_rules(resource_prefix: str) -> None:
    backends = (Backend("10.0.0.1", 8080), Backend("10.0.0.2", 8081))
    rules = [
        ServiceRule("10.96.0.1", "tcp", 80, backends),
        ServiceRule("10.96.0.1", "udp", 53, backends[:1]),
        ServiceRule("10.96.0.2", "tcp", 80, ()),
        ServiceRule("fd00::1", "tcp", 80, (Backend("fd00::2", 8080),)),
        ServiceRule("fd00::3", "tcp", 80, ()),
    ]
    subprocess.run(["ip", "netns", "add", resource_prefix], check=True)
    try:
        inside = ["nsenter", f"--net=/run/netns/{resource_prefix}", "nft"]
        for wanted in ([], rules, rules[:1]):
            subprocess.run([*inside, "-f", "-"], input=ruleset(wanted), text=True, check=True)
        shown = subprocess.run([*inside, "list", "ruleset"], capture_output=True, text=True, check=True).stdout
        assert shown.count("dnat ip to") == 1
    finally:
        subprocess.run(["ip", "netns", "del", resource_prefix], check=True)
