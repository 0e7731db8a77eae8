"""The waypoint itself as an end of tunnels."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from mesh.errors import EnvironmentLacks
from mesh.identity import SpiffeId
from mesh.relay.owned_tasks import OwnedTasks


class OwnNamespace:
    """The network namespace that this process runs in."""

    def socket(self, family: int, kind: int, proto: int = 0) -> socket.socket:
        """See ``mesh.relay.host.SocketMaker``."""
        try:
            return socket.socket(family, kind, proto)
        except OSError as error:
            raise EnvironmentLacks(f"no socket can be made: {error.strerror}") from error


@dataclass(frozen=True, slots=True)
class WaypointHost:
    """See ``mesh.relay.host.TunnelHost``."""

    name: str
    identity: SpiffeId
    tasks: OwnedTasks
    namespace: OwnNamespace
