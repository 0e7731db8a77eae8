"""For whom tunnels are opened and accepted: a pod that ztunnel serves, or a waypoint itself."""

from __future__ import annotations

import socket
from typing import Protocol

from mesh.identity import SpiffeId
from mesh.relay.owned_tasks import OwnedTasks


class SocketMaker(Protocol):
    """A network namespace, as far as dialling out of it goes (``mesh.netns.NetworkNamespace``)."""

    def socket(self, family: int, kind: int, proto: int = 0) -> socket.socket:
        """Make a socket there.

        Raises:
            EnvironmentLacks: it cannot be.
        """
        ...


class TunnelHost(Protocol):
    """One end of tunnels."""

    @property
    def name(self) -> str:
        """``namespace/name``, as people write it."""
        ...

    @property
    def identity(self) -> SpiffeId:
        """What it proves to be in handshakes."""
        ...

    @property
    def namespace(self) -> SocketMaker:
        """Where its sockets are made."""
        ...

    @property
    def tasks(self) -> OwnedTasks:
        """What runs on its behalf."""
        ...
