from __future__ import annotations

from collections.abc import Iterable, Mapping

import pytest
import trio
from prometheus_client import CollectorRegistry, generate_latest
from structlog.testing import capture_logs

from cni.agent import program_metrics
from cni.agent.program_metrics import ProgramMetrics, watch_maps
from ebpf.counters import MapUsage
from ebpf.reasons import Reason
from mesh.errors import EnvironmentLacks


class Counted:
    def __init__(self) -> None:
        self.values: dict[Reason, int] = {}
        self.broken = False

    def read(self) -> Mapping[Reason, int]:
        if self.broken:
            raise EnvironmentLacks("gone")
        return self.values


def page(metrics: ProgramMetrics) -> list[str]:
    registry = CollectorRegistry()
    registry.register(metrics)
    return generate_latest(registry).decode().splitlines()


def test_counters_are_read_at_each_scrape() -> None:
    counted = Counted()
    metrics = ProgramMetrics(counted)
    for value in (3, 4):
        counted.values = {Reason.OUTBOUND_CAPTURED: value, Reason.INBOUND_REFUSED_NO_LISTENER: 0}
        lines = page(metrics)
        assert f'ambimesh_ebpf_events_total{{reason="outbound_captured"}} {value}.0' in lines
        assert 'ambimesh_ebpf_events_total{reason="inbound_refused_no_listener"} 0.0' in lines


def test_the_last_look_at_the_maps_is_shown() -> None:
    metrics = ProgramMetrics(Counted())
    metrics.found([MapUsage("pods", 5, 1024)])
    metrics.found([MapUsage("pods", 7, 1024), MapUsage("tickets", 0, 16384)])
    lines = page(metrics)
    assert 'ambimesh_ebpf_map_entries{map="pods"} 7.0' in lines
    assert 'ambimesh_ebpf_map_capacity{map="pods"} 1024.0' in lines
    assert 'ambimesh_ebpf_map_capacity{map="tickets"} 16384.0' in lines


def test_counters_that_cannot_be_read_do_not_take_the_page_away() -> None:
    counted = Counted()
    counted.broken = True
    metrics = ProgramMetrics(counted)
    metrics.found([MapUsage("pods", 5, 1024)])
    with capture_logs() as logs:
        lines = page(metrics)
    assert 'ambimesh_ebpf_map_entries{map="pods"} 5.0' in lines
    assert [(entry["log_level"], entry["reason"]) for entry in logs] == [("error", "gone")]


def test_a_map_nearly_full_is_warned_of_once_until_it_has_had_room() -> None:
    metrics = ProgramMetrics(Counted())

    def told(entries: int) -> list[tuple[str, str, int]]:
        with capture_logs() as logs:
            metrics.found([MapUsage("pods", entries, 100), MapUsage("tickets", 0, 100)])
        return [(entry["log_level"], entry["map"], entry["entries"]) for entry in logs]

    assert told(89) == []
    assert told(90) == [("warning", "pods", 90)]
    assert told(100) == []
    assert told(89) == told(90) == told(75) == told(95) == []
    assert told(74) == [("info", "pods", 74)]
    assert told(50) == []
    assert told(91) == [("warning", "pods", 91)]


async def test_maps_are_looked_at_again_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program_metrics, "INTERVAL", 0.001)
    looks = iter(range(3))
    found: list[MapUsage] = []

    def look() -> list[MapUsage]:
        number = next(looks)
        if number == 1:
            raise EnvironmentLacks("gone")
        return [MapUsage("pods", number, 9)]

    def take(usages: Iterable[MapUsage]) -> None:
        found.extend(usages)
        if len(found) == 2:
            scope.cancel()

    with capture_logs() as logs, trio.fail_after(10), trio.CancelScope() as scope:
        await watch_maps(look, take)
    assert [usage.entries for usage in found] == [0, 2]
    assert [entry["event"] for entry in logs] == ["maps cannot be read"]
