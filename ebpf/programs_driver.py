"""A node's programs from outside: load them (or see that they are loaded), and take everything away again.

Loading is idempotent. The pinned state is kept if it is complete, of this ABI version and made from this very C text:
then an agent's restart touches nothing. With another C text of the same ABI version, the programs are replaced inside
their links and the maps are kept. State of another ABI version is refused. All of this blocks (the compiler takes a
second or two): call it through ``trio.to_thread.run_sync``.
"""

from __future__ import annotations

import ctypes
import hashlib
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import structlog

from ebpf import syscall
from ebpf.attachment import attached, cgroup_id, closing, remove_all
from ebpf.bpffs import locked, require_bpffs
from ebpf.fastpath.abilities import read_abilities
from ebpf.headers import find_headers
from ebpf.layout import ABI_VERSION, ROLE_KUBELET, ROLE_ZTUNNEL, Metadata
from ebpf.loader import PROGRAMS, LoadRequest
from ebpf.maps import PinnedMap
from ebpf.paths import PinPaths
from ebpf.settings import NodeSettings
from mesh.errors import ConfigurationError, EnvironmentLacks

_CHILD_DEADLINE = 120.0
_log = structlog.get_logger("ebpf")


def load_programs(settings: NodeSettings) -> None:
    """Make this node's programs loaded, attached at its cgroup and knowing its callers' roles.

    Raises:
        EnvironmentLacks: no privilege, bpffs, cgroup, headers or bcc, or the kernel refused; nothing is left behind if
            nothing was there before.
        ConfigurationError: state of another ABI version is pinned, or a map is too small.
        InternalError: the loader's layout check failed.
    """
    paths = settings.paths
    require_bpffs(settings.bpffs)
    cgroup_id(settings.cgroup)
    paths.node_root.mkdir(parents=True, exist_ok=True)
    with locked(paths.node_root):
        _refuse_other_versions(paths)
        digest = program_digest()
        if pinned_digest(paths) != digest or not attached(paths, settings.cgroup):
            _run_loader(settings, digest)
            if not read_abilities(paths).splice:
                _log.warning("same-node splice is off: this kernel fails its test; see `ambimesh check`")
        if settings.ztunnel_cgroups:
            set_caller_roles(paths, settings.ztunnel_cgroups, settings.kubelet_cgroups)
        _report_sizes(settings)


def detach_all(paths: PinPaths) -> None:
    """Detach every program of this node and remove its pins, maps and folders. Nothing happens if there are none.

    Raises:
        EnvironmentLacks: not permitted.
    """
    if not paths.node_root.exists():
        return
    with locked(paths.node_root):
        remove_all(paths)


def set_caller_roles(paths: PinPaths, ztunnel_cgroups: tuple[Path, ...], kubelet_cgroups: tuple[Path, ...]) -> None:
    """Say which cgroups are ztunnel's and kubelet's; others that were named before lose their role.

    Raises:
        EnvironmentLacks: a cgroup is not there, or the programs are not loaded.
    """
    wanted = dict.fromkeys((cgroup_id(cgroup) for cgroup in kubelet_cgroups), ROLE_KUBELET)
    wanted |= dict.fromkeys((cgroup_id(cgroup) for cgroup in ztunnel_cgroups), ROLE_ZTUNNEL)
    with PinnedMap(paths, "caller_roles", ctypes.c_uint64, ctypes.c_uint32) as roles:
        for cgroup, role in wanted.items():
            roles.set(ctypes.c_uint64(cgroup), ctypes.c_uint32(role))
        for key, _ in list(roles.items()):
            if key.value not in wanted:
                roles.remove(key)


def read_caller_roles(paths: PinPaths) -> tuple[frozenset[int], frozenset[int]]:
    """The numbers of the cgroups that the programs take for ztunnel's, and for kubelet's.

    Raises:
        EnvironmentLacks: the programs are not loaded.
    """
    with PinnedMap(paths, "caller_roles", ctypes.c_uint64, ctypes.c_uint32) as roles:
        told = {key.value: role.value for key, role in roles.items()}
    ztunnels = (number for number, role in told.items() if role == ROLE_ZTUNNEL)
    return frozenset(ztunnels), frozenset(number for number, role in told.items() if role == ROLE_KUBELET)


def program_digest() -> str:
    """SHA-256 of the C text, hexadecimal."""
    digest = hashlib.sha256()
    for source in sorted(PROGRAMS.glob("*.[ch]")):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()


def pinned_digest(paths: PinPaths) -> str | None:
    """The digest of what is loaded; None if nothing is, or loading did not come to its end."""
    if not (paths.maps / "metadata").exists():
        return None
    with PinnedMap(paths, "metadata", ctypes.c_uint32, Metadata) as metadata:
        value = metadata.get(ctypes.c_uint32(0))
    if value is None or value.abi_version != ABI_VERSION:
        return None
    return bytes(value.program_digest).hex()


def _refuse_other_versions(paths: PinPaths) -> None:
    others = [entry.name for entry in paths.node_root.iterdir() if entry.name != paths.root.name]
    if others:
        raise ConfigurationError(
            f"{paths.node_root} holds programs of ABI {', '.join(others)}, this is v{ABI_VERSION}: "
            "their maps cannot be taken over; drain the node and detach them first "
            "(pods are then plain until they are enrolled again)"
        )


def _run_loader(settings: NodeSettings, digest: str) -> None:
    paths = settings.paths
    fresh = not paths.root.exists()
    request = LoadRequest(
        bpffs=str(settings.bpffs),
        node=settings.node,
        cgroup=str(settings.cgroup),
        kernel_headers=str(find_headers()),
        program_digest=digest,
        map_sizes=asdict(settings.map_sizes),
    )
    _log.info("loading programs", node=settings.node, cgroup=str(settings.cgroup), digest=digest[:12])
    try:
        child = subprocess.run(
            [sys.executable, "-m", "ebpf.loader"],
            input=request.encode(),
            capture_output=True,
            text=True,
            timeout=_CHILD_DEADLINE,
            cwd=Path(__file__).resolve().parent.parent,
            check=False,
        )
        outcome = child.stdout.strip().rpartition("\n")[2]
        words = child.stderr.strip()
        failed = child.returncode != 0
        if child.returncode < 0:
            outcome = f"the loader died by signal {-child.returncode} while {outcome or 'it started'}"
    except subprocess.TimeoutExpired:
        outcome, words, failed = f"it took more than {_CHILD_DEADLINE:.0f} s", "", True
    if failed:
        if fresh:
            remove_all(paths)
        tail = "\n".join(words.splitlines()[-30:])
        raise EnvironmentLacks(f"loading eBPF programs failed: {outcome}\n{tail}".rstrip())


def _report_sizes(settings: NodeSettings) -> None:
    """Say when a pinned map has another size than configured, since it cannot be resized."""
    configured = asdict(settings.map_sizes)
    configured["excluded_nets"] = configured.pop("excluded_networks")
    for name, wanted in configured.items():
        with closing(syscall.require_pin(settings.paths.maps / name)) as fd:
            actual = syscall.map_info(fd).max_entries
        if actual != wanted:
            _log.warning("map keeps its size until programs are detached", map=name, entries=actual, configured=wanted)
