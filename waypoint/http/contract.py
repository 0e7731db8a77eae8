"""What HTTP connections and the life of a request agree on, the same for HTTP/1.1 and HTTP/2.

Four roles. A connection from a client offers a :class:`Responder` for each request and tells its :class:`RequestSink`
what the client sends. A connection to an endpoint offers a :class:`Call` for each request and tells its
:class:`ResponseSink` what the endpoint answers. An exchange (``waypoint.exchange``) is both sinks and joins the two.

What is sent is collected until ``flush``, or the end of the message, so that a small message is one write. What is
received is told as it arrives; ``..._flush`` follows when the bytes at hand are used up.

Back-pressure: ``congested`` says that what was given is not sent yet; ``..._writable`` is told when it is; ``pause``
and ``resume`` hold back the other side's body.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Protocol

from waypoint.http.message import Headers, RequestHead, ResponseHead


class FailureKind(enum.Enum):
    """What became of a call that was not answered to its end."""

    CONNECT = "connect"
    """No connection could be made."""
    CONNECT_TIMEOUT = "connect timeout"
    OVERFLOW = "overflow"
    """A limit of the pool was reached."""
    REFUSED = "refused"
    """The endpoint has not looked at the request (HTTP/2 REFUSED_STREAM, GOAWAY)."""
    RESET = "reset"
    """The endpoint reset the request."""
    LOST = "lost"
    """The connection ended."""
    PROTOCOL = "protocol"
    """What the endpoint sent is no HTTP."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a call failed."""

    kind: FailureKind
    text: str
    """For logs and the answer's body."""
    stale: bool = False
    """A connection that was kept alive ended before it brought any of the answer: its end and the request have crossed,
    most likely, and nobody has looked at the request."""


class Responder(Protocol):
    """Where one request is answered."""

    def informational(self, head: ResponseHead) -> None:
        """Send an interim answer (1xx but 101), if the client's version knows such."""
        ...

    def respond(self, head: ResponseHead, *, end: bool) -> None:
        """Send the final answer's head. ``end``: there is no body, and ``finish`` follows. Status 101, and 2xx as an
        answer to CONNECT, make both directions plain bytes."""
        ...

    def body(self, data: bytes) -> None:
        """Send some of the body."""
        ...

    def finish(self, trailers: Headers | None) -> None:
        """The answer is complete; sends it. The last call; the responder may begin another request within it."""
        ...

    def flush(self) -> None:
        """Nothing more comes for now: send what was collected."""
        ...

    def abort(self, reason: str) -> None:
        """Give up an answer that was begun or cannot be: the client must see that it is not whole. The last call."""
        ...

    @property
    def congested(self) -> bool:
        """The client does not take what was sent."""
        ...

    def pause(self) -> None:
        """Hold the request's body back."""
        ...

    def resume(self) -> None:
        """Let the request's body come."""
        ...


class RequestSink(Protocol):
    """Who is told about one request."""

    def request_data(self, data: bytes) -> None:
        """Some of the body."""
        ...

    def request_end(self, trailers: Headers | None) -> None:
        """The request is complete. Not told of one that was without body from the start."""
        ...

    def request_flush(self) -> None:
        """What has arrived is told."""
        ...

    def client_gone(self, reason: str, *, violation: bool) -> None:
        """The client has ended or reset the request, or (``violation``) broken the protocol in its midst. The last
        call, and no answer can be sent."""
        ...

    def client_writable(self) -> None:
        """The client has taken what was sent."""
        ...

    def cut_off(self) -> None:
        """This process ends: end the request now, in a way that the client understands."""
        ...

    def stalled(self) -> None:
        """Nothing has moved in either direction for the longest time allowed."""
        ...


class Call(Protocol):
    """One request under way to an endpoint."""

    def send_head(self, head: RequestHead, *, end: bool) -> None:
        """Send the request's head. ``end``: there is no body."""
        ...

    def send_data(self, data: bytes) -> None:
        """Send some of the body."""
        ...

    def send_end(self, trailers: Headers | None) -> None:
        """The request is complete."""
        ...

    def flush(self) -> None:
        """Nothing more comes for now: send what was collected."""
        ...

    def cancel(self) -> None:
        """Give the request up; the sink is told nothing more."""
        ...

    @property
    def congested(self) -> bool:
        """The endpoint does not take what was sent."""
        ...

    def pause(self) -> None:
        """Hold the answer's body back."""
        ...

    def resume(self) -> None:
        """Let the answer's body come."""
        ...


class ResponseSink(Protocol):
    """Who is told about one call."""

    def call_ready(self, call: Call) -> None:
        """A pool that had no connection at once has one now."""
        ...

    def response_informational(self, head: ResponseHead) -> None:
        """An interim answer."""
        ...

    def response_head(self, head: ResponseHead, *, end: bool) -> None:
        """The final answer's head. ``end``: there is no body, and the call is over."""
        ...

    def response_data(self, data: bytes) -> None:
        """Some of the body."""
        ...

    def response_end(self, trailers: Headers | None) -> None:
        """The answer is complete. The last call."""
        ...

    def response_flush(self) -> None:
        """What has arrived is told."""
        ...

    def call_failed(self, failure: Failure) -> None:
        """There will be no (whole) answer. The last call."""
        ...

    def upstream_writable(self) -> None:
        """The endpoint has taken what was sent."""
        ...


class ServerOwner(Protocol):
    """Who is told of a connection's requests."""

    def request(self, responder: Responder, head: RequestHead, *, end: bool, version: str) -> RequestSink:
        """A request has arrived; it may be answered within this call. ``version`` is ``1.0``, ``1.1`` or ``2``."""
        ...

    def refused(self, status: int, reason: str) -> None:
        """What arrived was no request, and was answered with this status."""
        ...

    def connection_over(self) -> None:
        """The connection has ended."""
        ...


class Unwanted:
    """The sink of an answer that nobody wants any more, and that is here already."""

    __slots__ = ()

    def call_ready(self, call: Call) -> None:
        """Nobody cares."""

    def response_informational(self, head: ResponseHead) -> None:
        """Nobody cares."""

    def response_head(self, head: ResponseHead, *, end: bool) -> None:
        """Nobody cares."""

    def response_data(self, data: bytes) -> None:
        """Nobody cares."""

    def response_end(self, trailers: Headers | None) -> None:
        """Nobody cares."""

    def response_flush(self) -> None:
        """Nobody cares."""

    def call_failed(self, failure: Failure) -> None:
        """Nobody cares."""

    def upstream_writable(self) -> None:
        """Nobody cares."""


UNWANTED = Unwanted()
