from __future__ import annotations

import os
from pathlib import Path

import pytest

from ebpf.layout import MAX_WORKERS
from ztunnel.cores import available_cores, number_of_workers


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))


@pytest.mark.parametrize(
    ("inner", "outer", "cores"),
    [
        ("max 100000", "max 100000", 8),
        ("200000 100000", "max 100000", 2),
        ("max 100000", "150000 100000", 2),
        ("20000 100000", "300000 100000", 1),
        ("nonsense", "300000 100000", 3),
    ],
)
def test_the_narrowest_quota_counts(many: None, tmp_path: Path, inner: str, outer: str, cores: int) -> None:
    group = tmp_path / "kubepods" / "pod"
    group.mkdir(parents=True)
    (group / "cpu.max").write_text(inner + "\n")
    (group.parent / "cpu.max").write_text(outer + "\n")
    named = tmp_path / "cgroup"
    named.write_text("0::/kubepods/pod\n")
    assert available_cores(named, tmp_path) == cores


def test_without_control_groups_the_affinity_counts(many: None, tmp_path: Path) -> None:
    assert available_cores(tmp_path / "absent", tmp_path) == 8
    named = tmp_path / "cgroup"
    named.write_text("0::/../elsewhere\n")
    assert available_cores(named, tmp_path) == 8


def test_what_the_setting_means(monkeypatch: pytest.MonkeyPatch) -> None:
    assert number_of_workers(3) == 3
    assert 1 <= number_of_workers("auto") <= MAX_WORKERS
    monkeypatch.setattr("ztunnel.cores.available_cores", lambda: 64)
    assert number_of_workers("auto") == MAX_WORKERS
