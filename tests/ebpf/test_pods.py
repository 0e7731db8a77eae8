"""The record of enrolled pods in the kernel."""

from __future__ import annotations

import subprocess
import time
from typing import Any

import pytest

from ebpf import syscall
from ebpf.attachment import closing
from ebpf.counters import map_usage
from ebpf.paths import PinPaths
from ebpf.pods import Exclusions, PodEntry, PodTable
from mesh.addresses import parse_cidr, parse_ip
from mesh.errors import ConfigurationError, EnvironmentLacks, InvalidAddress
from mesh.netns import NetworkNamespace

pytestmark = pytest.mark.root

EXCLUSIONS = Exclusions(
    outbound_ports=frozenset({22, 65535}),
    inbound_ports=frozenset({9090}),
    outbound_cidrs=frozenset({parse_cidr("169.254.0.0/16"), parse_cidr("fd00::/8"), parse_cidr("0.0.0.0/0")}),
)


def test_what_was_enrolled_is_read_back_by_another_table(node: Any) -> None:
    a, b = node.places["a"], node.places["b"]
    with PodTable(node.paths) as table:
        table.enrol(a.namespace.cookie(), PodEntry(a.addresses, EXCLUSIONS), a.namespace, "Kubernetes//Pod/ns/a.b")
        table.enrol(b.namespace.cookie(), PodEntry(b.addresses), b.namespace, "b")
    with PodTable(node.paths) as table:
        enrolled = table.enrolled()
        assert set(enrolled) == {"Kubernetes//Pod/ns/a.b", "b"}
        first = enrolled["Kubernetes//Pod/ns/a.b"]
        assert first.cookie == a.namespace.cookie()
        assert first.netns_inode == a.namespace.inode
        assert set(first.entry.addresses) == set(a.addresses)
        assert first.entry.exclusions == EXCLUSIONS
        assert enrolled["b"].entry.exclusions == Exclusions()
        table.unenrol("Kubernetes//Pod/ns/a.b")
        assert set(table.enrolled()) == {"b"}
        table.unenrol("b")
        table.unenrol("b")
        assert table.enrolled() == {}
    for name in ("pods", "pod_addresses", "excluded_ports", "excluded_nets"):
        assert entries(node, name) == 0


def entries(node: Any, name: str) -> int:
    return next(usage.entries for usage in map_usage(node.paths) if usage.name == name)


def test_enrolling_again_brings_the_pod_to_the_new_entry(node: Any) -> None:
    a = node.places["a"]
    with PodTable(node.paths) as table:
        table.enrol(a.namespace.cookie(), PodEntry(a.addresses, EXCLUSIONS), a.namespace, "a")
        changed = PodEntry((parse_ip(a.ipv4),), Exclusions(outbound_ports=frozenset({22, 25})))
        table.enrol(a.namespace.cookie(), changed, a.namespace, "a")
        assert table.enrolled()["a"].entry == changed
        table.unenrol("a")


def test_a_pod_with_a_new_sandbox_moves(node: Any) -> None:
    a, b = node.places["a"], node.places["b"]
    with PodTable(node.paths) as table:
        table.enrol(a.namespace.cookie(), PodEntry(a.addresses, EXCLUSIONS), a.namespace, "pod")
        table.enrol(b.namespace.cookie(), PodEntry(a.addresses), b.namespace, "pod")
        enrolled = table.enrolled()
        assert list(enrolled) == ["pod"]
        assert enrolled["pod"].cookie == b.namespace.cookie()
        # The address went over to the new namespace before the old one was removed.
        assert set(enrolled["pod"].entry.addresses) == set(a.addresses)
        assert entries(node, "excluded_ports") == 0
        table.unenrol("pod")


def test_a_namespace_that_is_gone_is_seen_and_removed(node: Any) -> None:
    name = f"{node.name}-gone"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        with NetworkNamespace.open(f"/run/netns/{name}") as namespace, PodTable(node.paths) as table:
            table.enrol(namespace.cookie(), PodEntry((parse_ip("10.244.1.9"),)), namespace, "gone")
            assert table.enrolled()["gone"].alive
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)
    with PodTable(node.paths) as table:
        deadline = time.monotonic() + 10
        while table.enrolled()["gone"].alive and time.monotonic() < deadline:
            time.sleep(0.05)  # the kernel takes namespaces down in the background
        assert not table.enrolled()["gone"].alive
        table.unenrol("gone")
        assert table.enrolled() == {}


def test_a_full_map_is_said_and_leaves_no_half_enrolled_pod(node: Any) -> None:
    a = node.places["a"]
    many = Exclusions(outbound_ports=frozenset(range(1, 200)))
    with PodTable(node.paths) as table:
        with pytest.raises(ConfigurationError, match=r"excluded_ports.*full"):
            table.enrol(a.namespace.cookie(), PodEntry(a.addresses, many), a.namespace, "a")
        assert table.enrolled() == {}
    assert entries(node, "excluded_ports") == 0


def test_a_captured_pod_stays_captured_when_its_update_fails(node: Any) -> None:
    a = node.places["a"]
    many = Exclusions(outbound_ports=frozenset(range(1, 200)))
    with PodTable(node.paths) as table:
        table.enrol(a.namespace.cookie(), PodEntry(a.addresses), a.namespace, "a")
        with pytest.raises(ConfigurationError, match=r"excluded_ports.*full"):
            table.enrol(a.namespace.cookie(), PodEntry(a.addresses, many), a.namespace, "a")
        assert table.enrolled()["a"].alive
        assert entries(node, "pods") == 1
        table.unenrol("a")
    assert entries(node, "excluded_ports") == 0


def test_a_detached_link_is_made_again(node: Any) -> None:
    a = node.places["a"]
    with PodTable(node.paths) as table:
        table.enrol(a.namespace.cookie(), PodEntry(a.addresses), a.namespace, "a")
        with closing(syscall.require_pin(node.paths.pod_link(a.namespace.cookie(), "a"))) as link:
            syscall.detach_link(link)
        assert not table.enrolled()["a"].alive
        table.enrol(a.namespace.cookie(), PodEntry(a.addresses), a.namespace, "a")
        assert table.enrolled()["a"].alive
        table.unenrol("a")


def test_what_cannot_be_enrolled(node: Any) -> None:
    a, b = node.places["a"], node.places["b"]
    with PodTable(node.paths) as table:
        with pytest.raises(ConfigurationError, match="replaced"):
            table.enrol(b.namespace.cookie(), PodEntry(a.addresses), a.namespace, "a")
        with pytest.raises(InvalidAddress, match="no address"):
            table.enrol(a.namespace.cookie(), PodEntry(()), a.namespace, "a")
        bad = Exclusions(inbound_ports=frozenset({70000}))
        with pytest.raises(InvalidAddress, match="70000"):
            table.enrol(a.namespace.cookie(), PodEntry(a.addresses, bad), a.namespace, "a")
        assert table.enrolled() == {}


def test_a_table_of_a_node_that_is_not_loaded(node: Any) -> None:
    with pytest.raises(EnvironmentLacks, match="loaded"):
        PodTable(PinPaths(node.bpffs, "unknown"))
