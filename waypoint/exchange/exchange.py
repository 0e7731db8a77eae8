"""One request's life.

Theory of operation
-------------------
An exchange stands between a client's responder and an endpoint's call and is told by both what happens; it never waits.
Where it stands is told by few fields: no ``_forward`` yet (a decision is waited for), a ``_forward`` and no ``_call``
(fault delay, waiting for a connection, backoff), a ``_call``, an answer begun, over. What the client sends of its body
before there is a call is kept, and the client's wire paused, so that is little; once there is a call the body streams.
Only where a retry or a mirror may need it, it is kept besides, up to the decision's limit; past that the request has
neither.

After the first byte of an answer has gone to the client nothing can be repeated or put right: a failure then ends the
client's stream in a way that it sees.
"""

from __future__ import annotations

from typing import Final

import structlog

from waypoint.client import Client
from waypoint.exchange.attempts import Attempts, Context
from waypoint.exchange.decision import Answer, Decision, Forward, Wait
from waypoint.exchange.grpc_messages import GrpcMessages
from waypoint.exchange.local_answer import is_grpc, local_answer
from waypoint.exchange.mirror import send_mirrors
from waypoint.http.contract import Responder
from waypoint.http.message import Headers, RequestHead, ResponseHead

_log = structlog.get_logger("waypoint")

SHUTDOWN: Final = b"this waypoint shuts down"


class Exchange(Attempts):
    """See the module's docstring."""

    __slots__ = ("_collecting", "_kept_size", "_wait")

    def __init__(
        self, context: Context, client: Client, responder: Responder, head: RequestHead, *, end: bool, version: str
    ) -> None:
        super().__init__(context, client, responder, head, end=end, version=version)
        self._kept_size = 0
        self._wait: Wait | None = None
        self._collecting = 0
        """Bytes of body that ``_wait`` needs before it starts; 0: it has started."""
        if is_grpc(head):
            self.grpc = GrpcMessages()

    # -- the decision ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Decide, and act on it."""
        self._context.observer.began(self)
        try:
            decision = self._context.decider.decide(self.head, self.client, self)
        except Exception:  # a bug in a route or policy costs the requests that it concerns, not their connections
            _log.exception("a request could not be decided", path=self.path)
            self._answer(500, [], b"a bug of this proxy", "", "decision_failed")
            return
        self._act(decision)

    def _act(self, decision: Decision) -> None:
        if isinstance(decision, Forward):
            self._begin(decision)
        elif isinstance(decision, Answer):
            self.route = decision.route
            self._answer(decision.status, decision.headers, decision.body, decision.flag, decision.details)
        else:
            self._wait = decision
            self._collecting = decision.body_bytes
            if not self._collecting or self._request_ended or self._kept_size > self._collecting:
                self._start_wait()
            else:
                self._collect()

    def _collect(self) -> None:
        """Let some of the body come before anybody is asked."""
        if self.head.method == b"CONNECT":
            self._start_wait()  # what follows is no body
            return
        if self._held:
            self._held = False
            self._responder.resume()
        headers = self.head.headers
        if any(name == b"expect" for name, _ in headers):
            # Whoever waits for leave to send its body has it from here, for the endpoint has not been asked.
            self.head.headers = [field for field in headers if field[0] != b"expect"]
            self._responder.informational(ResponseHead(status=100))

    def _start_wait(self) -> None:
        self._collecting = 0
        self._hold()
        if self._wait is not None:
            self._wait.start(self._decided, b"".join(self._body or ()), whole=self._request_ended)

    def _decided(self, decision: Decision) -> None:
        if self._wait is not None and not self._over:
            self._wait = None
            self._act(decision)

    def _begin(self, forward: Forward) -> None:
        self.route = forward.route
        if self.head.method == b"CONNECT" and not forward.connect:
            self._answer(405, [], b"CONNECT is not served here", "", "connect_not_routed")
            return
        self._forward = forward
        self._keep = forward.retry is not None or bool(forward.mirrors)
        if forward.timeout is not None:
            self._deadline = self._context.timers.after(forward.timeout, self._timed_out)
        if forward.flag:
            self.add_flag(forward.flag)
        if forward.mirrors and self._request_ended:
            self._mirror()
        if forward.delay > 0:
            self._hold()
            self._try_timer = self._context.timers.after(forward.delay, self._attempt)
        else:
            self._attempt()

    def _mirror(self) -> None:
        if self._forward is not None and self._keep:
            send_mirrors(self._context.timers, self._forward.mirrors, list(self._body or ()), self.request_trailers)

    # -- the client (RequestSink) ------------------------------------------------------------------------------------

    def request_data(self, data: bytes) -> None:
        """See :class:`RequestSink`."""
        self.received += len(data)
        if self.grpc is not None:
            self.grpc.request.take(data)
        call = self._call
        if (self._keep and not self._tunnel) or call is None:
            self._keep_data(data)
            if self._collecting and self._kept_size > self._collecting:
                self._start_wait()
        if call is not None:
            call.send_data(data)

    def _keep_data(self, data: bytes) -> None:
        if self._over or self._response_ended:
            return
        if self._body is None:
            self._body = []
        self._body.append(data)
        self._kept_size += len(data)
        forward = self._forward
        if self._keep and forward is not None and self._kept_size > forward.body_limit:
            # Too much to send again: no retry and no mirror. What no call has had yet stays until one has.
            self._keep = False
            if self._call is not None:
                self._body = None

    def request_end(self, trailers: Headers | None) -> None:
        """See :class:`RequestSink`."""
        self._request_ended = True
        self.received_at = self._context.timers.clock()
        self.request_trailers = trailers
        if self._body is None and self._call is None:
            self._body = []
        if self._forward is not None and self._forward.mirrors:
            self._mirror()
        if self._call is not None:
            self._call.send_end(trailers)
        elif self._collecting:
            self._start_wait()
        if self._tunnel and self._response_ended:
            self._finish()

    def request_flush(self) -> None:
        """See :class:`RequestSink`."""
        call = self._call
        if call is not None:
            call.flush()
            if call.congested:
                self._hold()
        elif not self._over and not self._collecting:
            self._hold()

    def client_gone(self, reason: str, *, violation: bool) -> None:
        """See :class:`RequestSink`."""
        if self._over:
            return
        self.add_flag("DPE" if violation else "DC")
        self.details = reason
        if not self._answered:
            self.status = 0
        self._drop_call()
        self._finish()

    def client_writable(self) -> None:
        """See :class:`RequestSink`."""
        if self._call is not None:
            self._call.resume()

    def stalled(self) -> None:
        """See :class:`RequestSink`."""
        if self._over:
            return
        self._drop_call()
        if self._answered:
            self._abort("SI", "nothing has moved for too long")
        else:
            self._answer(504 if self._request_ended else 408, [], b"nothing has moved for too long", "SI", "stalled")

    def cut_off(self) -> None:
        """See :class:`RequestSink`: an answer, or the end of gRPC's, where one is possible; else a reset."""
        if self._over:
            return
        self._drop_call()
        if not self._answered:
            self._answer(503, [], SHUTDOWN, "LR", "drain_time_up")
        elif self.grpc is not None and self.version == "2" and not self._tunnel:
            self.add_flag("LR")
            self.details = "drain_time_up"
            self.response_trailers = [(b"grpc-status", b"14"), (b"grpc-message", SHUTDOWN)]
            self._response_ended = True
            responder = self._responder
            self._finish()
            responder.finish(self.response_trailers)
        else:
            self._abort("LR", "drain_time_up")

    # -- ends --------------------------------------------------------------------------------------------------------

    def _answer(self, status: int, headers: Headers, body: bytes, flag: str, details: str) -> None:
        """Answer from here."""
        self.add_flag(flag)
        self.details = details
        status, headers, body = local_answer(self.grpc is not None, status, headers, body)
        head = ResponseHead(status=status, headers=headers)
        if self._forward is not None and self._forward.on_response is not None:
            self._forward.on_response(head)
        self.status = status
        self.response = head
        self._answered = True
        self.sent = len(body) if self.method != b"HEAD" else 0
        self._response_ended = True
        responder = self._responder
        self._finish()
        responder.respond(head, end=not body)
        if body:
            responder.body(body)
        responder.finish(None)

    def _abort(self, flag: str, reason: str) -> None:
        """Too late for an answer."""
        self.add_flag(flag)
        self.details = reason
        responder = self._responder
        self._finish()
        responder.abort(reason)

    def _finish(self) -> None:
        """All is over: settle and record, once."""
        if self._over:
            return
        self._over = True
        timers = self._context.timers
        if self._deadline is not None:
            timers.cancel(self._deadline)
        if self._try_timer is not None:
            timers.cancel(self._try_timer)
        if self._wait is not None:
            self._wait.cancel()
            self._wait = None
        if self._pool is not None:
            self._report_attempt(0, None)
        self._give_retry_back()
        self._body = None
        self.ended_at = timers.clock()
        self._context.observer.finished(self)
