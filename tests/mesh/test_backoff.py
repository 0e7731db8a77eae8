from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.backoff import Backoff


@settings(deadline=None)
@given(st.integers(1, 100_000), st.floats(0, 1, exclude_max=True))
def test_wait_stays_between_half_the_bound_and_the_maximum(failures: int, unit: float) -> None:
    backoff = Backoff(0.01, 15.0)
    assert 0.005 <= backoff.delay(failures, unit) <= 15.0


def test_bounds_double_until_the_maximum() -> None:
    backoff = Backoff(1.0, 5.0)
    assert [backoff.delay(failures, 0.0) * 2 for failures in (1, 2, 3, 4, 5)] == [1.0, 2.0, 4.0, 5.0, 5.0]


@settings(deadline=None)
@given(st.integers(1, 20))
def test_jitter_spreads_the_waits_of_clients_that_failed_together(failures: int) -> None:
    backoff = Backoff(0.01, 15.0)
    assert len({backoff.delay(failures, step / 10) for step in range(10)}) == 10
