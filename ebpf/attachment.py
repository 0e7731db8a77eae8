"""Pinned programs in pinned links: how the loader puts them there and how the agent sees that they are.

A link outlives its process by its pin, and holds its attachment: unlike a bare attach to a cgroup, it can be seen,
replaced without a gap, and removed. Nothing of the mesh is attached in any other way.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ebpf import syscall
from ebpf.paths import PinPaths
from mesh.errors import EnvironmentLacks


@dataclass(frozen=True, slots=True)
class Hook:
    """One program and the place it is made for."""

    source: str
    """The file of ``programs/`` that holds it."""
    function: str
    program_type: int
    attach_type: int


CGROUP_HOOKS = (
    Hook("dialling.bpf.c", "mesh_connect4", syscall.PROGRAM_CGROUP_SOCK_ADDR, syscall.ATTACH_INET4_CONNECT),
    Hook("dialling.bpf.c", "mesh_connect6", syscall.PROGRAM_CGROUP_SOCK_ADDR, syscall.ATTACH_INET6_CONNECT),
    Hook("names.bpf.c", "mesh_peername4", syscall.PROGRAM_CGROUP_SOCK_ADDR, syscall.ATTACH_INET4_GETPEERNAME),
    Hook("names.bpf.c", "mesh_peername6", syscall.PROGRAM_CGROUP_SOCK_ADDR, syscall.ATTACH_INET6_GETPEERNAME),
    Hook("names.bpf.c", "mesh_sockname4", syscall.PROGRAM_CGROUP_SOCK_ADDR, syscall.ATTACH_INET4_GETSOCKNAME),
    Hook("names.bpf.c", "mesh_sockname6", syscall.PROGRAM_CGROUP_SOCK_ADDR, syscall.ATTACH_INET6_GETSOCKNAME),
    Hook("options.bpf.c", "mesh_setsockopt", syscall.PROGRAM_CGROUP_SOCKOPT, syscall.ATTACH_SETSOCKOPT),
    Hook("connections.bpf.c", "mesh_sock_ops", syscall.PROGRAM_SOCK_OPS, syscall.ATTACH_SOCK_OPS),
)
"""Attached from the last to the first: capture begins with the sock_ops program in place."""

POD_HOOK = Hook("arrivals.bpf.c", "mesh_sk_lookup", syscall.PROGRAM_SK_LOOKUP, syscall.ATTACH_SK_LOOKUP)

SPLICE_HOOK = Hook("splice.bpf.c", "mesh_sk_msg", syscall.PROGRAM_SK_MSG, syscall.ATTACH_SK_MSG)

ENTRY_HOOK = Hook("entry.bpf.c", "mesh_enter", syscall.PROGRAM_SCHED_CLS, 0)
LEG_ENTRY_HOOK = Hook("entry.bpf.c", "mesh_enter_leg", syscall.PROGRAM_SCHED_CLS, 0)
UNATTACHED_HOOKS = (ENTRY_HOOK, LEG_ENTRY_HOOK)
"""ztunnel runs them itself."""


@contextmanager
def closing(fd: int) -> Iterator[int]:
    """Close a descriptor at the end of the block."""
    try:
        yield fd
    finally:
        os.close(fd)


def cgroup_id(cgroup: Path) -> int:
    """The kernel's number of a cgroup, which is its folder's inode.

    Raises:
        EnvironmentLacks: there is no such folder.
    """
    try:
        return cgroup.stat().st_ino
    except OSError as error:
        raise EnvironmentLacks(f"cgroup {cgroup}: {error.strerror}; make it before loading programs") from error


def replace_pin(fd: int, path: Path) -> None:
    """Pin under a name that may be taken, without a moment in which it is not."""
    following = path.with_name(path.name + "_next")
    following.unlink(missing_ok=True)
    syscall.pin(fd, following)
    following.rename(path)


def attach_to_cgroup(paths: PinPaths, cgroup: Path) -> None:
    """Bring every cgroup link to the pinned programs: keep, update, or make it."""
    wanted = cgroup_id(cgroup)
    with closing(os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as target:
        for hook in reversed(CGROUP_HOOKS):
            pin = paths.links / hook.function
            with closing(syscall.require_pin(paths.programs / hook.function)) as program:
                if _kept(pin, wanted, program):
                    continue
                what = f"{hook.function} to {cgroup}"
                with closing(syscall.create_link(program, target, hook.attach_type, what)) as link:
                    replace_pin(link, pin)


def _kept(pin: Path, wanted_cgroup: int, program: int) -> bool:
    existing = syscall.open_pin(pin)
    if existing is None:
        return False
    with closing(existing):
        return syscall.link_info(existing).cgroup_id == wanted_cgroup and syscall.update_link(existing, program)


def update_pod_links(paths: PinPaths) -> None:
    """Put the pinned sk_lookup program into all enrolled pods' links; links of dead namespaces stay as they are."""
    with closing(syscall.require_pin(paths.programs / POD_HOOK.function)) as program:
        for pin in sorted(paths.pods.iterdir()):
            with closing(syscall.require_pin(pin)) as link:
                syscall.update_link(link, program)


def attach_to_sockets(paths: PinPaths) -> None:
    """Put the pinned splice program behind the map of fast sockets; the attachment ends with that map."""
    with (
        closing(syscall.require_pin(paths.programs / SPLICE_HOOK.function)) as program,
        closing(syscall.require_pin(paths.maps / "fast_sockets")) as sockets,
    ):
        syscall.attach_to_map(program, sockets)


def attached(paths: PinPaths, cgroup: Path) -> bool:
    """Whether all programs are pinned and all links are alive, at this cgroup, with those programs."""
    wanted = cgroup_id(cgroup)
    if not all((paths.programs / hook.function).exists() for hook in (POD_HOOK, SPLICE_HOOK, *UNATTACHED_HOOKS)):
        return False
    for hook in CGROUP_HOOKS:
        link = syscall.open_pin(paths.links / hook.function)
        if link is None:
            return False
        with closing(link):
            info = syscall.link_info(link)
        program = syscall.open_pin(paths.programs / hook.function)
        if program is None:
            return False
        with closing(program):
            if (info.cgroup_id, info.program_id) != (wanted, syscall.program_id(program)):
                return False
    return True


def remove_pinned_link(pin: Path) -> None:
    """Detach a link at once and remove its pin."""
    link = syscall.open_pin(pin)
    if link is None:
        return
    with closing(link):
        syscall.detach_link(link)
    pin.unlink(missing_ok=True)


def remove_all(paths: PinPaths) -> None:
    """Detach and remove everything of this node, of whatever ABI version, and the folders that became empty."""
    if not paths.node_root.exists():
        return
    for version in sorted(paths.node_root.iterdir()):
        for folder in ("links", "pods"):
            if (version / folder).is_dir():
                # The name order puts connect before sock_ops: capture ends first.
                for pin in sorted((version / folder).iterdir()):
                    remove_pinned_link(pin)
    shutil.rmtree(paths.node_root)
    try:
        paths.mesh.rmdir()
    except OSError:
        pass  # another node's
