"""What a node is made from, on machines of each kind."""

from __future__ import annotations

import json
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.e2e.kit import node_files, segment
from tests.e2e.kit.cgroups import Hierarchy, find_hierarchies, service_folder

UNIFIED = "31 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n"
HYBRID = """
23 1 254:1 / / rw - ext4 /dev/vda1 rw
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,release_agent=/lib/agent,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
55 32 0:29 /somebody /run/somebody/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct
""".lstrip()


def test_hierarchies_are_found_as_they_can_be_mounted_again() -> None:
    assert find_hierarchies(UNIFIED) == [Hierarchy(Path("/sys/fs/cgroup"), "cgroup2", "")]
    assert find_hierarchies(HYBRID) == [
        Hierarchy(Path("/sys/fs/cgroup/cpu,cpuacct"), "cgroup", "cpu,cpuacct"),
        Hierarchy(Path("/sys/fs/cgroup/systemd"), "cgroup", "none,name=systemd"),
        Hierarchy(Path("/sys/fs/cgroup/unified"), "cgroup2", ""),
    ]


def boot_script(mounts: str, tmp_path: Path) -> str:
    groups = [(each, each.mounted / "group") for each in find_hierarchies(mounts)]
    return node_files.boot_script("node1", tmp_path / "with a blank", groups, Path("/pause"))


@pytest.mark.parametrize("mounts", [UNIFIED, HYBRID])
def test_the_boot_script_is_a_shells(mounts: str, tmp_path: Path) -> None:
    script = boot_script(mounts, tmp_path)
    subprocess.run(["sh", "-n"], input=script, text=True, check=True)
    lines = script.splitlines()
    # In the machine's folders before the namespace, in mounts of the node's own after it.
    entered = [lines.index(line) for line in lines if "/group/cgroup.procs" in line]
    namespace = next(number for number, line in enumerate(lines) if "unshare --cgroup" in line)
    mounted = [lines.index(line) for line in lines if line.startswith("mount -t cgroup")]
    assert len(entered) == len(mounted) == len(find_hierarchies(mounts))
    assert max(entered) < namespace < min(mounted)
    assert lines[-1] == "exec /pause"


def test_where_there_is_one_hierarchy_it_is_the_folder_itself(tmp_path: Path) -> None:
    assert "mount -t tmpfs tmpfs /sys/fs/cgroup" not in boot_script(UNIFIED, tmp_path)
    assert "mount -t tmpfs tmpfs /sys/fs/cgroup" in boot_script(HYBRID, tmp_path).splitlines()


def test_a_service_is_where_systemd_would_have_it() -> None:
    script = node_files.service_script(service_folder("kubelet"), find_hierarchies(HYBRID), ["kubelet", "--a b"])
    entered = [line.removeprefix("echo 0 >") for line in script.split(" && ") if line.startswith("echo")]
    assert entered == [
        "/sys/fs/cgroup/cpu,cpuacct/cgroup.procs",
        "/sys/fs/cgroup/systemd/system.slice/kubelet.service/cgroup.procs",
        "/sys/fs/cgroup/unified/system.slice/kubelet.service/cgroup.procs",
    ]
    assert script.endswith("exec kubelet '--a b'")


def test_configurations_are_readable() -> None:
    runtime = tomllib.loads(node_files.containerd_configuration())
    assert runtime["plugins"]["io.containerd.grpc.v1.cri"]["sandbox_image"] == node_files.SANDBOX_IMAGE
    kubelet = json.loads(node_files.kubelet_configuration(2, Path("/ca"), Path("/resolv.conf")))
    assert (kubelet["address"], kubelet["resolvConf"]) == ("10.250.0.12", "/resolv.conf")
    proxy = json.loads(node_files.proxy_configuration("node2", Path("/kubeconfig")))
    assert (proxy["hostnameOverride"], proxy["clusterCIDR"]) == ("node2", segment.POD_RANGE)
    chain = json.loads(node_files.cni_configuration(2))
    assert [plugin["type"] for plugin in chain["plugins"]] == ["bridge", "portmap"]
    assert chain["plugins"][0]["ipam"]["ranges"] == [[{"subnet": "10.244.2.0/24"}]]


def test_nodes_know_the_way_to_each_other() -> None:
    assert segment.nodes_routes(2, [1, 2, 3]) == [
        ("default", "10.250.0.1"),
        ("10.244.1.0/24", "10.250.0.11"),
        ("10.244.3.0/24", "10.250.0.13"),
    ]
