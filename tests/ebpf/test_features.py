"""The machine checks, on texts, and on this machine where it has what it needs."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from ebpf.features import cgroup_folder, check_features, find_cgroup_mount, missing_capabilities
from mesh.errors import EnvironmentLacks

MOUNTINFO = """\
22 28 0:20 / /sys rw,nosuid - sysfs sysfs rw
30 22 0:26 / /sys/fs/cgroup/memory rw shared:10 - cgroup cgroup rw,memory
31 22 0:27 / /sys/fs/cgroup/uni\\040fied rw shared:11 - cgroup2 cgroup2 rw
"""


def test_the_cgroup_mount_is_found_by_its_type() -> None:
    assert find_cgroup_mount(MOUNTINFO) == Path("/sys/fs/cgroup/uni fied")
    assert find_cgroup_mount(MOUNTINFO.replace("cgroup2", "cgroup")) is None


UNIFIED = "22 1 0:20 / / rw - overlay overlay rw\n31 22 0:26 / /host/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n"
HYBRID = """\
22 1 0:20 / / rw - overlay overlay rw
31 22 0:28 / /host/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /host/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
40 31 0:37 / /host/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /host/cgroup/unified rw - cgroup2 cgroup2 rw
50 22 0:38 / /elsewhere/cgroup2 rw - cgroup2 cgroup2 rw
"""


@pytest.mark.parametrize(
    ("mounts", "told", "meant"),
    [
        (UNIFIED, "/host/cgroup", "/host/cgroup"),
        (UNIFIED, "/host/cgroup/kubepods.slice", "/host/cgroup/kubepods.slice"),
        (HYBRID, "/host/cgroup", "/host/cgroup/unified"),
        (HYBRID, "/host/cgroup/unified", "/host/cgroup/unified"),
        (HYBRID, "/host/cgroup/unified/lab", "/host/cgroup/unified/lab"),
        (HYBRID, "/elsewhere", "/elsewhere/cgroup2"),
    ],
)
def test_a_cgroup_folder_is_version_2_or_holds_its_mount(mounts: str, told: str, meant: str) -> None:
    assert cgroup_folder(Path(told), mounts) == Path(meant)


@pytest.mark.parametrize("told", ["/host/cgroup/systemd", "/nowhere", "/host/cgroup/cpu,cpuacct/kubepods"])
def test_a_folder_without_version_2_is_refused_with_a_remedy(told: str) -> None:
    with pytest.raises(EnvironmentLacks, match=rf"{told} or below it; remedy: .*agent\.cgroup"):
        cgroup_folder(Path(told), HYBRID)


@pytest.mark.root
def test_mounted_into_a_container_as_the_nodes_whole_folder_it_is_found(tmp_path: Path) -> None:
    """As the chart's DaemonSet mounts it: the folder that has, or is, all of the node's hierarchies."""
    script = (
        "mount --rbind /sys/fs/cgroup $0 && cat /proc/self/mountinfo && echo && "
        "find $0 -maxdepth 2 -name cgroup.subtree_control"
    )
    enter = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, str(tmp_path)]
    mounts, _, files = subprocess.run(enter, check=True, capture_output=True, text=True).stdout.partition("\n\n")
    # A file that only version 2 has, and all of whose folders have.
    tops = {Path(file).parent for file in files.split()}
    assert cgroup_folder(tmp_path, mounts) == min(tops, key=lambda folder: len(folder.parts))


def test_what_is_mounted_over_another_counts() -> None:
    covered = HYBRID + "60 31 0:40 / /host/cgroup rw - cgroup2 cgroup2 rw\n"
    assert cgroup_folder(Path("/host/cgroup"), covered) == Path("/host/cgroup")


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
