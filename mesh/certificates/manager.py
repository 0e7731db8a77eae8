"""Keeps valid credentials at hand for every identity that runs on this node.

Each identity moves between three states: *initializing* (no credentials yet), *available* (valid ones), *unavailable*
(none, and the last attempt failed). An identity that workloads refer to is fetched ahead of its first connection,
renewed at half of its certificate's remaining life, and dropped with its last workload.

Whether a certificate is valid or due is asked of the wall clock, and asked again every few seconds rather than slept
for: the monotonic clock stands still while a machine is suspended, and a sleep until half life would then be late.

A failed renewal changes nothing about a certificate that is still valid. Attempts for one identity are spaced by an
exponential backoff; attempts for all of them are limited in number at a time, and those that a connection waits for go
first, then those of new workloads, then renewals.
"""

from __future__ import annotations

import enum
import heapq
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import count
from typing import Never

import structlog
import trio

from mesh.backoff import Backoff
from mesh.certificates.ca_client import CaClient
from mesh.clock import Clock
from mesh.errors import CertificateServiceAway, IdentityUnavailable, InternalError, MeshError
from mesh.identity import SpiffeId
from mesh.tls.credentials import Credentials

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentitySettings:
    """How eagerly certificates are fetched."""

    concurrency: int = 8
    """Requests under way at a time."""
    backoff: Backoff = field(default_factory=lambda: Backoff(initial=0.5, maximum=150.0))
    """Between attempts for one identity."""
    most_while_away: float = 15.0
    """Seconds between attempts, at most, while the service is away: pods that start meanwhile wait for its return."""
    patience_seconds: float = 5.0
    """So long after a first failure connections wait for the next attempt instead of failing with the last one."""
    attempt_seconds: float = 60.0
    """After which an attempt counts as failed."""
    check_seconds: float = 5.0
    """At least so often the wall clock is looked at."""


class Priority(enum.IntEnum):
    """What is fetched first."""

    REAL_TIME = 0
    """A connection waits."""
    WARMUP = 1
    """A workload has appeared."""
    BACKGROUND = 2
    """A renewal."""


class CertificateState(enum.Enum):
    """Of one identity, as the admin endpoint shows it."""

    INITIALIZING = "Initializing"
    AVAILABLE = "Available"
    UNAVAILABLE = "Unavailable"


@dataclass(frozen=True, slots=True)
class CertificateReport:
    """One identity, for the admin endpoint."""

    identity: SpiffeId
    state: CertificateState
    credentials: Credentials | None
    """Present when available."""
    renew_at: datetime | None
    error: str | None
    """Why the last attempt failed; an available certificate may carry one too."""


@dataclass(slots=True, eq=False)
class _Entry:
    identity: SpiffeId
    references: int = 0
    credentials: Credentials | None = None
    expires: float = 0.0
    renew_at: float = 0.0
    error: MeshError | None = None
    failures: int = 0
    failing_since: float = 0.0
    """Monotonic: the first of the failures in a row."""
    not_before: float = 0.0
    """Monotonic: no attempt earlier."""
    queued: Priority | None = None
    running: bool = False
    settled: trio.Event = field(default_factory=trio.Event)
    """The attempt that is queued or running has ended."""


class IdentityManager:
    """Credentials by identity. ``run`` must be running for anything to be fetched."""

    def __init__(
        self, client: CaClient, clock: Clock, random: Callable[[], float], settings: IdentitySettings | None = None
    ) -> None:
        """Start with nothing.

        Args:
            client: makes credentials.
            clock: both senses of it.
            random: uniform in [0, 1), for jitter.
            settings: default: as documented.
        """
        self._client = client
        self._clock = clock
        self._random = random
        self._settings = settings or IdentitySettings()
        self._entries: dict[SpiffeId, _Entry] = {}
        self._queue: list[tuple[Priority, int, _Entry]] = []
        self._order = count()
        self._running = 0
        self._wake = trio.Event()
        self._subscribers: dict[object, Callable[[Credentials], None]] = {}

    # -- for connections -----------------------------------------------------------------------------------------------

    def cached(self, identity: SpiffeId) -> Credentials | None:
        """Valid credentials if they are at hand. For the path of a connection: never waits, well under 1 us."""
        entry = self._entries.get(identity)
        if entry is None or entry.expires <= self._clock.wall():
            return None
        return entry.credentials

    async def get(self, identity: SpiffeId) -> Credentials:
        """Valid credentials, fetched first if need be.

        An operator that is being replaced is back within seconds, and may hear of a new pod a moment after it runs: so
        nobody is refused at the first failure. When attempts have failed for longer, all are refused at once.

        Raises:
            IdentityUnavailable: the attempt failed, or a recent one did and the next one comes too late to wait for.
        """
        patience_ends = None
        while (credentials := self.cached(identity)) is None:
            entry = self._entry(identity)
            wait = entry.not_before - self._clock.monotonic()
            if entry.error is not None and wait > 0 and not entry.running and entry.queued is None:
                if patience_ends is None:
                    patience_ends = entry.failing_since + self._settings.patience_seconds
                if entry.not_before > patience_ends:
                    raise IdentityUnavailable(f"{entry.error} (next attempt in {wait:.1f} s)") from entry.error
                await trio.sleep(wait)
                continue
            self._enqueue(entry, Priority.REAL_TIME)
            await entry.settled.wait()
            if entry.credentials is not None and entry.expires > self._clock.wall():
                return entry.credentials  # Also if its last workload has gone meanwhile.
            if entry.error is None or self._entries.get(identity) is not entry:
                raise IdentityUnavailable(str(entry.error or f"no certificate for {identity}")) from entry.error
        return credentials

    # -- for the life of workloads -------------------------------------------------------------------------------------

    def prefetch(self, identity: SpiffeId) -> None:
        """A workload with this identity runs here now; balanced by one ``forget``."""
        entry = self._entry(identity)
        entry.references += 1
        if entry.credentials is None and entry.failures == 0:
            self._enqueue(entry, Priority.WARMUP)

    def forget(self, identity: SpiffeId) -> None:
        """A workload with this identity has gone; with the last one, so do the credentials."""
        entry = self._entries.get(identity)
        if entry is None or entry.references == 0:
            raise InternalError(f"forget({identity}) without a prefetch before it")
        entry.references -= 1
        if entry.references == 0:
            del self._entries[identity]  # Who waits for a running attempt still gets its outcome.

    def subscribe(self, subscriber: Callable[[Credentials], None]) -> Callable[[], None]:
        """Be given new credentials as they arrive; call the result to stop.

        The subscriber must neither raise nor block.
        """
        token = object()
        self._subscribers[token] = subscriber

        def unsubscribe() -> None:
            self._subscribers.pop(token, None)

        return unsubscribe

    def report(self) -> list[CertificateReport]:
        """All identities at hand, for the admin endpoint, sorted by identity."""
        now = self._clock.wall()
        return [_report(self._entries[identity], now) for identity in sorted(self._entries, key=str)]

    # -- fetching ------------------------------------------------------------------------------------------------------

    async def run(self) -> Never:
        """Fetch and renew until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                wait = self._queue_what_is_due()
                while self._running < self._settings.concurrency and (entry := self._next()) is not None:
                    entry.queued, entry.running = None, True
                    self._running += 1
                    nursery.start_soon(self._attempt, entry)
                with trio.move_on_after(wait):
                    await self._wake.wait()
                self._wake = trio.Event()

    def _queue_what_is_due(self) -> float:
        """Queue renewals and repetitions, drop what nobody refers to; seconds until the next look."""
        wall, monotonic = self._clock.wall(), self._clock.monotonic()
        wait = self._settings.check_seconds
        for entry in list(self._entries.values()):
            if entry.running or entry.queued is not None:
                continue
            if entry.references == 0:
                if entry.expires <= wall and entry.not_before <= monotonic:
                    del self._entries[entry.identity]
                continue
            due_in = max(entry.renew_at - wall, entry.not_before - monotonic)
            if due_in <= 0:
                self._enqueue(entry, Priority.WARMUP if entry.credentials is None else Priority.BACKGROUND)
            else:
                wait = min(wait, due_in)
        return wait

    def _entry(self, identity: SpiffeId) -> _Entry:
        entry = self._entries.get(identity)
        if entry is None:
            entry = self._entries[identity] = _Entry(identity)
        return entry

    def _enqueue(self, entry: _Entry, priority: Priority) -> None:
        if entry.running or (entry.queued is not None and entry.queued <= priority):
            return
        if entry.queued is None:
            entry.settled = trio.Event()
        # A former place in the queue, of lower priority, stays behind and is skipped when its turn comes.
        entry.queued = priority
        heapq.heappush(self._queue, (priority, next(self._order), entry))
        self._wake.set()

    def _next(self) -> _Entry | None:
        while self._queue:
            priority, _, entry = heapq.heappop(self._queue)
            if entry.queued is not priority or entry.running:
                continue
            if entry.references == 0 and priority is not Priority.REAL_TIME:
                entry.queued = None
                entry.settled.set()
                continue
            return entry
        return None

    async def _attempt(self, entry: _Entry) -> None:
        try:
            with trio.move_on_after(self._settings.attempt_seconds) as scope:
                self._succeeded(entry, await self._client.fetch(entry.identity))
            if scope.cancelled_caught:
                self._failed(
                    entry,
                    CertificateServiceAway(
                        f"the certificate service has not answered for {entry.identity} in "
                        f"{self._settings.attempt_seconds:g} s"
                    ),
                )
        except MeshError as error:
            self._failed(entry, error)
        except Exception as error:  # A bug met with one identity must not end the renewal of all others.
            _log.exception("certificate request failed unexpectedly", identity=str(entry.identity))
            self._failed(entry, InternalError(f"the request for {entry.identity} failed: {error!r}"))
        finally:
            entry.running = False
            self._running -= 1
            entry.settled.set()
            self._wake.set()

    def _succeeded(self, entry: _Entry, credentials: Credentials) -> None:
        now = self._clock.wall()
        entry.credentials = credentials
        entry.expires = credentials.not_after.timestamp()
        # Half of what remains, not of the whole: authorities date certificates back against clock skew.
        entry.renew_at = now + (entry.expires - now) / 2
        entry.error, entry.failures = None, 0
        entry.not_before = self._clock.monotonic() + self._settings.backoff.initial
        _log.info(
            "certificate obtained",
            identity=str(entry.identity),
            serial=credentials.serial,
            not_after=credentials.not_after.isoformat(),
            renew_seconds=round(entry.renew_at - now, 1),
        )
        for subscriber in tuple(self._subscribers.values()):
            subscriber(credentials)

    def _failed(self, entry: _Entry, error: MeshError) -> None:
        now = self._clock.monotonic()
        if entry.failures == 0:
            entry.failing_since = now
        entry.error = error
        entry.failures += 1
        backoff = self._settings.backoff
        if isinstance(error, CertificateServiceAway):
            backoff = replace(backoff, maximum=min(backoff.maximum, self._settings.most_while_away))
        delay = backoff.delay(entry.failures, self._random())
        entry.not_before = now + delay
        _log.warning(
            "certificate not obtained",
            identity=str(entry.identity),
            error=str(error),
            attempt=entry.failures,
            retry_seconds=round(delay, 1),
            still_valid=entry.expires > self._clock.wall(),
        )


def _report(entry: _Entry, now: float) -> CertificateReport:
    valid = entry.credentials if entry.expires > now else None
    if valid is not None:
        state = CertificateState.AVAILABLE
    elif entry.error is not None or entry.credentials is not None:
        state = CertificateState.UNAVAILABLE
    else:
        state = CertificateState.INITIALIZING
    return CertificateReport(
        identity=entry.identity,
        state=state,
        credentials=valid,
        renew_at=datetime.fromtimestamp(entry.renew_at, UTC) if valid is not None else None,
        error=str(entry.error) if entry.error is not None else None,
    )
