"""Keeps the kernel's idea of which cgroups are ztunnel's and kubelet's right.

The programs know a cgroup by its number, and a cgroup that is made anew under its old name (kubelet restarted by
systemd, ztunnel by its launcher) has another number. Until the programs learn of it kubelet's probes look like
anybody's plaintext, and ztunnel's own connections are captured. Control groups have no event for this, so they are
looked at.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Never

import structlog
import trio

from ebpf.programs_driver import set_caller_roles
from ebpf.settings import NodeSettings
from mesh.errors import MeshError

_log = structlog.get_logger("roles")

_INTERVAL = 1.0
"""Seconds between looks; each is one ``stat`` per cgroup."""


async def keep_caller_roles(settings: NodeSettings) -> Never:
    """Tell the programs whenever one of the cgroups was made anew; those that are missing keep their old number."""
    cgroups = (*settings.ztunnel_cgroups, *settings.kubelet_cgroups)
    told = _numbers(cgroups)
    while True:
        await trio.sleep(_INTERVAL)
        found = _numbers(cgroups)
        if None in found or found == told:
            continue
        try:
            set_caller_roles(settings.paths, settings.ztunnel_cgroups, settings.kubelet_cgroups)
        except MeshError as error:
            _log.error("the programs do not know a new cgroup", reason=str(error))
            continue
        _log.info("cgroups made anew were told to the programs")
        told = found


def _numbers(cgroups: Iterable[Path]) -> list[int | None]:
    return [_number(cgroup) for cgroup in cgroups]


def _number(cgroup: Path) -> int | None:
    try:
        return os.stat(cgroup).st_ino
    except OSError:
        return None
