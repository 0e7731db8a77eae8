"""What the proxies ask the kernel about one connection; ``ebpf.connections`` answers."""

from __future__ import annotations

from typing import Protocol

from mesh.addresses import OriginalDestination, SocketAddress


class OriginalDestinations(Protocol):
    """What applications dialled."""

    @property
    def chosen(self) -> SocketAddress | None:
        """Of the connection taken last: the endpoint that the kernel drew for a service, if it did."""

    def take(self, accepted: int) -> OriginalDestination | None:
        """What was dialled, by the descriptor that ztunnel accepted; None where nobody was redirected."""


class Deliveries(Protocol):
    """For whom ztunnel dials applications."""

    def announce(self, connecting: int, client: SocketAddress) -> None:
        """The socket of this descriptor will connect for this client."""
