"""When a request is tried again, and after what time.

The conditions are Envoy's (``x-envoy-retry-on``), and mean what they mean there: ``5xx`` and ``gateway-error`` also
hold when there was no answer at all.
"""

from __future__ import annotations

import enum
from typing import Final

from mesh.errors import ConfigurationError
from mesh.model.http_route import Retry

_MAXIMUM_STEPS: Final = 10
"""No wait is longer than so many times the first one's bound."""


class Failure(enum.IntFlag):
    """How an attempt ended without an answer."""

    CONNECT = 1
    """No connection was made."""
    RESET = 2
    """The stream or connection ended after the request had begun to be sent."""
    RESET_BEFORE_REQUEST = 4
    """It ended before a byte of the request was sent."""
    REFUSED_STREAM = 8
    """The upstream says it has not processed the request (HTTP/2 REFUSED_STREAM, GOAWAY)."""
    TIMEOUT = 16
    """The attempt's own time was up."""


_FAILURES: Final = {
    "5xx": 31,
    "gateway-error": 31,
    "connect-failure": Failure.CONNECT.value,
    "reset": 31 & ~Failure.CONNECT.value,
    "reset-before-request": Failure.RESET_BEFORE_REQUEST.value,
    "refused-stream": Failure.REFUSED_STREAM.value,
}
_STATUSES: Final = {
    "5xx": frozenset(range(500, 600)),
    "gateway-error": frozenset({502, 503, 504}),
    "retriable-4xx": frozenset({409}),
}
_GRPC: Final = {
    "cancelled": 1,
    "deadline-exceeded": 4,
    "resource-exhausted": 8,
    "internal": 13,
    "unavailable": 14,
}


class RetryPlan:
    """A route's retries, compiled."""

    __slots__ = (
        "_backoff_seconds",
        "_failures",
        "_grpc",
        "_statuses",
        "attempts",
        "other_endpoints",
        "per_try_timeout_seconds",
    )

    def __init__(self, retry: Retry) -> None:
        """Compile.

        Raises:
            ConfigurationError: an unknown condition, or a number below zero.
        """
        failures, statuses, grpc = 0, set(retry.statuses), set()
        for condition in retry.conditions:
            known = condition in _FAILURES or condition in _STATUSES
            failures |= _FAILURES.get(condition, 0)
            statuses |= _STATUSES.get(condition, frozenset())
            if condition in _GRPC:
                grpc.add(_GRPC[condition])
            elif not known:
                if not (len(condition) == 3 and condition.isascii() and condition.isdigit()):
                    raise ConfigurationError(f"{condition[:64]!r} is no condition for a retry")
                statuses.add(int(condition))
        if retry.attempts < 0 or retry.backoff_seconds < 0:
            raise ConfigurationError("attempts and backoff of retries are not negative")
        self._failures = failures
        self._statuses = frozenset(statuses)
        self._grpc = frozenset(grpc)
        self._backoff_seconds = retry.backoff_seconds
        self.attempts = retry.attempts
        """After the first."""
        self.per_try_timeout_seconds = retry.per_try_timeout_seconds
        self.other_endpoints = retry.other_endpoints

    def after_status(self, status: int, grpc_status: int = -1) -> bool:
        """Whether an answer is tried again.

        Args:
            status: the answer's.
            grpc_status: ``grpc-status`` in its headers (an answer without body has it there); -1 without one.
        """
        return status in self._statuses or (grpc_status >= 0 and grpc_status in self._grpc)

    def after_failure(self, failure: Failure) -> bool:
        """Whether an attempt without an answer is tried again."""
        return bool(self._failures & failure.value)

    def backoff(self, retries: int, random: float) -> float:
        """Seconds before the next attempt: exponential, fully jittered.

        Args:
            retries: 1 before the first further attempt.
            random: at least 0, less than 1.
        """
        bound: float = min(1 << min(retries - 1, _MAXIMUM_STEPS), _MAXIMUM_STEPS) * self._backoff_seconds
        return bound * random
