"""Shares, weights, faults, retries: decided with random numbers that the test chooses."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import ConfigurationError
from mesh.model.http_route import Fault, Fraction, Retry
from waypoint.routing.chance import NO_FAULT, CompiledFault, Weighted, share_of
from waypoint.routing.retry import Failure, RetryPlan


@given(st.lists(st.integers(0, 5), min_size=1, max_size=6))
def test_every_weight_has_its_share(weights: list[int]) -> None:
    """Chances on an even grid hit each item as often as its weight says."""
    drawn = Weighted(range(len(weights)), weights)
    total = sum(weights)
    if not total:
        assert drawn.pick(lambda: 0.5) is None
        return
    hits = [drawn.pick(lambda step=step: (step + 0.5) / total) for step in range(total)]  # type: ignore[misc]
    assert [hits.count(item) for item in range(len(weights))] == weights


def test_a_single_backend_needs_no_chance() -> None:
    def never() -> float:
        raise AssertionError

    assert Weighted(["a", "b"], [0, 7]).pick(never) == "b"
    assert Weighted(["a", "b"], [1, 1]).pick(lambda: 1 - 2**-53) == "b"


def test_bad_weights_and_shares_are_refused() -> None:
    with pytest.raises(ConfigurationError):
        Weighted(["a"], [-1])
    for numerator, denominator in [(-1, 100), (101, 100), (1, 0)]:
        with pytest.raises(ConfigurationError):
            share_of(Fraction(numerator, denominator))
    assert share_of(Fraction(1, 10_000)) == 0.0001


def test_faults_by_share() -> None:
    fault = CompiledFault(Fault(delay_seconds=2, delay_share=Fraction(50), abort_status=418, abort_share=Fraction(25)))
    chances = iter([0.49, 0.24, 0.5, 0.24, 0.49, 0.25, 0.5, 0.25])
    plans = [fault.decide(lambda: next(chances)) for _ in range(4)]
    assert plans == [(2, 418, -1), (0, 418, -1), (2, 0, -1), NO_FAULT]


def test_a_fault_of_no_share_never_happens() -> None:
    fault = CompiledFault(Fault(abort_status=500, abort_share=Fraction(0), delay_seconds=None))
    assert fault.decide(lambda: 0.0) == NO_FAULT
    assert CompiledFault(Fault(abort_grpc_status=14)).decide(lambda: 0.99) == (0, 200, 14)


@pytest.mark.parametrize("fault", [Fault(abort_status=99), Fault(abort_status=600), Fault(delay_seconds=-1.0)])
def test_bad_faults_are_refused(fault: Fault) -> None:
    with pytest.raises(ConfigurationError):
        CompiledFault(fault)


@pytest.mark.parametrize(
    ("condition", "statuses", "failures"),
    [
        ("5xx", {500, 502, 503, 504, 599}, set(Failure)),
        ("gateway-error", {502, 503, 504}, set(Failure)),
        ("connect-failure", set(), {Failure.CONNECT}),
        ("reset", set(), set(Failure) - {Failure.CONNECT}),
        ("reset-before-request", set(), {Failure.RESET_BEFORE_REQUEST}),
        ("refused-stream", set(), {Failure.REFUSED_STREAM}),
        ("retriable-4xx", {409}, set()),
        ("429", {429}, set()),
    ],
)
def test_conditions(condition: str, statuses: set[int], failures: set[Failure]) -> None:
    plan = RetryPlan(Retry(attempts=1, conditions=(condition,)))
    looked_at = {200, 404, 409, 429, 500, 502, 503, 504, 599}
    assert {status for status in looked_at if plan.after_status(status)} == statuses
    assert {failure for failure in Failure if plan.after_failure(failure)} == failures


def test_grpc_conditions_look_at_the_grpc_status() -> None:
    plan = RetryPlan(Retry(attempts=2, statuses=(503,), conditions=("unavailable", "cancelled")))
    assert [code for code in range(17) if plan.after_status(200, code)] == [1, 14]
    assert plan.after_status(503)
    assert not plan.after_status(200)


def test_the_backoff_doubles_and_stops_at_ten_times() -> None:
    plan = RetryPlan(Retry(attempts=9, backoff_seconds=0.025))
    bounds = [plan.backoff(retry, 1.0) for retry in range(1, 80)]
    assert bounds[:5] == [0.025, 0.05, 0.1, 0.2, 0.25]
    assert all(later >= earlier for earlier, later in pairwise(bounds))
    assert max(bounds) == 0.25
    assert 0 <= plan.backoff(3, random.Random(1).random()) < 0.1


@pytest.mark.parametrize(
    "retry", [Retry(attempts=1, conditions=("5XX",)), Retry(attempts=-1), Retry(attempts=1, backoff_seconds=-1.0)]
)
def test_bad_retries_are_refused(retry: Retry) -> None:
    with pytest.raises(ConfigurationError):
        RetryPlan(retry)
