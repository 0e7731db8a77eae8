"""The endpoint's side of a request's life: attempts, retries, deadlines, and the answer that comes back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from waypoint.client import Client
from waypoint.exchange.decision import Decider, Forward, Observer
from waypoint.exchange.facts import Facts
from waypoint.http.contract import Call, Failure, FailureKind, Responder
from waypoint.http.message import Headers, RequestHead, ResponseHead
from waypoint.telemetry.tracing import TIMED_OUT
from waypoint.upstream.pool_contract import EndpointPool, Unavailable
from waypoint.wire.timers import Timer, Timers

_OUTCOMES: Final = {
    FailureKind.CONNECT: (503, "UF"),
    FailureKind.CONNECT_TIMEOUT: (503, "UF"),
    FailureKind.OVERFLOW: (503, "UO"),
    FailureKind.REFUSED: (503, "UR"),
    FailureKind.RESET: (503, "UR"),
    FailureKind.LOST: (503, "UC"),
    FailureKind.PROTOCOL: (502, "UPE"),
}
"""How a client is answered when an attempt fails, and the flag."""

_IDEMPOTENT: Final = frozenset({b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"TRACE"})


class Context:
    """What the exchanges of a process share."""

    __slots__ = ("decider", "draw", "observer", "timers")

    def __init__(self, timers: Timers, decider: Decider, observer: Observer, draw: Callable[[], float]) -> None:
        """``draw`` returns random numbers in [0, 1)."""
        self.timers = timers
        self.decider = decider
        self.observer = observer
        self.draw = draw


class Attempts(Facts):
    """What :class:`waypoint.exchange.exchange.Exchange` does towards endpoints."""

    __slots__ = (
        *("_answered", "_body", "_call", "_context", "_deadline", "_forward", "_held", "_keep", "_over", "_pool"),
        *("_request_ended", "_responder", "_response_ended", "_retried", "_second_chance", "_tried", "_try_timer"),
        *("_tunnel", "_waiting"),
    )

    def __init__(
        self, context: Context, client: Client, responder: Responder, head: RequestHead, *, end: bool, version: str
    ) -> None:
        super().__init__(head, client, version, context.timers.clock())
        self._context = context
        self._responder = responder
        self._request_ended = end
        if end:
            self.received_at = self.started_at
        self._forward: Forward | None = None
        self._pool: EndpointPool | None = None
        """Of the attempt under way, until the backend was told of its outcome."""
        self._tried: list[EndpointPool] | None = None
        self._waiting = False
        """For a connection of ``_pool``."""
        self._call: Call | None = None
        self._body: list[bytes] | None = None
        """What is kept of the request's body: to be sent first on the next call."""
        self._keep = False
        """It is kept on behalf of a retry or a mirror."""
        self._held = False
        """The client's body is held back."""
        self._retried = 0
        self._second_chance = True
        self._deadline: Timer | None = None
        self._try_timer: Timer | None = None
        """Of the attempt, or of the pause before it."""
        self._answered = False
        self._response_ended = False
        self._tunnel = False
        self._over = False

    # -- what the exchange defines -----------------------------------------------------------------------------------

    def _answer(self, status: int, headers: Headers, body: bytes, flag: str, details: str) -> None:
        """Answer from here."""
        raise NotImplementedError

    def _abort(self, flag: str, reason: str) -> None:
        """Too late for an answer."""
        raise NotImplementedError

    def _finish(self) -> None:
        """All is over."""
        raise NotImplementedError

    # -- attempts ----------------------------------------------------------------------------------------------------

    def _attempt(self, fresh: bool = False) -> None:
        """Choose an endpoint and ask it. The caller does nothing afterwards: all may be over by then."""
        forward = self._forward
        if self._over or forward is None:
            return
        self._try_timer = None
        choice = forward.backend.choose(self.head, self._tried or [])
        if isinstance(choice, Unavailable):
            self._give_retry_back()
            self._answer(choice.status, [], choice.text.encode(), choice.flag, "no_endpoint")
            return
        self._pool = choice
        self.endpoint = choice.name
        self.attempts += 1
        if self.trace is not None:
            self.trace.attempt(self.head, choice.name, self._context.timers.clock())
        seconds = forward.try_timeout
        if forward.retry is not None:
            # Kept for the retries alone: without them nobody asks who was tried.
            self._tried = [*(self._tried or ()), choice]
            seconds = forward.retry.try_timeout if forward.retry.try_timeout is not None else seconds
        if seconds is not None:
            self._try_timer = self._context.timers.after(seconds, self._try_timed_out)
        self._waiting = True
        call = choice.open(self, fresh=fresh)
        if call is None:
            if self._waiting:
                self._hold()
        elif isinstance(call, Failure):
            self.call_failed(call)
        else:
            self.call_ready(call)

    def call_ready(self, call: Call) -> None:
        """See :class:`ResponseSink`."""
        self._waiting = False
        self._call = call
        self.sent_at = self._context.timers.clock()
        body = self._body
        if body is None and self._request_ended:
            call.send_head(self.head, end=True)
            return
        call.send_head(self.head, end=False)
        for data in body or ():
            call.send_data(data)
        if not self._keep:
            self._body = None
        if self._request_ended:
            call.send_end(self.request_trailers)
        else:
            call.flush()
            self._release()

    def _hold(self) -> None:
        if not self._held and not self._request_ended:
            self._held = True
            self._responder.pause()

    def _release(self) -> None:
        call = self._call
        if self._held and call is not None and not call.congested:
            self._held = False
            self._responder.resume()

    # -- the endpoint (ResponseSink) ---------------------------------------------------------------------------------

    def response_informational(self, head: ResponseHead) -> None:
        """See :class:`ResponseSink`."""
        self._responder.informational(head)

    def response_head(self, head: ResponseHead, *, end: bool) -> None:
        """See :class:`ResponseSink`."""
        forward = self._forward
        assert forward is not None
        self.answered_at = self._context.timers.clock()
        if self._try_timer is not None:
            self._context.timers.cancel(self._try_timer)
            self._try_timer = None
        plan = forward.retry
        if plan is not None and head.status != 101 and plan.for_answer(head):
            if self._may_retry():
                if end:
                    self._call = None
                self._drop_call(head.status)
                self._retry()
                return
            if self._retried >= plan.attempts > 0:
                self.add_flag("URX")
        self._report_attempt(head.status, None)
        if forward.on_response is not None:
            forward.on_response(head)
        self.status = head.status
        self.response = head
        self._answered = True
        self._body = None
        self._keep = False
        if head.status == 101 or (self.head.method == b"CONNECT" and head.status < 300):
            self._become_tunnel()
        self._responder.respond(head, end=end)
        if end:
            self.response_end(None)

    def _become_tunnel(self) -> None:
        self._tunnel = True
        self._request_ended = False
        if self._deadline is not None:
            self._context.timers.cancel(self._deadline)
            self._deadline = None

    def response_data(self, data: bytes) -> None:
        """See :class:`ResponseSink`."""
        self.sent += len(data)
        if self.grpc is not None:
            self.grpc.response.take(data)
        self._responder.body(data)

    def response_flush(self) -> None:
        """See :class:`ResponseSink`."""
        if self._answered and not self._over:
            self._responder.flush()
            if self._responder.congested and self._call is not None:
                self._call.pause()

    def response_end(self, trailers: Headers | None) -> None:
        """See :class:`ResponseSink`."""
        self._response_ended = True
        self.response_trailers = trailers
        if self._tunnel:
            self._responder.finish(None)
            if self._request_ended:
                self._finish()
            return
        self._call = None
        # Recorded first: the responder may begin the client's next request before it returns.
        self._finish()
        self._responder.finish(trailers)

    def call_failed(self, failure: Failure) -> None:
        """See :class:`ResponseSink`."""
        self._waiting = False
        self._call = None
        self.upstream_failure = failure.text
        status, flag = _OUTCOMES[failure.kind]
        if self._answered:
            self._abort(flag, failure.text)
            return
        self._report_attempt(0, failure)
        if self._try_timer is not None:
            self._context.timers.cancel(self._try_timer)
            self._try_timer = None
        if failure.stale and self._second_chance and self._repeatable():
            self._second_chance = False
            self._attempt(fresh=True)
            return
        plan = self._forward.retry if self._forward is not None else None
        if plan is not None and plan.for_failure(failure):
            if self._may_retry():
                self._retry()
                return
            if self._retried >= plan.attempts > 0:
                self.add_flag("URX")
        self._answer(status, [], failure.text.encode(), flag, "upstream_failed")

    def upstream_writable(self) -> None:
        """See :class:`ResponseSink`."""
        self._release()

    # -- retries and deadlines ---------------------------------------------------------------------------------------

    def _repeatable(self) -> bool:
        """Whether the request may be sent again although nobody has asked for retries (RFC 9110 section 9.2.2)."""
        return self.head.method in _IDEMPOTENT and self._request_ended and (self._keep or self.received == 0)

    def _may_retry(self) -> bool:
        plan = self._forward.retry if self._forward is not None else None
        if plan is None or self._answered or self._retried >= plan.attempts:
            return False
        if self.received and not self._keep:
            return False
        if self._retried == 0 or plan.budget is None:
            return plan.budget is None or plan.budget.take()
        return True

    def _retry(self) -> None:
        plan = self._forward.retry if self._forward is not None else None
        assert plan is not None
        self._retried += 1
        self._hold()
        wait = plan.wait(self._retried, self._context.draw())
        self._try_timer = self._context.timers.after(wait, self._attempt)

    def _give_retry_back(self) -> None:
        plan = self._forward.retry if self._forward is not None else None
        if self._retried and plan is not None and plan.budget is not None:
            plan.budget.give_back()
            self._retried = 0

    def _try_timed_out(self) -> None:
        self._try_timer = None
        if self._over or self._answered or self._forward is None:
            return
        self._gave_up_waiting()
        plan = self._forward.retry
        if plan is not None and plan.for_timeout():
            if self._may_retry():
                self._retry()
                return
            if self._retried >= plan.attempts > 0:
                self.add_flag("URX")
        self._answer(504, [], b"the upstream did not answer in time", "UT", "attempt_timeout")

    def _timed_out(self) -> None:
        self._deadline = None
        if self._over:
            return
        self._gave_up_waiting()
        if self._answered:
            self._abort("UT", "the request took longer than its timeout")
        else:
            self._answer(504, [], b"the upstream did not answer in time", "UT", "request_timeout")

    def _gave_up_waiting(self) -> None:
        """There was no answer in time."""
        if self.trace is not None:
            self.trace.attempt_over(0, TIMED_OUT, self._context.timers.clock())
        self._drop_call(504)

    def _drop_call(self, status: int = 0) -> None:
        """Give up the attempt under way, if there is one."""
        call, self._call = self._call, None
        if self._waiting:
            self._waiting = False
            if self._pool is not None:
                self._pool.forget(self)
        if call is not None:
            call.cancel()
        self._report_attempt(status, None)

    def _report_attempt(self, status: int, failure: Failure | None) -> None:
        """Tell the backend how an attempt went, once for each."""
        pool, self._pool = self._pool, None
        if self.trace is not None:
            self.trace.attempt_over(status, "" if failure is None else failure.text, self._context.timers.clock())
        if pool is not None and self._forward is not None:
            self._forward.backend.finished(pool, status, failure)
