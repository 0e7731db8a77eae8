"""The machine checks, on texts, and on this machine where it has what it needs."""

from __future__ import annotations

from pathlib import Path

import pytest

from ebpf.features import check_features, find_cgroup_mount, missing_capabilities

MOUNTINFO = """\
22 28 0:20 / /sys rw,nosuid - sysfs sysfs rw
30 22 0:26 / /sys/fs/cgroup/memory rw shared:10 - cgroup cgroup rw,memory
31 22 0:27 / /sys/fs/cgroup/uni\\040fied rw shared:11 - cgroup2 cgroup2 rw
"""


def test_the_cgroup_mount_is_found_by_its_type() -> None:
    assert find_cgroup_mount(MOUNTINFO) == Path("/sys/fs/cgroup/uni fied")
    assert find_cgroup_mount(MOUNTINFO.replace("cgroup2", "cgroup")) is None


def test_capabilities_are_read_from_the_effective_set() -> None:
    assert missing_capabilities("Name:\tx\nCapEff:\t000001ffffffffff\n") == []
    assert missing_capabilities("CapPrm:\t000001ffffffffff\nCapEff:\t0000000000001000\n") == ["SYS_ADMIN", "BPF"]
    assert missing_capabilities("") == ["NET_ADMIN", "SYS_ADMIN", "BPF"]


def test_every_check_says_what_it_found_and_what_to_do() -> None:
    checks = check_features()
    assert len({check.name for check in checks}) == len(checks)
    for check in checks:
        assert check.detail
        assert bool(check.remedy) != check.ok


@pytest.mark.root
def test_this_machine_has_everything() -> None:
    assert [check for check in check_features() if not check.ok] == []
