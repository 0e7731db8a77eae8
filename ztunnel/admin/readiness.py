"""Whether this ztunnel can carry traffic.

Looked at from the data path's own task: if the relay or trio's loop hangs, nobody answers, and the probe fails. Ready
means that the agent has named its pods and all of them are served, that the control plane has answered for addresses
and policies once, and that connections are not being refused for want of file descriptors.
"""

from __future__ import annotations

from mesh.relay.acceptor import Acceptor
from mesh.state.store import MeshState
from ztunnel.inpod.manager import PodManager


class Readiness:
    """Answers ``/healthz/ready``."""

    def __init__(self, state: MeshState, pods: PodManager) -> None:
        self._state = state
        self._pods = pods
        self._refused_before = 0
        self.draining = False

    def missing(self) -> list[str]:
        """What stands in the way, in words; empty when ready."""
        reasons = []
        if self.draining:
            reasons.append("draining")
        if not self._state.synchronized:
            reasons.append("the control plane has not sent workloads and policies yet")
        if not self._pods.snapshot_received:
            reasons.append("the node agent has not named its pods yet")
        if self._pods.pending:
            reasons.append(f"{len(self._pods.pending)} pods cannot be served yet")
        refused, self._refused_before = Acceptor.out_of_descriptors - self._refused_before, Acceptor.out_of_descriptors
        if refused:
            reasons.append(f"{refused} connections were refused for want of file descriptors")
        return reasons
