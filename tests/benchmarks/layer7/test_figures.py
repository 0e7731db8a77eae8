"""From samples to rows and tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.__main__ import planned_both
from benchmarks.layer7 import report
from benchmarks.layer7.cases import CASES, ENVOY, MESH, NAMES, QUICK, WAYPOINT, Plan, chosen
from benchmarks.layer7.measure import Layer7, Sample, command, rotated_subjects, row
from benchmarks.layer7.proxies import cpu_seconds
from benchmarks.loads import Reading
from benchmarks.machine import Machine
from mesh.errors import ConfigurationError

SMALL, MESHED = CASES[0], CASES[-1]


def sample(subject: str, rate: float, p99: float, repetition: int = 0) -> Sample:
    reading = Reading(rate=rate, work=rate, p50_us=p99 / 2, p99_us=p99)
    return Sample(subject=subject, repetition=repetition, reading=reading, cpu_seconds=rate / 10_000)


def test_rates_and_tails_are_judged_by_ratios_within_a_repetition() -> None:
    samples = [sample(WAYPOINT.name, 1500, 90), sample(ENVOY.name, 1000, 100)]
    samples += [sample(WAYPOINT.name, 3000, 210, 1), sample(ENVOY.name, 2400, 200, 1)]
    found = row(SMALL, samples, [])
    assert [one.subject for one in found.figures] == [WAYPOINT.name, ENVOY.name]
    ratio, tail = found.figures[1].ratio, found.figures[1].p99_ratio
    assert ratio is not None
    assert tail is not None
    assert (ratio.lowest, ratio.median, ratio.highest) == (1.25, 1.375, 1.5)
    assert tail.median == pytest.approx(0.975)
    assert found.required == ("rate >= 1.2 x envoy", "p99 <= 1 x envoy")
    assert found.reached == (True, True)
    assert found.figures[0].cpu == pytest.approx(10)


def test_what_was_not_measured_is_not_judged() -> None:
    assert row(SMALL, [], ["waypoint: it broke"]).reached == ()
    assert row(SMALL, [sample(WAYPOINT.name, 1, 1)], []).reached == ()
    assert row(MESHED, [sample(MESH.name, 7999, 1)], []).reached == (False,)
    assert row(MESHED, [sample(MESH.name, 8000, 1)], []).reached == (True,)


@pytest.fixture
def found() -> Layer7:
    samples = {SMALL.name: [sample(WAYPOINT.name, 1500, 90), sample(ENVOY.name, 1000, 100)]}
    rows = tuple(row(case, samples.get(case.name, []), [f"{case.name} broke"]) for case in (SMALL, MESHED))
    return Layer7(repetitions=1, seconds=3, rows=rows, samples=samples)


def test_what_is_written(found: Layer7, machine: Machine, tmp_path: Path) -> None:
    report.write(found, machine, tmp_path)
    text = (tmp_path / "results-layer7.md").read_text()
    assert "| HTTP/1.1, 32 connections, 100 B | waypoint | 1,500 |" in text
    assert "|  | envoy | 1,000 | 50.0 | 100 | 10.0 | 1.50 | 0.900 |" in text
    assert "http-mesh broke" in text
    written = json.loads((tmp_path / "results-layer7.json").read_bytes())
    assert written["layer7"]["samples"]["http-small"][0]["reading"]["rate"] == 1500
    assert (tmp_path / "results-layer7.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_without_figures_can_be_drawn(machine: Machine) -> None:
    assert report.picture(Layer7(repetitions=1, seconds=1, rows=(), samples={}), machine).axes == []


def test_cases_are_chosen_by_name_from_both_layers() -> None:
    assert len(NAMES) == len(set(NAMES))
    four, seven = planned_both(quick=False, only=[], subjects=[])
    assert four is not None
    assert seven == Plan()
    four, seven = planned_both(quick=True, only=["grpc"], subjects=[])
    assert four is None
    assert seven is not None
    assert (seven.cases, seven.seconds) == (chosen(["grpc"]), QUICK.seconds)
    four, seven = planned_both(quick=False, only=["cross-bulk"], subjects=[])
    assert four is not None
    assert seven is None
    assert planned_both(quick=False, only=[], subjects=["envoy"])[1] is None
    with pytest.raises(ConfigurationError):
        planned_both(quick=False, only=["grpc"], subjects=["envoy"])
    with pytest.raises(ConfigurationError):
        planned_both(quick=False, only=["grpcs"], subjects=[])


def test_a_plan_knows_its_proxies_and_loads() -> None:
    assert Plan(cases=(MESHED,)).proxies == ()
    assert Plan(cases=(SMALL, MESHED), repetitions=2).proxies == (WAYPOINT, ENVOY)
    assert Plan(cases=(SMALL, MESHED), repetitions=2).loads == 6


def test_commands() -> None:
    get = command(Path("/b/http"), SMALL, "127.0.0.1", 80, 1.5)
    assert get == ["/b/http", "get", "127.0.0.1", "80", "32", "1.5", "/api/items"]
    grpc = command(Path("/b/http"), chosen(["grpc"])[0], "127.0.0.1", 80, 1)
    assert grpc == ["/b/http", "grpc", "127.0.0.1", "80", "4", "1", "8"]


def test_everybody_is_first_in_turn() -> None:
    assert rotated_subjects([WAYPOINT, ENVOY], 0) == [WAYPOINT, ENVOY]
    assert rotated_subjects([WAYPOINT, ENVOY], 1) == [ENVOY, WAYPOINT]
    assert rotated_subjects([], 1) == []


def test_cpu_time_of_a_process_with_a_strange_name() -> None:
    stat = "12 (a b) c) S " + " ".join(str(number) for number in range(4, 53))
    assert cpu_seconds(stat) == pytest.approx((14 + 15) / 100)
