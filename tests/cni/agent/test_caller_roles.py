from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from cni.agent import caller_roles
from cni.agent.caller_roles import CallerRoles
from cni.agent.cgroup_finder import CgroupFinder
from ebpf.paths import PinPaths
from ebpf.settings import NodeSettings
from mesh.errors import EnvironmentLacks
from tests.cni.agent.test_cgroup_finder import CGROUPFS, KUBELET, UID, Machine

OTHER = UID.replace("0a1b", "ffff")


@dataclass
class Programs:
    """What the kernel's map would hold."""

    ztunnels: tuple[Path, ...] = ()
    kubelets: tuple[Path, ...] = ()
    refuse: bool = False
    numbers: frozenset[int] = field(default_factory=frozenset)

    def set(self, paths: PinPaths, ztunnels: tuple[Path, ...], kubelets: tuple[Path, ...]) -> None:
        if self.refuse:
            raise EnvironmentLacks("no")
        self.ztunnels, self.kubelets = ztunnels, kubelets
        self.numbers = frozenset(folder.stat().st_ino for folder in ztunnels)

    def read(self, paths: PinPaths) -> tuple[frozenset[int], frozenset[int]]:
        return self.numbers, frozenset()


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> Programs:
    made = Programs()
    monkeypatch.setattr(caller_roles, "set_caller_roles", made.set)
    monkeypatch.setattr(caller_roles, "read_caller_roles", made.read)
    return made


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path)
    made.process(1, "init.scope", "systemd")
    made.process(40, KUBELET, "kubelet")
    made.process(70, CGROUPFS, "python", pids="container")
    return made


def roles(machine: Machine, settings: NodeSettings | None = None) -> CallerRoles:
    wanted = settings or node_settings(machine)
    made = CallerRoles(wanted, CgroupFinder(machine.tree, machine.proc), lambda uid: uid == UID, ("kubelet",))
    made.recall()
    return made


def node_settings(machine: Machine) -> NodeSettings:
    return NodeSettings(node="n", bpffs=machine.tree, cgroup=machine.tree)


def end(machine: Machine, cgroup: str) -> None:
    """What the container runtime or systemd does when all of a cgroup have ended."""
    (machine.tree / cgroup / "cgroup.procs").unlink()
    (machine.tree / cgroup).rmdir()


async def test_who_connects_from_a_pod_of_the_mesh_is_ztunnel(machine: Machine, programs: Programs) -> None:
    kept = roles(machine)
    await kept.look()
    assert [*programs.ztunnels, *programs.kubelets] == [machine.tree / KUBELET]
    await kept.admit(70)
    assert list(programs.ztunnels) == [machine.tree / CGROUPFS]
    assert list(programs.kubelets) == [machine.tree / KUBELET]


@pytest.mark.parametrize("cgroup", [CGROUPFS.replace(UID, OTHER), KUBELET])
async def test_nobody_else_is(machine: Machine, programs: Programs, cgroup: str) -> None:
    machine.process(80, cgroup)
    with pytest.raises(EnvironmentLacks, match="none of the mesh's pods"):
        await roles(machine).admit(80)
    with pytest.raises(EnvironmentLacks):
        await roles(machine).admit(0)
    assert list(programs.ztunnels) == []


async def test_two_ztunnels_have_the_role_until_the_cgroup_of_one_is_gone(machine: Machine, programs: Programs) -> None:
    kept = roles(machine)
    await kept.admit(70)
    newer = CGROUPFS[:-1] + "2"
    machine.process(71, newer, pids="newer")
    await kept.admit(71)
    assert list(programs.ztunnels) == [machine.tree / CGROUPFS, machine.tree / newer]
    end(machine, CGROUPFS)
    await kept.look()
    assert list(programs.ztunnels) == [machine.tree / newer]


async def test_another_agent_takes_over_what_was_found(machine: Machine, programs: Programs) -> None:
    await roles(machine).admit(70)
    programs.ztunnels = ()
    await roles(machine).look()
    assert list(programs.ztunnels) == [machine.tree / CGROUPFS]


async def test_whoever_comes_to_live_where_kubelet_was_is_looked_at(machine: Machine, programs: Programs) -> None:
    kept = roles(machine)
    await kept.look()
    told = list(programs.kubelets)
    programs.kubelets = ()
    end(machine, KUBELET)
    (machine.proc / "40/comm").write_text("ended\n")
    # Another inode, whatever the file system gives first.
    (machine.tree / "in-between").mkdir()
    machine.process(41, KUBELET, "other")
    await kept.look()
    assert list(programs.kubelets) == []
    machine.process(42, KUBELET, "kubelet")
    await kept.look()
    assert list(programs.kubelets) == told


async def test_kubelet_is_found_again_after_it_was_restarted(machine: Machine, programs: Programs) -> None:
    kept = roles(machine)
    await kept.look()
    end(machine, KUBELET)
    (machine.proc / "40/comm").write_text("ended\n")
    await kept.look()
    machine.process(41, "kubelet.slice/kubelet.service", "kubelet")
    await kept.look()
    assert list(programs.kubelets) == [machine.tree / "kubelet.slice/kubelet.service"]


async def test_a_cgroup_made_anew_is_told_again_when_the_programs_could_not_be_told(
    machine: Machine, programs: Programs
) -> None:
    kept = roles(machine)
    programs.refuse = True
    with pytest.raises(EnvironmentLacks):
        await kept.look()
    programs.refuse = False
    await kept.look()
    assert list(programs.kubelets) == [machine.tree / KUBELET]


async def test_what_is_configured_is_not_looked_for(machine: Machine, programs: Programs) -> None:
    named = machine.tree / "named"
    named.mkdir()
    kept = roles(machine, replace(node_settings(machine), ztunnel_cgroups=(named,), kubelet_cgroups=(named,)))
    await kept.admit(12345)
    await kept.look()
    assert (programs.ztunnels, programs.kubelets) == ((named,), (named,))
