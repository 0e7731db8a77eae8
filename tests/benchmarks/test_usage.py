from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks import usage

TICKS = os.sysconf("SC_CLK_TCK")


def cgroup(folder: Path, seconds: float) -> Path:
    folder.mkdir(parents=True)
    (folder / "cpu.stat").write_text(f"usage_usec {seconds * 1e6:.0f}\nuser_usec 1\nsystem_usec 2\n")
    return folder


def test_proxies_are_counted_beside_the_lab_they_are_in(tmp_path: Path) -> None:
    lab = cgroup(tmp_path / "lab", 7.5)
    meter = usage.Meter(lab, [cgroup(lab / "node1" / "proxy", 1.5), cgroup(lab / "node2" / "proxy", 0.25)])
    found = meter.read()
    assert (found.proxies, found.lab) == (1.75, 7.5)
    assert usage.Meter(lab, []).read().proxies == 0


def test_own_memory_is_read() -> None:
    found = usage.process_memory(Path("/proc/self/smaps_rollup").read_text())
    assert 1 << 20 < found.proportional <= found.resident


def test_a_zombie_has_no_memory() -> None:
    assert usage.process_memory("") == usage.Memory(0, 0)


def test_cgroup_time() -> None:
    assert usage.cgroup_seconds("usage_usec 2500000\nuser_usec 1\nsystem_usec 2\n") == 2.5


def test_busy_time_is_neither_idle_nor_waiting() -> None:
    t = TICKS
    assert usage.busy_seconds(f"cpu  {t} {t} {t} {100 * t} {50 * t} {t} {t} {t} 7 7\ncpu0 ...\n") == 6.0


def test_growth_and_others() -> None:
    growth = usage.Usage(12.0, 3.0, 6.0, 19.0).since(usage.Usage(10.0, 1.0, 4.0, 15.0))
    assert growth == usage.Usage(2.0, 2.0, 2.0, 4.0)
    assert growth.others == pytest.approx(1.0)


def test_others_are_never_less_than_nobody() -> None:
    assert usage.Usage(2.0, 1.0, 4.0, 3.9).others == 0.0


def test_a_cgroup_that_is_not_there_has_no_memory(tmp_path: Path) -> None:
    assert usage.memory_of(tmp_path / "absent") == usage.Memory(0, 0)
