"""Decisions by chance: shares of requests, weighted backends, mirrors, faults. Random numbers are arguments."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Final, Generic, NamedTuple, TypeVar

from mesh.errors import ConfigurationError
from mesh.model.http_route import Fault, Fraction

Random = Callable[[], float]
"""Uniform in [0, 1)."""
Item = TypeVar("Item")


def share_of(fraction: Fraction) -> float:
    """Between 0 and 1.

    Raises:
        ConfigurationError: no share.
    """
    if fraction.denominator <= 0 or not 0 <= fraction.numerator <= fraction.denominator:
        raise ConfigurationError(f"{fraction.numerator} of {fraction.denominator} is no share of requests")
    return fraction.numerator / fraction.denominator


class Weighted(Generic[Item]):
    """Items drawn by weight; those of weight 0 never are."""

    __slots__ = ("_bounds", "_items", "_only", "_total")

    def __init__(self, items: Sequence[Item], weights: Sequence[int]) -> None:
        """Raises:
        ConfigurationError: a negative weight.
        """
        if any(weight < 0 for weight in weights):
            raise ConfigurationError("weights of backends are not negative")
        drawn = [(item, weight) for item, weight in zip(items, weights, strict=True) if weight]
        self._items = tuple(item for item, _ in drawn)
        self._bounds = tuple(accumulate(weight for _, weight in drawn))
        self._total = self._bounds[-1] if self._bounds else 0
        self._only = self._items[0] if len(self._items) == 1 else None

    def pick(self, random: Random) -> Item | None:
        """Draw one; None if there is none with a weight."""
        if self._only is not None:
            return self._only
        if not self._items:
            return None
        # Rounding can lift a chance just below 1 to the total itself.
        return self._items[min(bisect_right(self._bounds, random() * self._total), len(self._items) - 1)]


class FaultPlan(NamedTuple):
    """What is done to one request."""

    delay_seconds: float
    """0: none."""
    abort_status: int
    """0: none."""
    abort_grpc_status: int
    """-1: none. Said in the trailers of a gRPC request's answer."""


NO_FAULT: Final = FaultPlan(0.0, 0, -1)


class CompiledFault:
    """A route's faults. Delay and abort are drawn apart."""

    __slots__ = ("_abort_share", "_delay_share", "_plans")

    def __init__(self, fault: Fault) -> None:
        """Raises:
        ConfigurationError: a share or status that is none.
        """
        delay = fault.delay_seconds or 0.0
        status = fault.abort_status or 0
        grpc = -1 if fault.abort_grpc_status is None else fault.abort_grpc_status
        if status and not 200 <= status <= 599:
            raise ConfigurationError(f"a fault cannot answer status {status}")
        if delay < 0:
            raise ConfigurationError("a fault cannot delay by a negative time")
        aborts = bool(status) or grpc >= 0
        self._delay_share = share_of(fault.delay_share) if delay else 0.0
        self._abort_share = share_of(fault.abort_share) if aborts else 0.0
        abort = FaultPlan(0.0, status or 200, grpc) if aborts else NO_FAULT
        both = FaultPlan(delay, abort.abort_status, grpc)
        self._plans = (NO_FAULT, abort, FaultPlan(delay, 0, -1), both)

    def decide(self, random: Random) -> FaultPlan:
        """What is done to this request."""
        delayed = self._delay_share > 0 and random() < self._delay_share
        aborted = self._abort_share > 0 and random() < self._abort_share
        return self._plans[2 * delayed + aborted]
