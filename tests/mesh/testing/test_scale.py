"""Sizes follow the scale of the run."""

from __future__ import annotations

import resource

import pytest

from mesh.testing import scale


@pytest.mark.parametrize(
    ("factor", "most", "expected"), [(1, None, 2000), (10, None, 20_000), (10, 5000, 5000), (0.5, 5000, 1000)]
)
def test_a_size_is_scaled_up_to_what_is_possible(
    monkeypatch: pytest.MonkeyPatch, factor: float, most: int | None, expected: int
) -> None:
    monkeypatch.setattr(scale, "SCALE", factor)
    assert scale.scaled(2000, most) == expected


def test_many_descriptors_are_admitted() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        scale.admit_many_descriptors()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
