"""A given authority over time: one replaced by another without a moment at which somebody is not believed. Pure.

Theory of operation. Whoever gives the mesh an authority replaces it by writing another one in its place, in one step.
Those who verify certificates hear of roots with their own next certificate, half a life later at the most. So a root
that nobody has heard of is trusted first, and only after the *spread* does what it vouches for sign; until then the one
before signs on, which is why that one is kept, with its key, apart from where the new one was written. What no longer
signs stays trusted until the last certificate of its has expired. A new intermediate of a root that is known signs at
once, and so does what was made trusted beforehand.

The self-made root is an authority like any other here, so that going from it to a given one, and back, is the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from controlplane.ca.chain import is_issued_by
from controlplane.ca.rotation import Pace

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
"""Since when a root is trusted that was there before anybody counted."""


@dataclass(frozen=True, slots=True)
class Signer:
    """What signs; all of it PEM."""

    chain: bytes
    """The signing certificate first, then up to its root, with or without it."""
    key: bytes
    roots: bytes
    """To be trusted with it."""


@dataclass(frozen=True, slots=True)
class Trusted:
    """A root, and for how long it is one."""

    certificate: bytes
    """PEM."""
    since: datetime
    until: datetime | None = None
    """None: as long as what signs, or is to sign, names it."""


@dataclass(frozen=True, slots=True)
class Succession:
    """What signs now, and whom to trust."""

    signer: Signer
    trusted: tuple[Trusted, ...]

    @property
    def bundle(self) -> bytes:
        """PEM of all roots to trust."""
        return b"".join(one.certificate for one in self.trusted)


def begun(signer: Signer, since: datetime) -> Succession:
    """A succession of one, whose roots are trusted since then."""
    return Succession(signer, tuple(Trusted(root, since) for root in _split(signer.roots)))


def advance(before: Succession, wished: Signer, now: datetime, pace: Pace, *, at_once: bool = False) -> Succession:
    """The succession as it should be now; the same one where nothing is due.

    Args:
        before: as it is kept.
        wished: what is to sign; readable, and leading to its roots.
        now: the wall clock.
        pace: how long the steps take.
        at_once: do not wait until everybody has heard of the new roots: the old key is not to be used any more.
    """
    known = {one.certificate: one for one in before.trusted}
    wanted = _split(wished.roots)
    for root in wanted:
        known.setdefault(root, Trusted(root, now))
    signer = wished if at_once or _may_sign(before.signer, wished, known, now, pace) else before.signer
    in_force = {*wanted, *_split(signer.roots)}
    trusted = []
    for root, one in known.items():
        until = None if root in in_force else one.until or now + pace.afterlife
        if until is None or until > now:
            trusted.append(Trusted(root, one.since, until))
    after = Succession(signer, tuple(trusted))
    return before if after == before else after


def _may_sign(present: Signer, wished: Signer, known: dict[bytes, Trusted], now: datetime, pace: Pace) -> bool:
    if (present.chain, present.key) == (wished.chain, wished.key):
        return True
    if x509.load_pem_x509_certificate(present.chain).not_valid_after_utc <= now:
        return True  # it vouches for nobody any more
    last = x509.load_pem_x509_certificates(wished.chain)[-1]
    for one in known.values():
        root = x509.load_pem_x509_certificate(one.certificate)
        if (last == root or is_issued_by(last, root)) and one.since + pace.spread <= now:
            return True
    return False


def _split(pem: bytes) -> tuple[bytes, ...]:
    """Certificates one by one, each written in one way; each once."""
    found = (each.public_bytes(serialization.Encoding.PEM) for each in x509.load_pem_x509_certificates(pem))
    return tuple(dict.fromkeys(found))
