"""What a lab needs of the machine, looked at before anything is made."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from ambimesh.lab import cgroups
from ambimesh.lab.layout import CNI_PROGRAMS
from ebpf.features import FeatureCheck, check_features
from mesh import compiled
from mesh.errors import EnvironmentLacks

_SYSTEM_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_PROGRAMS = {
    "ip": "apt-get install iproute2",
    "nft": "apt-get install nftables",
    "sysctl": "apt-get install procps",
    "mount": "apt-get install mount",
}
_PLUGINS = ("bridge", "host-local")
_BRIDGE_FILTER = Path("/proc/sys/net/bridge")
_BRIDGE_MODULE = "br_netfilter"
_OLDEST_KERNEL = (5, 14)
"""The first with ``cgroup.kill``."""


def checks(mesh: bool) -> list[FeatureCheck]:
    """Everything a lab needs, found or not; nothing is changed on the machine.

    Args:
        mesh: whether the mesh's own processes are to run in it, which need more of the kernel.
    """
    found = [_root(), *(_program(name, remedy) for name, remedy in _PROGRAMS.items())]
    found += [*(_plugin(CNI_PROGRAMS / name) for name in _PLUGINS), _namespaces(), _bridge_filter(), _cgroups()]
    if mesh:
        known = {check.name for check in found}
        found += [check for check in check_features() if check.name not in known]
        found.append(_compiled())
    return found


def require(found: Iterable[FeatureCheck]) -> None:
    """Refuse to go on when something is missing.

    Raises:
        EnvironmentLacks: naming the first thing and how many others there are.
    """
    failed = [check for check in found if not check.ok]
    if not failed:
        return
    first = failed[0]
    more = f" ({len(failed) - 1} more: run ambimesh check)" if len(failed) > 1 else ""
    raise EnvironmentLacks(f"{first.name}: {first.detail}; remedy: {first.remedy}{more}")


def kernel_version(release: str) -> tuple[int, int]:
    """Major and minor of a release such as ``6.1.0-18-amd64``."""
    parts = release.replace("-", ".").split(".")
    return int(parts[0]), int(parts[1])


def _root() -> FeatureCheck:
    if os.geteuid() == 0:
        return FeatureCheck("root", True, "yes", "")
    detail = "a lab is made of network namespaces and cgroups, which takes root"
    return FeatureCheck("root", False, detail, "run it with sudo")


def _program(name: str, remedy: str) -> FeatureCheck:
    found = shutil.which(name, path=_SYSTEM_PATH)
    return FeatureCheck(name, found is not None, found or "not installed", "" if found else remedy)


def _plugin(path: Path) -> FeatureCheck:
    ok = os.access(path, os.X_OK)
    detail = str(path) if ok else f"no {path}"
    remedy = "" if ok else "apt-get install containernetworking-plugins"
    return FeatureCheck(f"CNI plugin {path.name}", ok, detail, remedy)


def _namespaces() -> FeatureCheck:
    ok = Path("/proc/self/ns/net").exists()
    remedy = "" if ok else "use a kernel with CONFIG_NET_NS"
    return FeatureCheck("network namespaces", ok, "yes" if ok else "the kernel has none", remedy)


def load_bridge_filter() -> None:
    """Have the kernel show bridged packets to its filter.

    Where that is a module nobody has loaded yet, as on a Debian that has just been installed, it is loaded, and stays.
    Nothing happens where it is there, or is not to be had: `checks` tells of that.
    """
    if not _BRIDGE_FILTER.is_dir():
        _modprobe()


def _bridge_filter() -> FeatureCheck:
    # Without it, replies between two pods of one node would pass by the translation of Service addresses.
    name = "bridge filter"
    if _BRIDGE_FILTER.is_dir():
        return FeatureCheck(name, True, "yes", "")
    if _modprobe("--dry-run"):
        return FeatureCheck(name, True, f"module {_BRIDGE_MODULE}, which a lab loads", "")
    detail = "the kernel does not show bridged packets to its filter"
    return FeatureCheck(name, False, detail, f"modprobe {_BRIDGE_MODULE}")


def _modprobe(*options: str) -> bool:
    program = shutil.which("modprobe", path=_SYSTEM_PATH)
    if program is None:
        return False
    return subprocess.run([program, "-q", *options, _BRIDGE_MODULE], capture_output=True, check=False).returncode == 0


def _cgroups() -> FeatureCheck:
    try:
        hierarchy = cgroups.find_hierarchy()
    except EnvironmentLacks as error:
        what, _, remedy = str(error).partition("; remedy: ")
        return FeatureCheck("cgroup v2", False, what, remedy)
    if kernel_version(os.uname().release) < _OLDEST_KERNEL:
        return FeatureCheck("cgroup v2", False, "this kernel has no cgroup.kill", "use Linux 5.14 or newer")
    return FeatureCheck("cgroup v2", True, str(hierarchy), "")


def _compiled() -> FeatureCheck:
    """Not required: without, ztunnels run the same modules as plain Python, and need more processor time."""
    form = compiled.examine()
    return FeatureCheck("compiled ztunnel", True, form.detail if form.compiled else f"not used: {form.detail}", "")
