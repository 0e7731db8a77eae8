"""Which of several replicas writes: a Lease in the API, and what to do with it. Pure.

Theory of operation. The holder writes the Lease anew every few seconds. Another replica takes it when it has not
changed for the whole of its duration, measured by that replica's own monotonic clock from when it saw the last change:
nobody's wall clock is compared with anybody else's. Writes name the version that was read, so of two replicas that try
at once one is refused. A holder that cannot write stops being one well before anybody else can take the Lease, since it
counts from when its last write was begun and gives up earlier than the others start.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

LEASE_SECONDS = 15.0
"""Unchanged for so long, the Lease is anybody's."""
GIVE_UP_SECONDS = 10.0
"""A holder whose last write is older is none."""
RETRY_SECONDS = 2.0


class LeaseSpec(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """``coordination.k8s.io/v1``, what is said of the holder."""

    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    acquire_time: str | None = None
    renew_time: str | None = None
    lease_transitions: int | None = None


@dataclass(frozen=True, slots=True)
class Read:
    """The Lease as it was read."""

    spec: LeaseSpec
    resource_version: str


@dataclass(frozen=True, slots=True)
class Write:
    """Write the Lease so."""

    spec: LeaseSpec
    resource_version: str
    """That must still be its version; empty: it must not exist."""


class LeaseMachine:
    """One replica's view."""

    def __init__(self, identity: str) -> None:
        self.identity = identity
        self._seen: Read | None = None
        self._seen_at = 0.0
        self._written_at: float | None = None

    def holds(self, now: float) -> bool:
        """Whether this replica may write.

        Args:
            now: seconds on the monotonic clock.
        """
        return self._written_at is not None and now - self._written_at < GIVE_UP_SECONDS

    def decide(self, found: Read | None, now: float, wall: str) -> Write | None:
        """What to write, given what was read just now; None: it is somebody else's.

        Args:
            found: the Lease; None if there is none.
            now: seconds on the monotonic clock.
            wall: the wall clock as the API writes it, for people to read.
        """
        if found is None:
            return Write(self._spec(wall, wall, 0), "")
        if self._seen is None or self._seen.resource_version != found.resource_version:
            self._seen, self._seen_at = found, now
        spec = found.spec
        transitions = spec.lease_transitions or 0
        if spec.holder_identity == self.identity:
            return Write(self._spec(spec.acquire_time or wall, wall, transitions), found.resource_version)
        duration = max(float(spec.lease_duration_seconds or 0), LEASE_SECONDS)
        if not spec.holder_identity or now - self._seen_at >= duration:
            return Write(self._spec(wall, wall, transitions + 1), found.resource_version)
        self._written_at = None
        return None

    def written(self, begun: float) -> None:
        """A write succeeded that was begun at this time."""
        self._written_at = begun

    def lost(self) -> None:
        """A write was refused, since somebody else wrote."""
        self._written_at = None

    def release(self, found: Read, wall: str) -> Write | None:
        """What to write when this replica ends, so that the next one need not wait."""
        self._written_at = None
        if found.spec.holder_identity != self.identity:
            return None
        spec = LeaseSpec(
            holder_identity="",
            lease_duration_seconds=1,
            renew_time=wall,
            acquire_time=found.spec.acquire_time,
            lease_transitions=found.spec.lease_transitions,
        )
        return Write(spec, found.resource_version)

    def _spec(self, acquired: str, renewed: str, transitions: int) -> LeaseSpec:
        return LeaseSpec(
            holder_identity=self.identity,
            lease_duration_seconds=int(LEASE_SECONDS),
            acquire_time=acquired,
            renew_time=renewed,
            lease_transitions=transitions,
        )
