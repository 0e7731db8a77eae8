"""Configuration files of the lab's stand-ins."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from mesh.config import Settings


class LogSettings(Settings, frozen=True, kw_only=True):
    """How a process logs."""

    level: str = "info"
    format: Literal["text", "json"] = "text"


class KubeletSettings(Settings, frozen=True, kw_only=True):
    """A node's kubelet stand-in."""

    lab: str
    state_root: Path
    node: int
    """The node's number, from 1."""
    cgroup: Path
    """The node's folder in the cgroup hierarchy."""
    log: LogSettings = LogSettings()


class ControllerSettings(Settings, frozen=True, kw_only=True):
    """The stand-in for scheduler and controllers."""

    lab: str
    state_root: Path
    nodes: int
    log: LogSettings = LogSettings()
