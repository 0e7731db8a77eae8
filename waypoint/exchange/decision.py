"""What may be decided about a request, and by whom: the seam to routing, policy and upstreams.

A decision is made once, when the head has arrived, and kept to the end: a changed configuration concerns the next
request.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

import structlog

from waypoint.client import Client
from waypoint.exchange.facts import Facts
from waypoint.exchange.retry import RetryPlan
from waypoint.http.contract import Failure
from waypoint.http.message import Headers, RequestHead, ResponseHead
from waypoint.upstream.pool_contract import EndpointPool, Unavailable

_log = structlog.get_logger("waypoint")


class Backend(Protocol):
    """The service that a request goes to: it chooses an endpoint for each attempt, and learns how it went."""

    def choose(self, head: RequestHead, tried: list[EndpointPool]) -> EndpointPool | Unavailable:
        """An endpoint for the next attempt; ``tried`` are those of the attempts before, in order."""

    def finished(self, pool: EndpointPool, status: int, failure: Failure | None) -> None:
        """An attempt is over. ``status`` is the answer's, 0 without one; both are empty if it was given up from here
        or by the client. 504 stands for no answer in time."""


class Mirror:
    """A copy of the request goes there too; its answer is thrown away."""

    __slots__ = ("backend", "head", "timeout")

    def __init__(self, backend: Backend, head: RequestHead, timeout: float = 15.0) -> None:
        """``head`` is the mirror's own, changed as its backend wants it."""
        self.backend = backend
        self.head = head
        self.timeout = timeout


class Answer:
    """The request is answered here."""

    __slots__ = ("body", "details", "flag", "headers", "route", "status")

    def __init__(
        self, status: int, headers: Headers, body: bytes = b"", *, flag: str = "", route: str = "", details: str = ""
    ) -> None:
        """``flag`` is Envoy's response flag, if any: ``NR``, ``RL``, ``UAEX``, ``FI``, ..."""
        self.status = status
        self.headers = headers
        self.body = body
        self.flag = flag
        self.route = route
        self.details = details


class Forward:
    """The request goes to a backend; its head has been changed in place as that backend wants it."""

    __slots__ = (
        *("backend", "body_limit", "connect", "delay", "flag", "mirrors", "on_response", "retry", "route", "timeout"),
        *("try_timeout",),
    )

    def __init__(
        self,
        backend: Backend,
        *,
        route: str = "",
        timeout: float | None = None,
        try_timeout: float | None = None,
        retry: RetryPlan | None = None,
        mirrors: tuple[Mirror, ...] = (),
        delay: float = 0.0,
        flag: str = "",
        on_response: Callable[[ResponseHead], None] | None = None,
        connect: bool = False,
        body_limit: int = 64 * 1024,
    ) -> None:
        self.backend = backend
        self.route = route
        self.timeout = timeout
        """Seconds for the whole request, retries and delay included; None: any time."""
        self.try_timeout = try_timeout
        """Seconds of one attempt until its answer begins."""
        self.retry = retry
        self.mirrors = mirrors
        self.delay = delay
        """Seconds to wait first (a fault made on purpose; ``flag`` is ``DI`` then)."""
        self.flag = flag
        self.on_response = on_response
        """Changes the final answer's head in place."""
        self.connect = connect
        """A CONNECT may pass."""
        self.body_limit = body_limit
        """Bytes of body kept for retries and mirrors; a request with more has neither."""


Resume: TypeAlias = Callable[["Decision"], None]


class Wait(Protocol):
    """The decision takes time: somebody else is asked. The request's body is held back meanwhile."""

    body_bytes: int
    """How much of the body is to be there first, or all of it; 0: none. The client must be sending it without waiting
    for anything but ``100 Continue``."""

    def start(self, resume: Resume, body: bytes, *, whole: bool) -> None:
        """Call ``resume`` once, in the engine's thread, now or later; with another wait, if one follows.

        Args:
            resume: told the decision.
            body: what has arrived of the request's; more than ``body_bytes`` if there is more, or nearly nothing where
                none is asked for.
            whole: no more follows.
        """

    def cancel(self) -> None:
        """The client has gone: ``resume`` is not wanted any more."""


Decision: TypeAlias = "Answer | Forward | Wait"


class Decider(Protocol):
    """Routes, policies, limits: everything that is said about requests."""

    def decide(self, head: RequestHead, client: Client, facts: Facts) -> Decision:
        """Decide about one request; may change ``head`` in place."""


class Observer(Protocol):
    """Metrics, access log, traces."""

    def began(self, facts: Facts) -> None:
        """A request has come, and nothing is decided yet: gives it its id, and its trace if it is recorded. May change
        its head in place. Told exactly once for each, but for what was no request."""

    def finished(self, facts: Facts) -> None:
        """A request is over: told exactly once for each."""


def decided_by(go_on: Callable[[], Decision]) -> Decision:
    """What a function decides. A bug in a route or policy costs the requests that it concerns, and nobody waits for a
    decision that never comes."""
    try:
        return go_on()
    except Exception:
        _log.exception("a request could not be decided")
        return Answer(500, [], b"a bug of this proxy", details="decision_failed")
