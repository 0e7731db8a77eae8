"""A question of the waypoint's own to a backend: sent whole, its answer kept whole, and told once.

For authorizers and health checks. The question takes the way that requests take (balancing, pools, tunnels), and
everything about it is bounded: the time from here to the last byte of the answer, and the answer's size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from waypoint.http.contract import Call, Failure
from waypoint.http.message import Headers, RequestHead, ResponseHead
from waypoint.upstream.pool_contract import EndpointPool, Unavailable
from waypoint.wire.timers import Timers


class Asked(Protocol):
    """Who chooses the endpoint, and learns how it went (``waypoint.exchange.decision.Backend``)."""

    def choose(self, head: RequestHead, tried: list[EndpointPool]) -> EndpointPool | Unavailable:
        """An endpoint, for one attempt."""

    def finished(self, pool: EndpointPool, status: int, failure: Failure | None) -> None:
        """The attempt is over."""


@dataclass(frozen=True, slots=True)
class InquiryAnswer:
    """A whole answer."""

    status: int
    headers: Headers
    body: bytes
    trailers: Headers


Outcome: TypeAlias = InquiryAnswer | str
"""An answer, or in words why there is none."""


class Inquiry:
    """One question (``waypoint.http.contract.ResponseSink``)."""

    __slots__ = (
        *("_asked", "_body", "_call", "_head", "_max_body", "_pool", "_received", "_repeated", "_report"),
        *("_response", "_timeout", "_timer", "_timers", "over"),
    )

    def __init__(
        self,
        timers: Timers,
        asked: Asked,
        head: RequestHead,
        body: bytes,
        report: Callable[[Outcome], None],
        *,
        timeout: float,
        max_body: int,
    ) -> None:
        """Prepare; :meth:`start` asks.

        Args:
            timers: the process's.
            asked: where the question goes.
            head: with a ``content-length``, if there is a body.
            body: sent as it is.
            report: told once, maybe before :meth:`start` returns; never after :meth:`cancel`.
            timeout: seconds for everything.
            max_body: bytes of the answer's body; one with more is none.
        """
        self._timers = timers
        self._asked = asked
        self._head = head
        self._body = body
        self._report = report
        self._timeout = timeout
        self._max_body = max_body
        self._pool: EndpointPool | None = None
        self._call: Call | None = None
        self._response: ResponseHead | None = None
        self._received = bytearray()
        self._repeated = False
        self.over = False
        """It was told, or cancelled."""
        self._timer = timers.after(timeout, self._too_slow)

    def start(self) -> None:
        """Ask."""
        self._ask(fresh=False)

    def cancel(self) -> None:
        """Nobody wants to know any more."""
        if not self.over:
            self._drop(0)
            self._settle()

    def _ask(self, *, fresh: bool) -> None:
        choice = self._asked.choose(self._head, [])
        if isinstance(choice, Unavailable):
            self._end(choice.text)
            return
        self._pool = choice
        call = choice.open(self, fresh=fresh)
        if isinstance(call, Failure):
            self.call_failed(call)
        elif call is not None:
            self.call_ready(call)

    # -- the endpoint (ResponseSink) -----------------------------------------------------------------------------------

    def call_ready(self, call: Call) -> None:
        """Send it all."""
        self._call = call
        if not self._body:
            call.send_head(self._head, end=True)
            return
        call.send_head(self._head, end=False)
        call.send_data(self._body)
        call.send_end(None)

    def response_informational(self, head: ResponseHead) -> None:
        """Only the final answer counts."""

    def response_head(self, head: ResponseHead, *, end: bool) -> None:
        """See :class:`ResponseSink`."""
        self._response = head
        if end:
            self.response_end(None)

    def response_data(self, data: bytes) -> None:
        """See :class:`ResponseSink`."""
        self._received += data
        if len(self._received) > self._max_body and not self.over:
            self._drop(502)
            self._end(f"the answer has more than {self._max_body} bytes")

    def response_flush(self) -> None:
        """Nothing is passed on."""

    def response_end(self, trailers: Headers | None) -> None:
        """See :class:`ResponseSink`."""
        response = self._response
        if self.over or response is None:
            return
        self._call = None
        self._finished(response.status, None)
        self._end(InquiryAnswer(response.status, response.headers, bytes(self._received), trailers or []))

    def call_failed(self, failure: Failure) -> None:
        """See :class:`ResponseSink`."""
        if self.over:
            return
        self._call = None
        self._finished(0, failure)
        if failure.stale and not self._repeated:
            # Its connection had been kept alive and ended just now: nobody has looked at the question.
            self._repeated = True
            self._response = None
            self._received.clear()
            self._ask(fresh=True)
            return
        self._end(failure.text)

    def upstream_writable(self) -> None:
        """Everything was written long ago."""

    # -- ends ----------------------------------------------------------------------------------------------------------

    def _too_slow(self) -> None:
        if not self.over:
            self._drop(504)
            self._end(f"no answer within {self._timeout:g} s")

    def _drop(self, status: int) -> None:
        """Give up the attempt under way."""
        call, self._call = self._call, None
        if call is not None:
            call.cancel()
        elif self._pool is not None:
            self._pool.forget(self)
        self._finished(status, None)

    def _finished(self, status: int, failure: Failure | None) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            self._asked.finished(pool, status, failure)

    def _settle(self) -> None:
        self.over = True
        self._timers.cancel(self._timer)

    def _end(self, outcome: Outcome) -> None:
        if not self.over:
            self._settle()
            self._report(outcome)
