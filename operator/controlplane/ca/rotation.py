"""A self-made root over time: made, trusted beside the next one, replaced by it, and trusted for a while longer. Pure.

Theory of operation. A certificate is worth something to those who trust its root, and these learn of roots when they
renew their own certificates, half a life at the latest. So a new root is trusted first (``next``), by everybody who
renews; only after the *spread*, which is longer than that takes, does it sign. The old root stays trusted until the
last certificate it signed has expired. At no moment does anybody meet a certificate whose root it does not know.

A rotation begins when the root is near its end, or when somebody asks for it by a text they have not used before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from cryptography import x509

BEFORE_END = timedelta(days=365)
"""How long before its end a root is replaced."""


@dataclass(frozen=True, slots=True)
class Retired:
    """A root that signs no more and is still trusted."""

    certificate: bytes
    """PEM."""
    until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class RootRecord:
    """Everything that is kept of a self-made root."""

    certificate: bytes
    """PEM; signs."""
    key: bytes
    """PEM."""
    sessions: bytes
    """A secret of all replicas, which stays when the root changes."""
    next_certificate: bytes = b""
    next_key: bytes = b""
    next_since: datetime | None = None
    retired: tuple[Retired, ...] = ()
    followed: str = ""
    """The last request for a rotation that was followed."""

    @property
    def bundle(self) -> bytes:
        """PEM of all roots to trust."""
        return b"".join((self.certificate, self.next_certificate, *(one.certificate for one in self.retired)))


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast roots follow one another."""

    spread: timedelta
    """From trusting the next root to signing with it: longer than anybody takes to renew."""
    afterlife: timedelta
    """How long an old root is trusted: the longest life of a certificate."""


def advance(
    record: RootRecord, request: str, now: datetime, pace: Pace, make_root: Callable[[], tuple[bytes, bytes]]
) -> RootRecord:
    """The record as it should be now; the same one where nothing is due.

    Args:
        record: as it is kept.
        request: what somebody wrote to have the root replaced; empty for nothing.
        now: the wall clock.
        pace: how long the steps take.
        make_root: a new root: certificate and key, PEM.
    """
    kept = tuple(one for one in record.retired if one.until > now)
    if kept != record.retired:
        record = replace(record, retired=kept)
    if record.next_since is None:
        asked = bool(request) and request != record.followed
        if not asked and x509.load_pem_x509_certificate(record.certificate).not_valid_after_utc - now > BEFORE_END:
            return record
        certificate, key = make_root()
        return replace(
            record,
            next_certificate=certificate,
            next_key=key,
            next_since=now,
            followed=request if asked else record.followed,
        )
    if now - record.next_since < pace.spread:
        return record
    return RootRecord(
        certificate=record.next_certificate,
        key=record.next_key,
        sessions=record.sessions,
        retired=(Retired(record.certificate, now + pace.afterlife), *record.retired),
        followed=record.followed,
    )
