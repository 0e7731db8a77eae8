"""Where a connection can go: the answers of ``mesh.state.upstream``."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from mesh import ports
from mesh.addresses import HboneTarget, SocketAddress
from mesh.identity import SpiffeId
from mesh.model.workload import Workload

MESH_PORTS = frozenset({ports.OUTBOUND, ports.PLAINTEXT, ports.HBONE})
"""Ports of ztunnel's own listeners in every enrolled pod."""


class PassthroughReason(enum.Enum):
    """Why a connection leaves the mesh as plain TCP."""

    UNKNOWN_DESTINATION = "the destination is neither a workload nor a service of the mesh"
    PASSTHROUGH_SERVICE = "the service leaves the choice of address to the client"


@dataclass(frozen=True, slots=True)
class Passthrough:
    """Dial the original destination, plain."""

    address: SocketAddress
    reason: PassthroughReason


@dataclass(frozen=True, slots=True)
class ToWorkload:
    """Go to one workload."""

    workload: Workload
    target: HboneTarget
    """The workload's address and the application's port: what CONNECT names, or what is dialled without a tunnel."""
    tunnel: SocketAddress | None
    """Where its HBONE listener is; None: it speaks none, dial ``target`` plain."""
    expected_identities: frozenset[SpiffeId | str]
    """Any of which the far end must prove in the tunnel."""
    service_key: str | None
    """``namespace/hostname`` of the service that was dialled; None when the workload itself was."""
    waypoint: bool = False
    """The workload is a waypoint on the way: ``target`` is what was dialled, and not its own address."""

    @property
    def service_hostname(self) -> str | None:
        """The dialled service's host name."""
        return None if self.service_key is None else self.service_key.partition("/")[2]


Upstream = Passthrough | ToWorkload
