from __future__ import annotations

import pytest

from benchmarks.__main__ import planned
from benchmarks.cases import CASES, FULL, IDLE, NO_MESH, QUICK, SUBJECTS, Bound, Metric, choose
from mesh.errors import ConfigurationError


def test_every_case_has_a_name_of_its_own() -> None:
    names = [case.name for case in CASES]
    assert len(names) == len(set(names)) == 18
    assert IDLE not in names


def test_both_placements_are_measured_alike() -> None:
    assert [name.removeprefix("cross-") for name in _names("cross-")] == [
        name.removeprefix("same-") for name in _names("same-")
    ]


def _names(prefix: str) -> list[str]:
    return [case.name for case in CASES if case.name.startswith(prefix)]


def test_no_mesh_is_the_first_subject_and_carries_nothing() -> None:
    assert SUBJECTS[0] is NO_MESH
    assert [subject.enrolled for subject in SUBJECTS] == [False, True]


@pytest.mark.parametrize(
    ("bound", "ratio", "reached"),
    [
        (Bound(0.42), 0.42, True),
        (Bound(0.42), 0.419, False),
        (Bound(2.8, Metric.MEDIAN_LATENCY), 2.8, True),
        (Bound(2.8, Metric.MEDIAN_LATENCY), 2.81, False),
    ],
)
def test_a_rate_must_be_high_and_a_latency_low(bound: Bound, ratio: float, reached: bool) -> None:
    assert bound.reached(ratio) is reached


def test_every_required_ratio_belongs_to_a_case_of_its_metric() -> None:
    bounded = [case for case in CASES if case.bound is not None]
    assert len(bounded) == 6
    assert all(case.bound is not None and case.bound.metric is case.metric for case in bounded)


def test_a_quick_plan_has_no_held_case() -> None:
    assert not any(case.held for case in QUICK.cases)
    assert QUICK.loads * QUICK.seconds < 120 < FULL.loads * FULL.seconds


def test_the_number_of_loads_counts_held_cases_once() -> None:
    assert FULL.loads == 2 * (16 * FULL.repetitions + 2)


def test_cases_are_chosen_by_name() -> None:
    cases, idle = choose(["same-bulk", "idle"])
    assert [case.name for case in cases] == ["same-bulk"]
    assert idle


def test_an_unknown_case_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigurationError, match=r"no case 32x100; cases: .*cross-32x100"):
        planned(quick=True, only=["32x100"])


def test_a_held_case_asked_for_by_name_is_held_in_a_quick_run_too() -> None:
    plan = planned(quick=True, only=["cross-connect-held"])
    assert plan.held_seconds > plan.slice_seconds > 0
    assert plan.idle_connections == 0
