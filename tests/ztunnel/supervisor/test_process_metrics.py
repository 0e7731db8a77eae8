from __future__ import annotations

import os
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest

from ztunnel.supervisor.process_metrics import ProcessesCollector


def test_each_process_by_its_name_and_none_that_has_ended(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "smaps_rollup").write_text("00-ff ---p 0 00:00 0 [rollup]\nRss:    40960 kB\nPss:    10240 kB\n")
    ticks = os.sysconf("SC_CLK_TCK")
    (tmp_path / "7" / "stat").write_text(f"7 (a) b) S {' '.join(['0'] * 10)} {2 * ticks} {ticks} 0\n")
    registry = CollectorRegistry()
    registry.register(ProcessesCollector(lambda: {"ztunnel-work-0": 7, "ztunnel-work-1": 8}, tmp_path))
    page = generate_latest(registry).decode()
    assert 'ztunnel_process_resident_memory_bytes{process="ztunnel-work-0"} 4.194304e+07' in page
    assert 'ztunnel_process_proportional_memory_bytes{process="ztunnel-work-0"} 1.048576e+07' in page
    assert 'ztunnel_process_cpu_seconds_total{process="ztunnel-work-0"} 3.0' in page
    assert "ztunnel-work-1" not in page


def test_the_kernel_has_what_is_read() -> None:
    registry = CollectorRegistry()
    registry.register(ProcessesCollector(lambda: {"me": os.getpid()}))
    value = registry.get_sample_value("ztunnel_process_resident_memory_bytes", {"process": "me"})
    assert value is not None
    assert value > 1 << 20
