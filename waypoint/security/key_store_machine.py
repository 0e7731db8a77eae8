"""When key sets are fetched, and how long they are good: a cache without I/O or clock.

A set is fetched when somebody names its address, again every ``refresh_seconds``, and at once when a token names a key
that is not in it, though not more often than every ``unknown_key_seconds``: whoever sends tokens must not make a
waypoint hammer the issuer. A failed fetch is tried again with growing pauses; meanwhile the former keys stay good, up
to ``stale_seconds``: an issuer that hangs must not lock everybody out, a key that was withdrawn must not live for ever.
"""

from __future__ import annotations

from dataclasses import dataclass

from mesh.backoff import Backoff
from waypoint.security.key_set_codec import KeySet

_BACKOFF = Backoff(initial=1.0, maximum=60.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyStoreLimits:
    """Times in seconds."""

    refresh_seconds: float = 1200.0
    """Istio's ``PILOT_JWT_PUB_KEY_REFRESH_INTERVAL``."""
    unknown_key_seconds: float = 10.0
    stale_seconds: float = 86_400.0
    unused_seconds: float = 7200.0
    """An address that nobody has named for so long is forgotten."""
    backoff: Backoff = _BACKOFF
    max_addresses: int = 1000


class _Kept:
    __slots__ = ("due", "failures", "fetched", "fetching", "keys", "started", "used")

    def __init__(self, now: float) -> None:
        self.keys: KeySet | None = None
        self.fetched = now
        self.started = -1e9
        self.due = now
        self.failures = 0
        self.fetching = False
        self.used = now


class KeyStoreMachine:
    """Key sets by address."""

    def __init__(self, limits: KeyStoreLimits = KeyStoreLimits()) -> None:
        self._limits = limits
        self._kept: dict[str, _Kept] = {}

    def keys(self, uri: str, now: float) -> KeySet | None:
        """The keys of an address, if they have been fetched and are not too old. Does not ask for any."""
        kept = self._kept.get(uri)
        if kept is None or kept.keys is None or now - kept.fetched > self._limits.stale_seconds:
            return None
        kept.used = now
        return kept.keys

    def wanted(self, uri: str, now: float) -> bool:
        """Somebody needs the keys of an address. Returns whether there is room for it."""
        kept = self._kept.get(uri)
        if kept is None:
            if len(self._kept) >= self._limits.max_addresses:
                return False
            kept = self._kept[uri] = _Kept(now)
        kept.used = now
        return True

    def key_unknown(self, uri: str, now: float) -> bool:
        """A token names a key that is not in the set. Returns whether a fetch comes of it: worth waiting for."""
        if not self.wanted(uri, now):
            return False
        kept = self._kept[uri]
        if kept.fetching:
            return True
        # A failing address has its own pace.
        if kept.failures or now - kept.started < self._limits.unknown_key_seconds:
            return False
        kept.due = now
        return True

    def pending(self, uri: str) -> bool:
        """Whether a fetch is under way or due at once."""
        kept = self._kept.get(uri)
        return kept is not None and (kept.fetching or kept.due <= kept.used)

    def due(self, now: float) -> list[str]:
        """The addresses to fetch now; each counts as being fetched until ``fetched`` or ``failed``."""
        starting = []
        for uri, kept in list(self._kept.items()):
            if kept.fetching or kept.due > now:
                continue
            if now - kept.used > self._limits.unused_seconds:
                del self._kept[uri]
                continue
            kept.fetching, kept.started = True, now
            starting.append(uri)
        return starting

    def next_due(self) -> float | None:
        """When ``due`` is to be asked again; None: not before something else happens."""
        times = [kept.due for kept in self._kept.values() if not kept.fetching]
        return min(times) if times else None

    def fetched(self, uri: str, keys: KeySet, now: float) -> None:
        """A fetch has succeeded."""
        kept = self._kept.get(uri)
        if kept is not None:
            kept.keys, kept.fetched, kept.fetching, kept.failures = keys, now, False, 0
            kept.due = now + self._limits.refresh_seconds

    def failed(self, uri: str, now: float, random: float) -> None:
        """A fetch has failed.

        Args:
            uri: whose.
            now: when.
            random: at least 0, less than 1; spreads replicas that lost the same issuer.
        """
        kept = self._kept.get(uri)
        if kept is not None:
            kept.fetching = False
            kept.failures += 1
            kept.due = now + self._limits.backoff.delay(kept.failures, random)
