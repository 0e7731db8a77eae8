"""When a request is tried again: a route's conditions (``waypoint.routing.retry``), asked what became of attempts."""

from __future__ import annotations

from typing import Final, Protocol

from mesh.model.http_route import Retry
from waypoint.http.contract import Failure, FailureKind
from waypoint.http.message import ResponseHead, first
from waypoint.routing.retry import Failure as Ending
from waypoint.routing.retry import RetryPlan as Conditions

_ENDINGS: Final = {
    FailureKind.CONNECT: Ending.CONNECT | Ending.RESET_BEFORE_REQUEST,
    FailureKind.CONNECT_TIMEOUT: Ending.CONNECT | Ending.RESET_BEFORE_REQUEST,
    FailureKind.REFUSED: Ending.REFUSED_STREAM,
    FailureKind.RESET: Ending.RESET,
    FailureKind.LOST: Ending.RESET,
    FailureKind.PROTOCOL: Ending.RESET,
}
"""A pool's overflow is not among them: trying again would add to what is too much."""


class RetryBudget(Protocol):
    """How many retries may be under way at a time for a service."""

    def take(self) -> bool:
        """Whether one more may be."""

    def give_back(self) -> None:
        """One is over."""


class RetryPlan:
    """One route's retries, made ready for use: shared by all of its requests."""

    __slots__ = ("_conditions", "attempts", "budget", "try_timeout")

    def __init__(self, model: Retry, budget: RetryBudget | None = None) -> None:
        """Prepare.

        Raises:
            ConfigurationError: an unknown condition, or a number below zero.
        """
        self._conditions = Conditions(model)
        self.attempts = model.attempts
        """Further ones after the first."""
        self.try_timeout = model.per_try_timeout_seconds
        self.budget = budget

    def for_failure(self, failure: Failure) -> bool:
        """Whether an attempt without an answer is repeated."""
        ending = _ENDINGS.get(failure.kind)
        return ending is not None and self._conditions.after_failure(ending)

    def for_timeout(self) -> bool:
        """Whether an attempt whose answer did not begin in time is repeated."""
        return self._conditions.after_failure(Ending.TIMEOUT) or self._conditions.after_status(504)

    def for_answer(self, head: ResponseHead) -> bool:
        """Whether an attempt with this answer is repeated. gRPC statuses count where the answer is all head."""
        grpc = first(head.headers, b"grpc-status")
        status = int(grpc) if grpc is not None and grpc.isdigit() and len(grpc) < 4 else -1
        return self._conditions.after_status(head.status, status)

    def wait(self, retry: int, draw: float) -> float:
        """Seconds before the ``retry``-th further attempt (1 is the first); ``draw`` is random in [0, 1)."""
        return self._conditions.backoff(retry, draw)
