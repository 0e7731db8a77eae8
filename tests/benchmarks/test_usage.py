from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from benchmarks import usage

TICKS = os.sysconf("SC_CLK_TCK")


def test_a_process_name_may_hold_anything() -> None:
    stat = f"42 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 {3 * TICKS} {2 * TICKS} 0 0 20 0 1 0 100 0 0"
    assert usage.process_seconds(stat) == 5.0


def test_own_cpu_time_is_read() -> None:
    before = usage.process_seconds(Path("/proc/self/stat").read_text())
    end = time.process_time() + 0.1
    while time.process_time() < end:
        pass
    assert usage.process_seconds(Path("/proc/self/stat").read_text()) - before >= 0.05


def test_own_memory_is_read() -> None:
    found = usage.process_memory(Path("/proc/self/status").read_text())
    assert 1 << 20 < found.resident <= found.peak


def test_a_zombie_has_no_memory() -> None:
    assert usage.process_memory("Name:\tpython\nState:\tZ (zombie)\n") == usage.Memory(0, 0)


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
