from __future__ import annotations

import pytest

from benchmarks.__main__ import planned
from benchmarks.cases import (
    AMBIMESH,
    CASES,
    ENVOY,
    FULL,
    HELD,
    IDLE,
    NO_MESH,
    QUICK,
    SUBJECTS,
    Bound,
    Metric,
    Placement,
    choose,
    choose_subjects,
)
from mesh.errors import ConfigurationError


def test_every_case_has_a_name_of_its_own() -> None:
    names = [case.name for case in CASES]
    assert len(names) == len(set(names)) == 17
    assert IDLE not in names


def test_both_placements_are_measured_alike_and_connects_are_held_across_nodes() -> None:
    cross, same = _names("cross-"), _names("same-")
    assert [name for name in cross if name not in same] == ["connect-held"]
    assert [name for name in cross if name in same] == same


def _names(prefix: str) -> list[str]:
    return [case.name.removeprefix(prefix) for case in CASES if case.name.startswith(prefix)]


def test_no_mesh_is_the_first_subject_and_has_no_proxies() -> None:
    assert SUBJECTS == (NO_MESH, AMBIMESH, ENVOY)
    assert [subject.enrolled for subject in SUBJECTS] == [False, True, False]
    assert [subject.proxy for subject in SUBJECTS] == ["", "ztunnel", "envoy"]


RATE, LATENCY = Bound(0.42, 0.6), Bound(2.8, 1.8, Metric.MEDIAN_LATENCY)


@pytest.mark.parametrize(
    ("bound", "ratio", "reached", "aim_reached"),
    [
        (RATE, 0.6, True, True),
        (RATE, 0.42, True, False),
        (RATE, 0.419, False, False),
        (LATENCY, 1.8, True, True),
        (LATENCY, 2.8, True, False),
        (LATENCY, 2.81, False, False),
    ],
)
def test_a_rate_must_be_high_and_a_latency_low(bound: Bound, ratio: float, reached: bool, aim_reached: bool) -> None:
    assert (bound.reached(ratio), bound.aim_reached(ratio)) == (reached, aim_reached)


def test_marks_say_their_direction() -> None:
    assert (RATE.text(RATE.ratio), LATENCY.text(LATENCY.aim)) == (">= 0.42", "<= 1.80")


def test_every_required_ratio_belongs_to_a_case_of_its_metric() -> None:
    bounded = {case.name: case.bound for case in CASES if case.bound is not None}
    assert len(bounded) == 13
    assert all(case.bound is None or case.bound.metric is case.metric for case in CASES)
    assert all(bound.reached(bound.aim) for bound in bounded.values()), "an aim lies beyond what is required"


def test_envoy_is_measured_across_nodes_only() -> None:
    for case in CASES:
        assert FULL.subjects_of(case) == (SUBJECTS if case.placement is Placement.CROSS else (NO_MESH, AMBIMESH))


def test_a_quick_plan_has_no_held_case() -> None:
    assert not any(case.held for case in QUICK.cases)
    assert QUICK.loads * QUICK.seconds < 120 < FULL.loads * FULL.seconds


def test_the_number_of_loads_counts_held_cases_once() -> None:
    assert FULL.loads == (8 * 3 + 8 * 2) * FULL.repetitions + 3


def test_cases_are_chosen_by_name() -> None:
    cases, idle = choose(["same-bulk", "idle"])
    assert [case.name for case in cases] == ["same-bulk"]
    assert idle


def test_an_unknown_case_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigurationError, match=r"no case 32x100; cases: .*cross-32x100"):
        planned(quick=True, only=["32x100"], subjects=[])


def test_subjects_are_chosen_by_key_in_their_usual_order() -> None:
    assert choose_subjects(["ambimesh", "no-mesh"]) == (NO_MESH, AMBIMESH)
    plan = planned(quick=True, only=[], subjects=["no-mesh", "ambimesh"])
    assert plan.subjects_of(HELD) == (NO_MESH, AMBIMESH)
    assert plan.loads < QUICK.loads


@pytest.mark.parametrize("keys", [["no mesh"], []])
def test_an_unknown_subject_is_refused_with_those_there_are(keys: list[str]) -> None:
    with pytest.raises(ConfigurationError, match=r"no subject .*; subjects: no-mesh, ambimesh, envoy"):
        choose_subjects(keys)


def test_a_held_case_asked_for_by_name_is_held_in_a_quick_run_too() -> None:
    plan = planned(quick=True, only=["cross-connect-held"], subjects=[])
    assert plan.held_seconds > plan.slice_seconds > 0
    assert plan.idle_connections == 0
