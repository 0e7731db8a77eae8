"""When a request is tried again, and how long to wait before: Envoy's conditions and backoff."""

from __future__ import annotations

from typing import Protocol

from mesh.model.http_route import Retry
from waypoint.http.contract import Failure, FailureKind
from waypoint.http.message import ResponseHead, first

_CONNECT = frozenset({FailureKind.CONNECT, FailureKind.CONNECT_TIMEOUT})
_RESET = frozenset({FailureKind.RESET, FailureKind.LOST, FailureKind.PROTOCOL, FailureKind.REFUSED}) | _CONNECT
_FAILURES = {
    "5xx": _RESET,
    "gateway-error": _RESET,
    "connect-failure": _CONNECT,
    "reset": _RESET,
    "reset-before-request": _CONNECT | {FailureKind.REFUSED},
    "refused-stream": frozenset({FailureKind.REFUSED}),
}
_STATUSES = {
    "5xx": frozenset(range(500, 600)),
    "gateway-error": frozenset({502, 503, 504}),
    "retriable-4xx": frozenset({409}),
}
_TIMEOUTS = frozenset({"5xx", "gateway-error", "reset"})
_GRPC_STATUSES = {
    "cancelled": b"1",
    "deadline-exceeded": b"4",
    "internal": b"13",
    "resource-exhausted": b"8",
    "unavailable": b"14",
}
MOST_TIMES_BASE = 10
"""The longest backoff, in times of the first."""


class RetryBudget(Protocol):
    """How many retries may be under way at a time for a service."""

    def take(self) -> bool:
        """Whether one more may be."""

    def give_back(self) -> None:
        """One is over."""


class RetryPlan:
    """One route's retries, made ready for use: shared by all of its requests."""

    __slots__ = ("_failures", "_grpc", "_on_timeout", "_statuses", "attempts", "backoff", "budget", "try_timeout")

    def __init__(self, model: Retry, budget: RetryBudget | None = None) -> None:
        conditions = model.conditions
        self.attempts = model.attempts
        """Further ones after the first."""
        self.try_timeout = model.per_try_timeout_seconds
        self.backoff = model.backoff_seconds
        self.budget = budget
        self._failures = frozenset().union(*(_FAILURES.get(name, frozenset()) for name in conditions))
        self._statuses = frozenset(model.statuses).union(*(_STATUSES.get(name, frozenset()) for name in conditions))
        self._grpc = frozenset(_GRPC_STATUSES[name] for name in conditions if name in _GRPC_STATUSES)
        self._on_timeout = not _TIMEOUTS.isdisjoint(conditions) or 504 in model.statuses

    def for_failure(self, failure: Failure) -> bool:
        """Whether an attempt without an answer is repeated."""
        return failure.kind in self._failures

    def for_timeout(self) -> bool:
        """Whether an attempt whose answer did not begin in time is repeated."""
        return self._on_timeout

    def for_answer(self, head: ResponseHead) -> bool:
        """Whether an attempt with this answer is repeated. gRPC statuses count where the answer is all head."""
        if head.status in self._statuses:
            return True
        return bool(self._grpc) and first(head.headers, b"grpc-status") in self._grpc

    def wait(self, retry: int, draw: float) -> float:
        """Seconds before the ``retry``-th further attempt (1 is the first); ``draw`` is random in [0, 1)."""
        most = min(self.backoff * (1 << retry - 1), self.backoff * MOST_TIMES_BASE)
        return most * draw
