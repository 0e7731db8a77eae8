"""Finds the cgroups of ztunnel and of kubelet by their processes.

Theory of operation. The programs know who dials by the cgroup of the calling process (v2, also where controllers are
in v1's hierarchies), so whoever shares a cgroup shares its role. What is looked for is therefore never a path by a
pattern, which every distribution has another of, but the cgroup a certain process is in; and it is refused when it
holds a process of somebody else. ``/proc/PID/cgroup`` tells the path relative to the reader's cgroup namespace, and the
agent's container has one of its own, so that path begins with ``..`` more often than not. It is a hint: the folder is
the one of that name whose ``cgroup.procs`` lists the process.

A process can call itself kubelet. What cannot be done from inside a pod is to be root outside of every pod's cgroup in
the node's own process and network namespaces; who is that can load programs of its own, and needs no role of ours.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

from mesh.errors import EnvironmentLacks

_POD = re.compile(r"(?:^|-)pod([0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32})(?:\.slice)?$")
"""A pod's folder: ``pod<uid>``, or by systemd's driver ``kubepods-burstable-pod<uid, underscored>.slice``."""
_PODS = re.compile(r"(?:^|-)kubepods(?:-|\.slice$|$)")
"""The folders that hold all pods, with either driver; systemd's begins with the names above it (``cgroupRoot``)."""


class CgroupFinder:
    """Looks at the node's processes and cgroups. All of it blocks, for milliseconds on a node full of pods."""

    def __init__(self, tree: Path, proc: Path = Path("/proc")) -> None:
        """Use these places.

        Args:
            tree: the cgroup v2 folder that the programs are attached to.
            proc: the node's process file system.
        """
        self._tree = tree
        self._proc = proc

    def of_process(self, pid: int) -> Path:
        """The cgroup of a process, when nobody of another process namespace shares it.

        Raises:
            EnvironmentLacks: the process has ended, is not below the tree, or shares its cgroup.
        """
        told = self._told(pid)
        folder = next((place for place in self._candidates(told) if pid in _processes(place)), None)
        if folder is None or folder == self._tree:
            raise EnvironmentLacks(
                f"process {pid} is in cgroup {told}, which is none below {self._tree}; remedy: set bpf.cgroup to the "
                "node's cgroup v2 folder, and let the agent's pod share the node's process namespace (hostPID)"
            )
        space = self._namespace(pid, "pid")
        for other in _processes(folder):
            with suppress(FileNotFoundError):  # it has ended
                if self._namespace(other, "pid") != space:
                    raise EnvironmentLacks(
                        f"cgroup {folder} of process {pid} also holds process {other} of another container, which "
                        "would have its role; remedy: a container runtime that gives each container its own cgroup v2"
                    )
        return folder

    def kubelets(self, names: Collection[str]) -> tuple[Path, ...]:
        """The cgroups of kubelet's processes; none when it does not run, or cannot be told from others.

        Args:
            names: of the processes, as in ``/proc/PID/comm``.
        """
        return tuple({self.of_process(pid): None for pid in self._kubelet_processes(names)})

    def pod_of(self, folder: Path) -> str | None:
        """The uid of the pod whose cgroup this is, or is below; None when it is no pod's."""
        for part in reversed(folder.relative_to(self._tree).parts):
            found = _POD.search(part)
            if found:
                return _plain_uid(found[1])
        return None

    def numbers(self) -> dict[int, Path]:
        """All cgroups by the kernel's number of each, which is never given twice."""
        found = {}
        for place, _, _ in os.walk(self._tree):
            with suppress(FileNotFoundError):
                found[os.stat(place).st_ino] = Path(place)
        return found

    def _kubelet_processes(self, names: Collection[str]) -> Iterator[int]:
        first = [self._namespace(1, kind) for kind in ("pid", "net")]
        for entry in self._proc.iterdir():
            if not entry.name.isdecimal():
                continue
            with suppress(OSError):  # it has ended
                if (entry / "comm").read_text().rstrip("\n") not in names:
                    continue
                pid = int(entry.name)
                here = [self._namespace(pid, kind) for kind in ("pid", "net")]
                parts = Path(self._told(pid)).parts
                if here == first and self._is_root(pid) and not any(_PODS.search(part) for part in parts):
                    yield pid

    def _is_root(self, pid: int) -> bool:
        status = (self._proc / str(pid) / "status").read_text()
        return any(line.split()[1:] == ["0"] * 4 for line in status.splitlines() if line.startswith("Uid:"))

    def _namespace(self, pid: int, kind: str) -> str:
        return os.readlink(self._proc / str(pid) / "ns" / kind)

    def _told(self, pid: int) -> str:
        try:
            lines = (self._proc / str(pid) / "cgroup").read_text().splitlines()
        except OSError as error:
            raise EnvironmentLacks(f"process {pid}: {error.strerror}: it has ended, or is hidden from us") from error
        told = next((line.removeprefix("0::") for line in lines if line.startswith("0::")), None)
        if told is None:
            raise EnvironmentLacks(f"process {pid} is in no cgroup v2; remedy: mount cgroup2 on the node")
        return told

    def _candidates(self, told: str) -> Iterator[Path]:
        name = Path(told).name
        if not name or name == "..":
            return
        if ".." not in Path(told).parts:
            yield self._tree / told.lstrip("/")
        for place, folders, _ in os.walk(self._tree):
            if name in folders:
                yield Path(place, name)


def _processes(folder: Path) -> set[int]:
    try:
        return {int(line) for line in (folder / "cgroup.procs").read_text().split()}
    except OSError:
        return set()


def _plain_uid(text: str) -> str:
    return text.replace("_", "-")
