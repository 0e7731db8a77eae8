"""What of a machine the programs need: named checks for ``ambimesh check``, each with its remedy.

Programs are tried by loading ``return 1`` for every hook, which is what tells a kernel's abilities truly; versions and
configuration files do not.
"""

from __future__ import annotations

import ctypes.util
import errno
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ebpf import syscall
from ebpf.attachment import CGROUP_HOOKS, POD_HOOK, SPLICE_HOOK, UNATTACHED_HOOKS, Hook
from ebpf.bpffs import is_bpffs
from ebpf.headers import find_headers
from mesh.errors import EnvironmentLacks

_CAPABILITIES = {"NET_ADMIN": 12, "SYS_ADMIN": 21, "BPF": 39}
_STATUS = Path("/proc/self/status")
_BTF = Path("/sys/kernel/btf/vmlinux")
_MOUNTS = Path("/proc/self/mountinfo")
_FILESYSTEMS = Path("/proc/filesystems")
_SELFTEST_SECONDS = 30.0
_DEFAULT_BPFFS = Path("/sys/fs/bpf")

_REMEDY_KERNEL = "use a kernel of 5.18 or newer with CONFIG_CGROUP_BPF and CONFIG_BPF_SYSCALL (Debian 12 has one)"
_REMEDY_BCC = (
    "install python3-bpfcc and put a folder that holds only its bcc package on this interpreter's path; "
    "the package `bcc` of PyPI is something else"
)


@dataclass(frozen=True, slots=True)
class FeatureCheck:
    """One thing that was looked at."""

    name: str
    ok: bool
    detail: str
    """What was found."""
    remedy: str
    """What to do when it is not ok; empty when it is."""


def check_features() -> list[FeatureCheck]:
    """Look at everything; never raises, changes nothing on the machine."""
    checks: list[Callable[[], FeatureCheck]] = [_privileges, _cgroup, _bpffs, _btf]
    found = [check() for check in checks]
    found += [_program(hook) for hook in (*CGROUP_HOOKS, POD_HOOK, SPLICE_HOOK, *UNATTACHED_HOOKS)]
    return [*found, _headers(), _bcc(), _splice()]


def find_cgroup_mount(mountinfo: str) -> Path | None:
    """The (first) mount point of the cgroup v2 hierarchy in the text of ``/proc/self/mountinfo``."""
    return next((place for place, system in _mounts(mountinfo) if system == "cgroup2"), None)


def cgroup_folder(told: Path, mountinfo: str) -> Path:
    """The cgroup v2 folder that a configured path means.

    Where cgroup v2 is mounted beside version 1's controllers, it is below the folder that has all of them, and that is
    what is usually told.

    Args:
        told: a folder of the hierarchy, or one below which the hierarchy is mounted.
        mountinfo: the text of ``/proc/self/mountinfo``.

    Raises:
        EnvironmentLacks: it is neither.
    """
    holding, length = "", -1
    below: list[Path] = []
    for place, system in _mounts(mountinfo):
        if told.is_relative_to(place) and len(place.parts) >= length:
            holding, length = system, len(place.parts)  # of mounts at one place the last one is seen
        elif system == "cgroup2" and place.is_relative_to(told):
            below.append(place)
    if holding == "cgroup2":
        return told
    if below:
        return min(below, key=lambda place: (len(place.parts), place))
    raise EnvironmentLacks(
        f"no cgroup v2 is mounted at {told} or below it; remedy: name the node's cgroup v2 folder (bpf.cgroup; of the "
        "chart agent.cgroup), or mount one (mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified)"
    )


def _mounts(mountinfo: str) -> Iterator[tuple[Path, str]]:
    """Mount points and their file systems' types, in the order in which they were mounted."""
    for line in mountinfo.splitlines():
        fields, _, rest = line.partition(" - ")
        parts = fields.split()
        if len(parts) > 4 and rest:
            yield Path(parts[4].replace("\\040", " ")), rest.split()[0]


def missing_capabilities(status: str) -> list[str]:
    """Which of the capabilities that loading needs are not effective, from the text of ``/proc/self/status``."""
    effective = 0
    for line in status.splitlines():
        if line.startswith("CapEff:"):
            effective = int(line.split()[1], 16)
    return [name for name, bit in _CAPABILITIES.items() if not effective >> bit & 1]


def _privileges() -> FeatureCheck:
    missing = missing_capabilities(_STATUS.read_text(encoding="ascii"))
    if missing:
        detail = f"missing: {', '.join(missing)}"
        return FeatureCheck("privileges", False, detail, "run as root or with these capabilities")
    return FeatureCheck("privileges", True, ", ".join(_CAPABILITIES), "")


def _cgroup() -> FeatureCheck:
    mount = find_cgroup_mount(_MOUNTS.read_text(encoding="utf-8", errors="surrogateescape"))
    if mount is None:
        return FeatureCheck("cgroup v2", False, "not mounted", "mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified")
    return FeatureCheck("cgroup v2", True, str(mount), "")


def _bpffs() -> FeatureCheck:
    if "\tbpf\n" not in _FILESYSTEMS.read_text(encoding="ascii"):
        return FeatureCheck("bpf file system", False, "the kernel has none", _REMEDY_KERNEL)
    state = f"mounted at {_DEFAULT_BPFFS}" if is_bpffs(_DEFAULT_BPFFS) else "can be mounted"
    return FeatureCheck("bpf file system", True, state, "")


def _btf() -> FeatureCheck:
    if not _BTF.exists():
        return FeatureCheck("kernel type information", False, f"no {_BTF}", "use a kernel with CONFIG_DEBUG_INFO_BTF")
    return FeatureCheck("kernel type information", True, str(_BTF), "")


def _program(hook: Hook) -> FeatureCheck:
    name = f"program {hook.function}"
    # sock_ops programs are loaded without an attach type; the kernel takes any for them.
    result = syscall.load_trivial_program(hook.program_type, hook.attach_type)
    if result >= 0:
        os.close(result)
        return FeatureCheck(name, True, "loads", "")
    code = -result
    remedy = "run as root" if code == errno.EPERM else _REMEDY_KERNEL
    return FeatureCheck(name, False, f"{errno.errorcode.get(code, code)}: {os.strerror(code)}", remedy)


def _headers() -> FeatureCheck:
    try:
        return FeatureCheck("kernel headers", True, str(find_headers()), "")
    except EnvironmentLacks as error:
        places, _, remedy = str(error).partition("; ")
        return FeatureCheck("kernel headers", False, places, remedy)


def _splice() -> FeatureCheck:
    """Not required: without, connections within the node go by TCP from one application to the other."""
    name = "same-node splice"
    try:
        child = subprocess.run(
            [sys.executable, "-m", "ebpf.loader", "selftest"],
            capture_output=True,
            text=True,
            timeout=_SELFTEST_SECONDS,
            cwd=Path(__file__).resolve().parent.parent,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return FeatureCheck(name, True, f"off: the test took more than {_SELFTEST_SECONDS:.0f} s", "")
    if child.returncode == 0:
        return FeatureCheck(name, True, "passes its test", "")
    said = (child.stdout or child.stderr).strip().rpartition("\n")[2]
    return FeatureCheck(name, True, f"off, plain TCP instead: {said}", "")


def _bcc() -> FeatureCheck:
    spec = importlib.util.find_spec("bcc")  # found, not imported: it would bring the compiler into this process
    if spec is None or spec.origin is None:
        return FeatureCheck("bcc", False, "cannot be imported", _REMEDY_BCC)
    if not Path(spec.origin).with_name("libbcc.py").exists():
        return FeatureCheck("bcc", False, f"{spec.origin} is another package", _REMEDY_BCC)
    if ctypes.util.find_library("bcc") is None:
        return FeatureCheck("bcc", False, "libbcc.so is not installed", "install libbpfcc")
    return FeatureCheck("bcc", True, str(Path(spec.origin).parent), "")
