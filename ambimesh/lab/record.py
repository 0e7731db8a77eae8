"""What a running lab is, as ``lab up`` noted it for every later command."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec

from ambimesh.lab.layout import LabLayout, NodeLayout
from mesh.config import Settings
from mesh.errors import ConfigurationError

DEFAULT_CERTIFICATE_SECONDS = 24 * 3600


class ProcessSettings(Settings, frozen=True, kw_only=True):
    """What configurations of the lab's processes say beside what the lab itself writes there (``--settings``)."""

    operator: dict[str, Any] = msgspec.field(default_factory=dict)
    """Keys of ``operator/controlplane/config.py``."""
    ztunnel: dict[str, Any] = msgspec.field(default_factory=dict)
    """Keys of ``ztunnel/config.py``, for every node's ztunnel."""
    waypoint: dict[str, Any] = msgspec.field(default_factory=dict)
    """Keys of ``waypoint/config.py``, for every waypoint."""


class LabRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Written first, removed last."""

    name: str
    nodes: int
    mesh: bool
    """Whether the mesh's own processes run in it."""
    cgroup: str
    """The lab's folder in the cgroup v2 hierarchy."""
    certificate_lifetime_seconds: int = DEFAULT_CERTIFICATE_SECONDS
    """What ztunnels ask the operator for."""
    workers: int | Literal["auto"] | None = None
    """Processes of each ztunnel that move bytes; None leaves it to ztunnel's own default."""
    settings: ProcessSettings = ProcessSettings()


class Lab:
    """A lab that was brought up: its layout and its record."""

    def __init__(self, layout: LabLayout, record: LabRecord) -> None:
        self.layout = layout
        self.record = record

    @property
    def nodes(self) -> tuple[NodeLayout, ...]:
        """Its nodes."""
        return self.layout.nodes(self.record.nodes)

    @property
    def cgroup(self) -> Path:
        """Its folder in the cgroup hierarchy."""
        return Path(self.record.cgroup)

    def node(self, name: str) -> NodeLayout:
        """The node of this name.

        Raises:
            ConfigurationError: there is none.
        """
        for node in self.nodes:
            if node.name == name:
                return node
        raise ConfigurationError(f"lab {self.layout.name} has no node {name!r}: its last is node{self.record.nodes}")

    def node_cgroup(self, node: NodeLayout) -> Path:
        """A node's folder in the cgroup hierarchy: where the mesh's programs are attached."""
        return self.cgroup / node.name

    def pod_cgroup(self, node: NodeLayout, namespace: str, pod: str) -> Path:
        """A pod's folder in the cgroup hierarchy."""
        return self.node_cgroup(node) / "pods" / f"{namespace}_{pod}"


def find(layout: LabLayout) -> Lab | None:
    """The lab of this layout, if one was brought up (whole or not)."""
    try:
        content = layout.record.read_bytes()
    except FileNotFoundError:
        return None
    try:
        return Lab(layout, msgspec.json.decode(content, type=LabRecord))
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise ConfigurationError(f"{layout.record} is not readable: {error}; remove the lab by hand") from error


def require(layout: LabLayout) -> Lab:
    """The lab of this layout.

    Raises:
        ConfigurationError: it is not up.
    """
    lab = find(layout)
    if lab is None:
        raise ConfigurationError(f"there is no lab {layout.name}; bring one up: ambimesh lab up")
    return lab


def write(lab: Lab) -> None:
    """Note a lab."""
    lab.layout.record.write_bytes(msgspec.json.encode(lab.record))
