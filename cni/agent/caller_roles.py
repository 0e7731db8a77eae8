"""Keeps the kernel's idea of which cgroups are ztunnel's and kubelet's right.

Theory of operation. The programs know a cgroup by its number, and a cgroup that is made anew under its old name
(kubelet restarted by systemd, ztunnel by its launcher) has another number. Until the programs learn of it kubelet's
probes look like anybody's plaintext, and ztunnel's own connections are captured. Control groups have no event for this,
so they are looked at.

Where the configuration names no cgroups, they are found. ztunnel is who connects to the agent's ZDS socket: the kernel
tells the process (SO_PEERCRED), its cgroup must be that of one of this node's pods, of those that are the mesh's own,
and nobody else may be in it. Whoever is not that gets neither the role nor a pod's network namespace. Only root on the
node can open the socket, so the check is not against intruders but against mistakes: a pod with the wrong mount, a
runtime that keeps all containers in one cgroup. A ztunnel has its role as long as its cgroup is there, because it
serves on while it drains, and while the agent is replaced; a number is never given to another cgroup.

kubelet is found by its process (``cgroup_finder``). As long as it is not, no connection counts as a probe: under a
STRICT policy probes then fail, and nothing gets in.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Never

import structlog
import trio

from cni.agent.cgroup_finder import CgroupFinder
from ebpf.programs_driver import read_caller_roles, set_caller_roles
from ebpf.settings import NodeSettings
from mesh.errors import EnvironmentLacks, MeshError

_log = structlog.get_logger("roles")

_INTERVAL = 1.0
"""Seconds between looks; each is one ``stat`` per cgroup, and a look at all processes while no kubelet is found."""


class CallerRoles:
    """The cgroups with a role, and their numbers as the programs were told."""

    def __init__(
        self,
        settings: NodeSettings,
        finder: CgroupFinder,
        is_mesh_pod: Callable[[str], bool],
        kubelet_names: Collection[str],
    ) -> None:
        """Nothing is read or told yet.

        Args:
            settings: the cgroups that are configured; those that are not are found.
            finder: finds them.
            is_mesh_pod: whether a uid is that of one of the mesh's own pods on this node.
            kubelet_names: what kubelet's process may be called.
        """
        self._settings = settings
        self._finder = finder
        self._is_mesh_pod = is_mesh_pod
        self._kubelet_names = frozenset(kubelet_names)
        self._ztunnels = list(settings.ztunnel_cgroups)
        self._kubelets = list(settings.kubelet_cgroups)
        self._kubelet_numbers: list[int | None] = []
        self._told: list[int] = []
        self._missed = False

    def recall(self) -> None:
        """Take over the ztunnels an earlier agent has found. Blocks; call it once, before `admit` and `keep`.

        Raises:
            MeshError: the programs are not loaded.
        """
        if self._settings.ztunnel_cgroups:
            return
        told, _ = read_caller_roles(self._settings.paths)
        numbers = self._finder.numbers()
        self._ztunnels = [numbers[number] for number in told if number in numbers]

    async def admit(self, pid: int) -> None:
        """Give the process that connected as ztunnel its role.

        Raises:
            EnvironmentLacks: it is none of the mesh's pods on this node, or the programs cannot be told.
        """
        if self._settings.ztunnel_cgroups:
            return
        folder = await trio.to_thread.run_sync(self._finder.of_process, pid)
        uid = self._finder.pod_of(folder)
        if uid is None or not self._is_mesh_pod(uid):
            raise EnvironmentLacks(
                f"process {pid} of cgroup {folder} connected as ztunnel, and is in none of the mesh's pods that are "
                "known on this node; see the agent's settings enrolment.own_pods"
            )
        if folder not in self._ztunnels:
            self._ztunnels.append(folder)
        self._tell()
        _log.info("ztunnel's cgroup found", cgroup=str(folder), pod=uid)

    async def keep(self) -> Never:
        """Tell the programs whenever one of the cgroups was made anew, found or removed."""
        while True:
            try:
                await self.look()
            except MeshError as error:
                _log.error("the programs do not know a new cgroup", reason=str(error))
            await trio.sleep(_INTERVAL)

    async def look(self) -> None:
        """Look once.

        Raises:
            MeshError: the programs could not be told.
        """
        if not self._settings.kubelet_cgroups and not self._kubelet_is_where_it_was():
            await self._find_kubelet()
        if not self._settings.ztunnel_cgroups:
            self._ztunnels = [folder for folder in self._ztunnels if folder.exists()]
        found = _numbers([*self._ztunnels, *self._kubelets])
        if None in found or found == self._told:
            # What is missing keeps its old number until it is back.
            return
        self._tell()

    def _kubelet_is_where_it_was(self) -> bool:
        same = _numbers(self._kubelets) == self._kubelet_numbers
        return same and any(_lived_in(folder) for folder in self._kubelets)

    async def _find_kubelet(self) -> None:
        try:
            found = await trio.to_thread.run_sync(self._finder.kubelets, self._kubelet_names)
        except (MeshError, OSError) as error:
            found, reason = (), str(error)
        else:
            reason = f"no process of root in the node's own namespaces is called {' or '.join(self._kubelet_names)}"
        if found:
            self._kubelets, self._kubelet_numbers = list(found), _numbers(found)
            _log.info("kubelet's cgroup found", cgroups=[str(folder) for folder in found])
        elif _numbers(self._kubelets) != self._kubelet_numbers:
            # Whoever lives there now has yet to show that it is kubelet.
            self._kubelets, self._kubelet_numbers = [], []
        if not found and not self._missed:
            _log.error("kubelet is not found: its probes are treated as anybody's plaintext", reason=reason)
        self._missed = not found

    def _tell(self) -> None:
        ztunnels = tuple(folder for folder in self._ztunnels if folder.exists())
        kubelets = tuple(folder for folder in self._kubelets if folder.exists())
        set_caller_roles(self._settings.paths, ztunnels, kubelets)
        self._told = [number for number in _numbers([*ztunnels, *kubelets]) if number is not None]
        _log.info("the programs were told of cgroups", ztunnels=len(ztunnels), kubelets=len(kubelets))


def _lived_in(cgroup: Path) -> bool:
    try:
        return bool((cgroup / "cgroup.procs").read_text().strip())
    except OSError:
        return False


def _numbers(cgroups: Iterable[Path]) -> list[int | None]:
    return [_number(cgroup) for cgroup in cgroups]


def _number(cgroup: Path) -> int | None:
    try:
        return os.stat(cgroup).st_ino
    except OSError:
        return None
