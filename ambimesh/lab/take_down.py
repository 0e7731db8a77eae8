"""Removing a lab: nothing of it stays, whatever state it is in.

Every step bears a lab that is half up or half down, and a step that fails does not keep the next from being tried: what
could not be removed is said at the end, all of it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import trio

from ambimesh.lab import cgroups, fabric
from ambimesh.lab.layout import NETNS_ROOT
from ambimesh.lab.processes import Processes
from ambimesh.lab.programs import run
from ambimesh.lab.record import Lab
from mesh.errors import EnvironmentLacks, MeshError

_KUBELET_SECONDS = 20.0
_PROCESS_SECONDS = 5.0


async def take_down(lab: Lab, step: Callable[[str], None]) -> None:
    """Stop the lab's processes and remove its namespaces, cgroups, mounts and files.

    Raises:
        EnvironmentLacks: something could not be removed; the message lists it.
    """
    problems: list[str] = []
    layout = lab.layout

    @contextmanager
    def noting(what: str) -> Iterator[None]:
        try:
            yield
        except (MeshError, OSError) as error:
            problems.append(f"{what}: {error}")

    step("stopping pods")
    processes = Processes(layout)
    names = processes.names()
    # Pods first: their networks are removed by the very plugins that made them, which need the agent.
    await _stop_all(processes, [name for name in names if name.startswith("kubelet")], _KUBELET_SECONDS, problems)
    step("stopping processes")
    await _stop_all(processes, [name for name in names if not name.startswith("kubelet")], _PROCESS_SECONDS, problems)
    step("removing cgroups, mounts and namespaces")
    with noting("programs"):
        _remove_pins(layout.bpffs)
    with noting("cgroups"):
        await cgroups.remove(lab.cgroup)
    for what, place in (("the BPF filesystem", layout.bpffs), ("the file system of programs", layout.programs)):
        with noting(what):
            if place.is_mount():
                await run(["umount", str(place)])
    if layout.namespaces.is_dir():
        for mark in sorted(layout.namespaces.iterdir()):
            with noting(f"namespace {mark.name}"):
                await fabric.remove_namespace(layout, NETNS_ROOT / mark.name)
    if problems:
        raise EnvironmentLacks(
            f"lab {layout.name} could not be removed whole: {'; '.join(problems)}; remedy: ambimesh lab down once more"
        )
    shutil.rmtree(layout.root)


async def _stop_all(processes: Processes, names: list[str], timeout: float, problems: list[str]) -> None:
    async def stop(name: str) -> None:
        try:
            await processes.stop(name, timeout=timeout)
        except (MeshError, OSError) as error:
            problems.append(f"{name}: {error}")

    async with trio.open_nursery() as nursery:
        for name in names:
            nursery.start_soon(stop, name)


def _remove_pins(bpffs: Path) -> None:
    """Unpin programs, links and maps, so that they go even if another mount namespace still shows the filesystem."""
    if bpffs.is_mount():
        # Files at the top are the kernel's own (maps.debug, progs.debug) and cannot be removed.
        for entry in bpffs.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
