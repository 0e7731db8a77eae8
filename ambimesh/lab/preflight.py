"""What a lab needs of the machine, looked at before anything is made."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ambimesh.lab import cgroups
from ambimesh.lab.layout import CNI_PROGRAMS
from mesh.errors import EnvironmentLacks

_PROGRAMS = {
    "ip": "apt-get install iproute2",
    "nft": "apt-get install nftables",
    "sysctl": "apt-get install procps",
    "mount": "apt-get install mount",
}
_PLUGINS = ("bridge", "host-local")


@dataclass(frozen=True, slots=True)
class Lack:
    """Something that is missing."""

    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what}; remedy: {self.remedy}"


def lacks() -> list[Lack]:
    """Everything the lab itself (without the mesh) needs and this machine does not have."""
    found: list[Lack] = []
    if os.geteuid() != 0:
        found.append(Lack("a lab is made of network namespaces and cgroups, which takes root", "run it with sudo"))
    for program, remedy in _PROGRAMS.items():
        if shutil.which(program, path="/usr/sbin:/usr/bin:/sbin:/bin") is None:
            found.append(Lack(f"the program {program} is not installed", remedy))
    found += [
        Lack(f"the CNI plugin {path} is not installed", "apt-get install containernetworking-plugins")
        for path in (CNI_PROGRAMS / plugin for plugin in _PLUGINS)
        if not os.access(path, os.X_OK)
    ]
    if not Path("/proc/sys/net/bridge").is_dir():
        found.append(Lack("the kernel does not show bridged packets to its filter", "modprobe br_netfilter"))
    if not Path("/proc/self/ns/net").exists():
        found.append(Lack("the kernel has no network namespaces", "use a kernel with CONFIG_NET_NS"))
    try:
        hierarchy = cgroups.find_hierarchy()
    except EnvironmentLacks as error:
        what, _, remedy = str(error).partition("; remedy: ")
        found.append(Lack(what, remedy))
    else:
        if not any((folder / "cgroup.kill").exists() for folder in hierarchy.iterdir() if folder.is_dir()):
            # The file exists in every cgroup but the root; with none to look at, the kernel's version has to do.
            release = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])
            if release < (5, 14):
                found.append(Lack("the kernel has no cgroup.kill", "use Linux 5.14 or newer"))
    return found


def require(found: Iterable[Lack]) -> None:
    """Refuse to go on when something is missing.

    Raises:
        EnvironmentLacks: naming the first thing and how many others there are.
    """
    found = list(found)
    if not found:
        return
    more = f" ({len(found) - 1} more: run ambimesh check)" if len(found) > 1 else ""
    raise EnvironmentLacks(f"{found[0]}{more}")
