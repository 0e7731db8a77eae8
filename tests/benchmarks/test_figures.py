from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.cases import AMBIMESH, CASES, ENVOY, HELD, NO_MESH, Bound, Case, Metric
from benchmarks.figures import HeldFigures, Row, Sample, Spread, row
from benchmarks.loads import Reading, Slice

BY_NAME = {case.name: case for case in CASES}
BULK, TRIPS, QUIET = (
    dataclasses.replace(BY_NAME[name], bound=bound)
    for name, bound in (
        ("cross-bulk", Bound(0.42, 0.5)),
        ("cross-32x100", Bound(0.3, 0.4)),
        ("cross-1x100", Bound(2.8, 1.9, Metric.MEDIAN_LATENCY)),
    )
)


def sample(subject: str, repetition: int, rate: float, *, p50: float = 10.0, cpu: float = 0.0) -> Sample:
    reading = Reading(rate=rate, work=rate, p50_us=p50, p99_us=2 * p50)
    return Sample(
        subject=subject,
        repetition=repetition,
        reading=reading,
        proxy_cpu_seconds=cpu,
        lab_cpu_seconds=3 * cpu,
        others_cores=0.1,
    )


def marks(found: Row) -> tuple[object, ...]:
    return (found.required_text, found.reached, found.aim_text, found.aim_reached)


def pairs(*rates: tuple[float, float]) -> list[Sample]:
    found = []
    for repetition, (plain, mesh) in enumerate(rates):
        found += [sample(NO_MESH.name, repetition, plain), sample(AMBIMESH.name, repetition, mesh, cpu=1.0)]
    return found


def test_ratios_are_of_pairs() -> None:
    """A machine that gets twice as slow in the second repetition changes no ratio."""
    found = row(BULK, pairs((10, 5), (5, 2.5), (10, 4)))
    plain, mesh = found.figures
    assert mesh.ratio == Spread(0.5, 0.4, 0.5)
    assert plain.ratio is None
    assert plain.rate == Spread(10, 5, 10)
    assert (found.required, found.aim) == (0.42, 0.5)
    assert marks(found) == (">= 0.42", True, ">= 0.50", True)


def test_a_bound_that_is_missed() -> None:
    assert row(BULK, pairs((10, 4))).reached is False


def test_latency_is_compared_where_it_counts() -> None:
    samples = [sample(NO_MESH.name, 0, 1, p50=70), sample(AMBIMESH.name, 0, 1, p50=140)]
    found = row(QUIET, samples)
    assert found.figures[1].ratio == Spread(2, 2, 2)
    assert found.unit == "us"
    assert marks(found) == ("<= 2.80", True, "<= 1.90", False)


def test_the_mesh_is_compared_to_envoy_in_the_same_repetition() -> None:
    samples = [*pairs((10, 5), (10, 4)), sample(ENVOY.name, 0, 4), sample(ENVOY.name, 1, 5), sample(ENVOY.name, 2, 99)]
    found = row(BULK, samples)
    assert found.to_peer == Spread((0.8 + 1.25) / 2, 0.8, 1.25)
    assert found.ahead is True
    assert found.figures[2].ratio == Spread((0.4 + 0.5) / 2, 0.4, 0.5)


@pytest.mark.parametrize(("p50", "ahead"), [(120, True), (119, False)])
def test_of_latencies_the_lower_one_is_ahead(p50: float, ahead: bool) -> None:
    samples = [sample(AMBIMESH.name, 0, 1, p50=119.5), sample(ENVOY.name, 0, 1, p50=p50)]
    assert row(QUIET, samples).ahead is ahead


def test_without_envoy_nobody_is_ahead() -> None:
    found = row(BULK, pairs((10, 5)))
    assert (found.to_peer, found.ahead) == (None, None)


def held(*rates: float, p50: float, p99: float) -> HeldFigures:
    slices = tuple(Slice(per_second=rate, p50_us=p50, p99_us=p99) for rate in rates)
    reading = Reading(rate=1, work=1, p50_us=p50, p99_us=p99, slices=slices)
    one = Sample(
        subject=AMBIMESH.name, repetition=0, reading=reading, proxy_cpu_seconds=0, lab_cpu_seconds=0, others_cores=0
    )
    (found,) = row(HELD, [one]).held
    return found


def test_a_held_load_that_stays_as_it_was() -> None:
    found = held(5000, 4000, 4500, p50=1000, p99=4000)
    assert (found.decay, found.tail, found.steady, found.tight) == (0.9, 4.0, True, True)


def test_a_held_load_that_decays_and_spreads() -> None:
    found = held(5000, 5000, 4400, p50=1000, p99=4001)
    assert (found.steady, found.tight) == (False, False)


def test_only_a_held_case_has_slices() -> None:
    assert row(BULK, pairs((10, 5))).held == ()


def test_cpu_time_per_gigabyte_and_per_hundred_thousand() -> None:
    assert row(BULK, pairs((10, 4), (10, 4))).figures[1].proxy_cpu == pytest.approx(0.25)
    assert row(TRIPS, pairs((100_000, 50_000))).figures[1].proxy_cpu == pytest.approx(2.0)
    assert row(TRIPS, pairs((100_000, 50_000))).figures[0].proxy_cpu is None
    assert row(TRIPS, pairs((100_000, 50_000))).figures[1].lab_cpu == pytest.approx(6.0)
    assert row(TRIPS, pairs((100_000, 50_000))).figures[0].lab_cpu == 0


def test_a_half_that_failed_makes_no_pair() -> None:
    """The first repetition has no mesh, the second no plain: there is nothing to compare."""
    found = row(BULK, [sample(NO_MESH.name, 0, 10), sample(AMBIMESH.name, 1, 5)], ["ambimesh: it broke"])
    assert found.figures[1].ratio is None
    assert found.reached is None
    assert found.problems == ("ambimesh: it broke",)


def test_nothing_measured() -> None:
    found = row(TRIPS, [])
    assert (found.figures, found.reached) == ((), None)


def test_without_a_bound_nothing_is_reached() -> None:
    found = row(dataclasses.replace(TRIPS, bound=None), pairs((1, 1)))
    assert (found.required, found.aim) == (None, None)
    assert marks(found) == ("", None, "", None)


rates = st.floats(min_value=0.1, max_value=1e6)


@given(st.lists(st.tuples(rates, rates), min_size=1, max_size=9))
def test_a_median_lies_within_its_spread(values: list[tuple[float, float]]) -> None:
    case: Case = dataclasses.replace(TRIPS, metric=Metric.RATE)
    for one in row(case, pairs(*values)).figures:
        for found in (one.rate, one.ratio):
            assert found is None or found.lowest <= found.median <= found.highest


@given(rates, rates, st.floats(min_value=0.1, max_value=10))
def test_a_ratio_knows_no_unit(plain: float, mesh: float, factor: float) -> None:
    first = row(TRIPS, pairs((plain, mesh))).figures[1].ratio
    second = row(TRIPS, pairs((plain * factor, mesh * factor))).figures[1].ratio
    assert first is not None
    assert second is not None
    assert first.median == pytest.approx(second.median)
