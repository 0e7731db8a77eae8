"""What the slow path tells the fast path."""

from __future__ import annotations

from typing import Protocol

from mesh.addresses import OriginalDestination
from mesh.rbac import ConnectionFacts
from mesh.state.routes import ToWorkload
from ztunnel.pod import Pod


class FastPathMemory(Protocol):
    """Whoever remembers, or passes on to who remembers: the writer of the kernel's verdicts is one per node."""

    def pod_started(self, pod: Pod) -> None:
        """A pod is served from now on."""

    def pod_stopped(self, pod: Pod) -> None:
        """A pod is not served any more."""

    def admitted(self, destination: Pod, facts: ConnectionFacts) -> None:
        """A connection through a tunnel was admitted and delivered."""

    def dialled_service(self, source: Pod, dialled: OriginalDestination, upstream: ToWorkload) -> None:
        """A pod has dialled a service and was sent to one of its endpoints."""
