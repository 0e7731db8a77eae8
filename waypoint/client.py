"""Who makes a request, as far as the waypoint can prove or find out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from mesh.addresses import PeerAddress, SocketAddress
from mesh.identity import SpiffeId
from mesh.model.workload import Workload

_NO_LABELS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """One client connection: the same for all of its requests."""

    identity: SpiffeId | None
    """Proven by the tunnel's handshake; None on a listener without mutual TLS."""
    address: PeerAddress
    """The client's own address; its port is the word of its ztunnel."""
    destination: SocketAddress
    """What was dialled: the service's virtual address or the workload's own."""
    workload: Workload | None = None
    """Who has that address, if the control plane has said so."""
    labels: Mapping[str, str] = field(default_factory=lambda: _NO_LABELS)
    """The workload's."""

    @property
    def namespace(self) -> str:
        """The proven identity's, else the workload's; empty if neither is known."""
        if self.identity is not None:
            return self.identity.namespace
        return "" if self.workload is None else self.workload.namespace
