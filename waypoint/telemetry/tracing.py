"""Traces: whether a request is one of those that are recorded, and what is noted of it while it lives.

Theory of operation
-------------------
A request that is recorded has a span of ours of the kind SERVER, from its head to the end of its answer, and below it
one of the kind CLIENT for each time that it was sent to an endpoint: a retry is a further child. The endpoint is sent
the context of the child, so that its own span stands below the attempt that it answers.

The client's decision is kept; a request without one starts a trace with the probability that the destination's
Telemetry says. A request that is not recorded and brought a context passes with that context untouched, so that the
trace's ends still meet; without one, nothing is added to it. So where nothing is recorded a request costs one look at
whether its destination traces, and where it does, one look at its headers.

Spans are made of these notes when the request is over (``waypoint.telemetry.spans``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mesh.model.waypoint import Telemetry
from waypoint.http.message import Headers, RequestHead, first
from waypoint.routing.chance import Random
from waypoint.telemetry.trace_codec import TraceContext, declined, extract, inject

RandomBits = Callable[[int], int]
"""So many random bits as a number (``random.getrandbits``)."""

REQUEST_ID: Final = b"x-request-id"
MAX_REQUEST_ID_BYTES: Final = 256
_NODE: Final = (1 << 48) - 1
TIMED_OUT: Final = "no answer in time"
"""The failure of an attempt that was given up for this reason."""
MAX_ATTEMPTS: Final = 16
"""Of one request that have spans of their own; further ones are sent the context of the last of these."""


class AttemptNotes:
    """One time that a request was sent to an endpoint."""

    __slots__ = ("began", "ended", "endpoint", "failure", "span_id", "status")

    def __init__(self, span_id: bytes, endpoint: str, began: float) -> None:
        self.span_id = span_id
        """16 hexadecimal digits."""
        self.endpoint = endpoint
        """``address:port``."""
        self.began = began
        """On the monotonic clock, as all times here: a connection was asked for."""
        self.ended = 0.0
        """0: not yet; of an attempt that was answered it is the request's end."""
        self.status = 0
        """The answer's; 0 without one."""
        self.failure = ""
        """Why there was no answer, in words."""


class RequestTrace:
    """What is noted of one request that is recorded."""

    __slots__ = ("_bits", "_context", "attempts", "parent_id", "span_id", "trace_id")

    def __init__(self, context: TraceContext, bits: RandomBits) -> None:
        """Begin the request's own span."""
        self.trace_id = context.trace_id
        """32 hexadecimal digits."""
        self.parent_id = context.span_id
        """16 hexadecimal digits; empty: the trace begins here."""
        self.span_id = _hex(bits, 64)
        self.attempts: list[AttemptNotes] = []
        self._context = context
        self._bits = bits

    def introduce(self, head: RequestHead) -> None:
        """Have the request's own span be the parent of whoever is shown this head: an authorizer, a mirror."""
        inject(head.headers, self._context, self.span_id, True)
        # From here on it is the parent in what B3 says of one.
        self._context.span_id = self.span_id

    def attempt(self, head: RequestHead, endpoint: str, now: float) -> None:
        """The request is about to be sent to an endpoint."""
        if len(self.attempts) < MAX_ATTEMPTS:
            self.attempts.append(AttemptNotes(_hex(self._bits, 64), endpoint, now))
        inject(head.headers, self._context, self.attempts[-1].span_id, True)

    def attempt_over(self, status: int, failure: str, now: float) -> None:
        """It was answered (the answer may still come in), or given up. What is told first counts."""
        if self.attempts and not self.attempts[-1].ended:
            last = self.attempts[-1]
            last.status, last.failure, last.ended = status, failure, now


class Tracer:
    """Tracing of one destination's requests."""

    __slots__ = ("_bits", "_random", "_share")

    def __init__(self, telemetry: Telemetry, random: Random, bits: RandomBits) -> None:
        """Prepare.

        Args:
            telemetry: the destination's.
            random: uniform in [0, 1).
            bits: for ids.
        """
        self._share = min(max(telemetry.sampling_percent, 0.0), 100.0) / 100.0
        self._random = random
        self._bits = bits

    def begin(self, head: RequestHead) -> RequestTrace | None:
        """Decide about a request, and write the context it goes on with; None: it is not recorded."""
        context = extract(head.headers)
        if context is None:
            if not self._chosen() or declined(head.headers):
                return None
            context = TraceContext(_hex(self._bits, 128), b"", True)
            context.w3c = True
        elif not context.sampled and (context.sampled is not None or not self._chosen()):
            return None
        trace = RequestTrace(context, self._bits)
        trace.introduce(head)
        return trace

    def _chosen(self) -> bool:
        return self._share > 0 and self._random() < self._share


def _hex(bits: RandomBits, count: int) -> bytes:
    # All zeros means "none" in every format.
    return b"%0*x" % (count // 4, bits(count) or 1)


def request_id(headers: Headers, bits: RandomBits, *, trusted: bool) -> bytes:
    """A request's id: its own, if that may stay, or a new one, which it is given.

    Args:
        headers: the request's, changed if it has none that may stay.
        bits: for a new one.
        trusted: whether the client may name its requests. What it says must be fit for a log all the same.
    """
    given = first(headers, REQUEST_ID)
    if given is not None:
        if trusted and 0 < len(given) <= MAX_REQUEST_ID_BYTES and given.isascii() and given.decode().isprintable():
            return given
        headers[:] = [field for field in headers if field[0] != REQUEST_ID]
    # A UUID of version 4 (RFC 9562 section 5.4): unique, not secret, so no system call for entropy.
    high, low = bits(60), bits(60)
    made = b"%08x-%04x-4%03x-a%03x-%012x" % (high >> 28, high >> 12 & 0xFFFF, high & 0xFFF, low >> 48, low & _NODE)
    headers.append((REQUEST_ID, made))
    return made
