"""Copies of a request to further backends, whose answers nobody waits for."""

from __future__ import annotations

from waypoint.exchange.decision import Mirror
from waypoint.http.contract import Call, Failure
from waypoint.http.message import Headers, ResponseHead
from waypoint.upstream.pool_contract import EndpointPool, Unavailable
from waypoint.wire.timers import Timers


def send_mirrors(timers: Timers, mirrors: tuple[Mirror, ...], body: list[bytes], trailers: Headers | None) -> None:
    """Send a complete request to each mirror; no failure of theirs is told."""
    for mirror in mirrors:
        choice = mirror.backend.choose(mirror.head, [])
        if not isinstance(choice, Unavailable):
            MirrorCall(timers, mirror, choice, body, trailers).start()


class MirrorCall:
    """One copy under way."""

    __slots__ = ("_body", "_call", "_mirror", "_over", "_pool", "_status", "_timer", "_timers", "_trailers")

    def __init__(
        self, timers: Timers, mirror: Mirror, pool: EndpointPool, body: list[bytes], trailers: Headers | None
    ) -> None:
        self._timers = timers
        self._mirror = mirror
        self._pool = pool
        self._body = body
        self._trailers = trailers
        self._call: Call | None = None
        self._status = 0
        self._over = False
        self._timer = timers.after(mirror.timeout, self._too_slow)

    def start(self) -> None:
        """Ask for a connection."""
        call = self._pool.open(self)
        if isinstance(call, Failure):
            self.call_failed(call)
        elif call is not None:
            self.call_ready(call)

    def call_ready(self, call: Call) -> None:
        """Send it all."""
        self._call = call
        if not self._body and self._trailers is None:
            call.send_head(self._mirror.head, end=True)
            return
        call.send_head(self._mirror.head, end=False)
        for data in self._body:
            call.send_data(data)
        call.send_end(self._trailers)

    def response_informational(self, head: ResponseHead) -> None:
        """Nobody waits for it."""

    def response_head(self, head: ResponseHead, *, end: bool) -> None:
        """Only how it went counts."""
        self._status = head.status
        if end:
            self.response_end(None)

    def response_data(self, data: bytes) -> None:
        """Dropped."""

    def response_flush(self) -> None:
        """Nothing is passed on."""

    def response_end(self, trailers: Headers | None) -> None:
        """Done."""
        self._finish(self._status, None)

    def call_failed(self, failure: Failure) -> None:
        """Done as well."""
        self._finish(0, failure)

    def upstream_writable(self) -> None:
        """Everything was written long ago."""

    def _too_slow(self) -> None:
        if self._call is None:
            self._pool.forget(self)
        else:
            self._call.cancel()
        self._finish(504, None)

    def _finish(self, status: int, failure: Failure | None) -> None:
        if not self._over:
            self._over = True
            self._timers.cancel(self._timer)
            self._mirror.backend.finished(self._pool, status, failure)
