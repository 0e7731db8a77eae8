"""A certificate service inside the test's own process: the client's side of it, over a real authority."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import trio

from mesh.clock import Clock
from mesh.errors import MeshError
from mesh.identity import SpiffeId
from mesh.testing.ca import TestAuthority
from mesh.tls.credentials import Credentials
from mesh.tls.csr import make_csr, make_key


class InProcessCertificateService:
    """Fetches real certificates without a network, as slowly and as unwillingly as a test wants."""

    def __init__(self, authority: TestAuthority, clock: Clock, lifetime: timedelta = timedelta(hours=24)) -> None:
        self.authority = authority
        self.lifetime = lifetime
        self.delay = 0.0
        """Seconds that each request takes."""
        self.refusal: Callable[[SpiffeId], MeshError | None] = lambda identity: None
        """What to raise for an identity, if anything."""
        self.requests: list[tuple[float, SpiffeId]] = []
        """When (monotonic) each request began, and for whom."""
        self.under_way = 0
        self.most_under_way = 0
        self._clock = clock

    async def fetch(self, identity: SpiffeId) -> Credentials:
        """A fresh key and its certificate, dated by the given clock.

        Raises:
            MeshError: what ``refusal`` says.
        """
        self.requests.append((self._clock.monotonic(), identity))
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await trio.sleep(self.delay)
        finally:
            self.under_way -= 1
        refusal = self.refusal(identity)
        if refusal is not None:
            raise refusal
        key = make_key()
        now = datetime.fromtimestamp(self._clock.wall(), UTC)
        *chain, roots = self.authority.sign_csr(make_csr(identity, key), lifetime=self.lifetime, now=now)
        return Credentials.assemble(identity, tuple(chain), key, roots)
