"""Whether a proxy can carry traffic.

Looked at from the data path's own task: if the relay or trio's loop hangs, nobody answers, and the probe fails.
"""

from __future__ import annotations

from collections.abc import Iterator

from mesh.relay.acceptor import Acceptor


class ProxyReadiness:
    """What answers ``/healthz/ready``; a proxy adds what it waits for."""

    def __init__(self) -> None:
        self._refused_before = 0
        self.draining = False

    def waits_for(self) -> Iterator[str]:
        """What this proxy does not have yet, in words."""
        raise NotImplementedError

    def missing(self) -> list[str]:
        """What stands in the way, in words; empty when ready."""
        reasons = ["draining"] if self.draining else []
        reasons += self.waits_for()
        refused, self._refused_before = Acceptor.out_of_descriptors - self._refused_before, Acceptor.out_of_descriptors
        if refused:
            reasons.append(f"{refused} connections were refused for want of file descriptors")
        return reasons
