import re
from pathlib import Path

import pytest

from cni.agent.cgroup_finder import CgroupFinder
from cni.agent.configuration import AgentSettings, BpfGroup, NodeGroup, SourceGroup
from cni.agent.namespace_finder import NamespaceFinder, NamespaceUnknown
from cni.pod import PodFacts
from mesh.errors import EnvironmentLacks

UID = "0a1b2c3d-0000-4000-8000-00000000000f"
OTHER = "0a1b2c3d-0000-4000-8000-0000000000ff"
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


@pytest.mark.parametrize(
    "cgroup",
    [
        "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/x.scope",
        "kubelet.slice/kubelet-kubepods.slice/x.scope",
        "kubelet/kubepods/besteffort/x",
        "kubepods-burstable.slice/x",
    ],
)
def test_who_is_in_a_pod_below_another_root_is_no_kubelet(machine: Machine, cgroup: str) -> None:
    machine.process(40, cgroup, "kubelet")
    assert machine.finder.kubelets({"kubelet"}) == ()


CONTAINER = "c0ffee" + "0" * 58
UNDERSCORED = UID.replace("-", "_")
BURSTABLE = f"kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UNDERSCORED}.slice"
SHAPES = {
    # Debian's containerd with systemd's driver and cgroup v2 alone; the agent's namespace begins in its own scope.
    "containerd, systemd": (
        f"{BURSTABLE}/cri-containerd-{CONTAINER}.scope",
        f"/../../../kubepods-burstable.slice/kubepods-burstable-pod{UNDERSCORED}.slice/cri-containerd-{CONTAINER}.scope",
        "system.slice/kubelet.service",
        "/../../../../system.slice/kubelet.service",
    ),
    # CRI-O with crun: the container's processes are one folder deeper.
    "CRI-O, crun": (
        f"{BURSTABLE}/crio-{CONTAINER}.scope/container",
        f"/../../kubepods-burstable-pod{UNDERSCORED}.slice/crio-{CONTAINER}.scope/container",
        "system.slice/kubelet.service",
        "/../../../../../system.slice/kubelet.service",
    ),
    # Guaranteed pods have no folder of their class; kubelet is part of another program.
    "k3s": (
        f"kubepods.slice/kubepods-pod{UNDERSCORED}.slice/cri-containerd-{CONTAINER}.scope",
        f"/../../kubepods-pod{UNDERSCORED}.slice/cri-containerd-{CONTAINER}.scope",
        "system.slice/k3s.service",
        "/../../../system.slice/k3s.service",
    ),
    # cgroupfs's driver, cgroup v2 alone.
    "cgroupfs": (
        f"kubepods/burstable/pod{UID}/{CONTAINER}",
        f"/../../pod{UID}/{CONTAINER}",
        "kubelet",
        "/../../../../kubelet",
    ),
    # A node that is a container itself: kubelet has a cgroupRoot.
    "kubelet with a root": (
        f"kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/"
        f"kubelet-kubepods-besteffort-pod{UNDERSCORED}.slice/cri-containerd-{CONTAINER}.scope",
        f"/../../kubelet-kubepods-besteffort-pod{UNDERSCORED}.slice/cri-containerd-{CONTAINER}.scope",
        "kubelet.slice/kubelet.service",
        "/../../../../kubelet.service",
    ),
    "kubelet with a root, cgroupfs": (
        f"kubelet/kubepods/besteffort/pod{UID}/{CONTAINER}",
        f"/../../pod{UID}/{CONTAINER}",
        "system.slice/kubelet.service",
        "/../../../../../system.slice/kubelet.service",
    ),
}


@pytest.mark.parametrize(("container", "container_told", "kubelet", "kubelet_told"), SHAPES.values(), ids=SHAPES)
def test_nodes_of_all_shapes(
    machine: Machine, container: str, container_told: str, kubelet: str, kubelet_told: str
) -> None:
    """What ``/proc/PID/cgroup`` says is relative to the agent's own cgroup; the folders are the node's."""
    name = "k3s-server" if "k3s" in kubelet else "kubelet"
    machine.process(40, kubelet, name, told=kubelet_told)
    machine.process(70, container, "ztunnel", told=container_told, pids="container")
    # Another pod's container in a folder of the same shape, and a shim that belongs to the runtime.
    other = container.replace(UID, OTHER).replace(UNDERSCORED, OTHER.replace("-", "_"))
    machine.process(80, other, "application", pids="other")
    machine.process(90, "system.slice/containerd.service", "containerd-shim")
    assert machine.finder.kubelets({"kubelet", "k3s-server"}) == (machine.tree / kubelet,)
    found = machine.finder.of_process(70)
    assert found == machine.tree / container
    assert machine.finder.pod_of(found) == UID


@pytest.mark.parametrize("container", [shape[0] for shape in SHAPES.values()], ids=SHAPES)
async def test_running_pods_are_looked_for_in_nodes_of_all_shapes(machine: Machine, container: str) -> None:
    machine.process(70, container)
    settings = AgentSettings(
        node=NodeGroup(name="n"), source=SourceGroup(folder=Path("/x")), bpf=BpfGroup(cgroup=machine.tree)
    )
    finder = NamespaceFinder(settings.pod_cgroup_patterns(), machine.proc)
    folder = next(place for place in (machine.tree / container).parents if UID in place.name.replace("_", "-"))
    # There is no such process here; the folder it was looked for in is told.
    with pytest.raises(NamespaceUnknown, match=re.escape(f"({folder})")):
        await finder.of_processes(PodFacts(uid=UID, namespace="n", name="p"))
