"""Circuit breaking: how much may be under way to one service (or subset) from this replica at a time.

Each ``take_*`` counts up and says whether there was room; what was taken is given back by the method of that name.
Nothing waits here: who finds no room answers 503 (``UO``).
"""

from __future__ import annotations

from mesh.model.upstream_policy import ConnectionPool


class Limits:
    """The counters of one service or subset."""

    __slots__ = ("connections", "limits", "overflows", "pending", "requests", "retries")

    def __init__(self, limits: ConnectionPool) -> None:
        self.limits = limits
        """May be replaced; counters stay."""
        self.connections = 0
        self.pending = 0
        """Requests that wait for a connection."""
        self.requests = 0
        """Under way, without those that wait."""
        self.retries = 0
        self.overflows = 0
        """How often there was no room, for metrics."""

    def take_connection(self) -> bool:
        """Before a connection is made."""
        if self.connections >= self.limits.max_connections:
            self.overflows += 1
            return False
        self.connections += 1
        return True

    def give_connection(self) -> None:
        """It has ended."""
        self.connections -= 1

    def take_pending(self) -> bool:
        """Before a request waits for a connection."""
        if self.pending >= self.limits.max_pending_requests:
            self.overflows += 1
            return False
        self.pending += 1
        return True

    def give_pending(self) -> None:
        """It waits no longer."""
        self.pending -= 1

    def take_request(self) -> bool:
        """Before a request is sent."""
        if self.requests >= self.limits.max_requests:
            self.overflows += 1
            return False
        self.requests += 1
        return True

    def give_request(self) -> None:
        """It is over."""
        self.requests -= 1

    def take_retry(self) -> bool:
        """Before a request is tried again."""
        if self.retries >= self.limits.max_retries:
            self.overflows += 1
            return False
        self.retries += 1
        return True

    def give_retry(self) -> None:
        """That attempt is over."""
        self.retries -= 1
