"""Whether this ztunnel can carry traffic.

Ready means that the agent has named its pods and all of them are served, and that the control plane has answered for
addresses and policies once.
"""

from __future__ import annotations

from collections.abc import Iterator

from mesh.readiness import ProxyReadiness
from mesh.state.store import MeshState
from ztunnel.inpod.manager import PodManager


class Readiness(ProxyReadiness):
    """Answers ``/healthz/ready``."""

    def __init__(self, state: MeshState, pods: PodManager) -> None:
        super().__init__()
        self._state = state
        self._pods = pods

    def waits_for(self) -> Iterator[str]:
        """See :class:`ProxyReadiness`."""
        if not self._state.synchronized:
            yield "the control plane has not sent workloads and policies yet"
        if not self._pods.snapshot_received:
            yield "the node agent has not named its pods yet"
        if self._pods.pending:
            yield f"{len(self._pods.pending)} pods cannot be served yet"
