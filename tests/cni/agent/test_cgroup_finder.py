from pathlib import Path

import pytest

from cni.agent.cgroup_finder import CgroupFinder
from mesh.errors import EnvironmentLacks

UID = "0a1b2c3d-0000-4000-8000-00000000000f"
SYSTEMD = f"kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UID.replace('-', '_')}.slice/cri-1.scope"
CGROUPFS = f"kubepods/burstable/pod{UID}/1"
KUBELET = "system.slice/kubelet.service"


class Machine:
    """Processes and cgroups as a node's kernel shows them."""

    def __init__(self, folder: Path) -> None:
        self.proc = folder / "proc"
        self.tree = folder / "cgroup"
        self.tree.mkdir(parents=True)
        (self.tree / "cgroup.procs").write_text("")
        self.finder = CgroupFinder(self.tree, self.proc)

    def process(
        self,
        pid: int,
        cgroup: str,
        comm: str = "python",
        *,
        told: str | None = None,
        uid: int = 0,
        pids: str = "node",
        net: str = "node",
        lines: str = "",
    ) -> None:
        place = self.proc / str(pid)
        (place / "ns").mkdir(parents=True)
        (place / "comm").write_text(f"{comm}\n")
        (place / "status").write_text(f"Name:\t{comm}\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\n")
        (place / "cgroup").write_text(f"{lines}0::{told or '/' + cgroup}\n")
        (place / "ns/pid").symlink_to(f"pid:[{pids}]")
        (place / "ns/net").symlink_to(f"net:[{net}]")
        folder = self.tree / cgroup
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "cgroup.procs").open("a") as file:
            file.write(f"{pid}\n")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path)
    made.process(1, "init.scope", "systemd")
    return made


@pytest.mark.parametrize("cgroup", [SYSTEMD, CGROUPFS])
def test_a_containers_cgroup_and_pod_are_found_with_either_driver(machine: Machine, cgroup: str) -> None:
    machine.process(70, cgroup, pids="container")
    machine.process(71, cgroup, pids="container")
    found = machine.finder.of_process(70)
    assert found == machine.tree / cgroup
    assert machine.finder.pod_of(found) == UID
    assert machine.finder.numbers()[found.stat().st_ino] == found


def test_a_path_of_another_cgroup_namespace_is_a_hint(machine: Machine) -> None:
    machine.process(70, CGROUPFS, told="/../../burstable/podX/1", pids="container")
    # Of the same name, but the process is not in it.
    (machine.tree / "aa/1").mkdir(parents=True)
    (machine.tree / "aa/1/cgroup.procs").write_text("99\n")
    assert machine.finder.of_process(70) == machine.tree / CGROUPFS


def test_with_controllers_in_version_1_the_unified_line_counts(machine: Machine) -> None:
    machine.process(70, CGROUPFS, lines="12:cpu,cpuacct:/elsewhere\n1:name=systemd:/elsewhere\n")
    assert machine.finder.of_process(70) == machine.tree / CGROUPFS


def test_a_cgroup_shared_with_another_container_is_refused(machine: Machine) -> None:
    machine.process(70, "system.slice/containerd.service", pids="container")
    machine.process(71, "system.slice/containerd.service")
    with pytest.raises(EnvironmentLacks, match="also holds process 71 of another container"):
        machine.finder.of_process(70)


@pytest.mark.parametrize("told", ["/", "/..", "/../.."])
def test_the_trees_root_is_nobodys(machine: Machine, told: str) -> None:
    machine.process(70, ".", told=told)
    with pytest.raises(EnvironmentLacks, match="none below"):
        machine.finder.of_process(70)


def test_who_is_not_there_is_refused(machine: Machine) -> None:
    with pytest.raises(EnvironmentLacks, match="ended, or is hidden"):
        machine.finder.of_process(70)
    machine.process(70, CGROUPFS)
    (machine.tree / CGROUPFS / "cgroup.procs").write_text("")
    with pytest.raises(EnvironmentLacks, match="none below"):
        machine.finder.of_process(70)
    (machine.proc / "70/cgroup").write_text("3:cpu:/x\n")
    with pytest.raises(EnvironmentLacks, match="no cgroup v2"):
        machine.finder.of_process(70)


@pytest.mark.parametrize("cgroup", [KUBELET, "init.scope", "k3s", "../cgroup/system.slice/kubelet.service"])
def test_a_cgroup_of_a_service_is_no_pods(machine: Machine, cgroup: str) -> None:
    assert machine.finder.pod_of(machine.tree / cgroup) is None


def test_kubelet_is_found_by_its_process(machine: Machine) -> None:
    assert machine.finder.kubelets({"kubelet"}) == ()
    machine.process(40, KUBELET, "kubelet")
    assert machine.finder.kubelets({"kubelet"}) == (machine.tree / KUBELET,)
    assert machine.finder.kubelets({"k3s-server"}) == ()


@pytest.mark.parametrize(
    ("cgroup", "uid", "pids", "net"),
    [
        (CGROUPFS, 0, "node", "node"),
        (SYSTEMD, 0, "node", "node"),
        ("user.slice", 1000, "node", "node"),
        ("user.slice", 0, "container", "node"),
        ("user.slice", 0, "node", "container"),
    ],
)
def test_who_only_calls_itself_kubelet_is_not(machine: Machine, cgroup: str, uid: int, pids: str, net: str) -> None:
    machine.process(40, cgroup, "kubelet", uid=uid, pids=pids, net=net)
    assert machine.finder.kubelets({"kubelet"}) == ()
