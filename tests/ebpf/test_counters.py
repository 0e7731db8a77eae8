"""Reading per-CPU counters and the use of maps."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from ebpf.counters import Counters, MapUsage, map_usage, possible_cpus
from ebpf.layout import ExcludedPort
from ebpf.maps import PinnedMap
from ebpf.reasons import Reason


@pytest.mark.parametrize(("text", "count"), [("0\n", 1), ("0-3\n", 4), ("0,2-7\n", 8), ("0-1,4\n", 5)])
def test_possible_cpus(text: str, count: int) -> None:
    assert possible_cpus(text) == count


def test_nearly_full_means_nine_tenths() -> None:
    assert not MapUsage("pods", 89, 100).nearly_full
    assert MapUsage("pods", 90, 100).nearly_full


@pytest.mark.root
def test_counters_and_usage_of_a_loaded_node(node: Any) -> None:
    with Counters(node.paths) as counters:
        assert set(counters.read()) == set(Reason)
    with PinnedMap(node.paths, "excluded_ports", ExcludedPort, ctypes.c_uint32) as ports:
        for port in range(1, 121):
            ports.set(ExcludedPort(1, port, 1, 0), ctypes.c_uint32(1))
        usage = {usage.name: usage for usage in map_usage(node.paths)}
        assert usage["excluded_ports"] == MapUsage("excluded_ports", 120, 128)
        assert usage["excluded_ports"].nearly_full
        assert usage["pods"] == MapUsage("pods", 0, 64)
        assert set(usage) == {
            "pods",
            "pod_addresses",
            "excluded_ports",
            "excluded_nets",
            "caller_roles",
            "handoffs",
            "tickets",
            "listeners",
            "fast_verdicts",
            "fast_services",
            "fast_connections",
            "fast_closed",
            "fast_flows",
            "fast_sockets",
        }
        for key in list(ports):
            ports.remove(key)
        assert ports.count() == 0
