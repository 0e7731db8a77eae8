"""Which of several equal endpoints: round robin, random, least request. Ring hash and Maglev are in modules of theirs.

A balancer is made for a fixed list of endpoints and thrown away when the list, a weight or somebody's health changes.
Weights are positive numbers, not necessarily whole: an endpoint in its slow start has a part of its weight.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Protocol

from waypoint.routing.chance import Random
from waypoint.upstream.endpoint import Endpoint


class Balancer(Protocol):
    """Chooses among its endpoints."""

    def pick(self, hashed: int | None) -> Endpoint | None:
        """The next one; None if there are none.

        Args:
            hashed: what the request's hash keys say; for those that balance by it.
        """
        ...


class _Drawn:
    """Draws by weight."""

    __slots__ = ("_bounds", "_count", "_endpoints", "_random", "_total")

    def __init__(self, endpoints: Sequence[Endpoint], weights: Sequence[float], random: Random) -> None:
        self._endpoints = tuple(endpoints)
        self._count = len(self._endpoints)
        self._random = random
        # Equal weights need no search.
        self._bounds = () if len(set(weights)) < 2 else tuple(accumulate(weights))
        self._total = self._bounds[-1] if self._bounds else 0.0

    def _draw(self) -> Endpoint:
        # Rounding can lift a chance just below 1 to the total itself.
        if not self._bounds:
            return self._endpoints[min(int(self._random() * self._count), self._count - 1)]
        return self._endpoints[min(bisect_right(self._bounds, self._random() * self._total), self._count - 1)]


class RandomBalancer(_Drawn):
    """Any, by weight."""

    __slots__ = ()

    def pick(self, hashed: int | None) -> Endpoint | None:
        """Draw one."""
        if self._count < 2:
            return self._endpoints[0] if self._count else None
        return self._draw()


class LeastRequestBalancer(_Drawn):
    """The less busy of two drawn by weight: nearly as even as looking at all, without herds (Mitzenmacher 2001)."""

    __slots__ = ("_weights",)

    def __init__(self, endpoints: Sequence[Endpoint], weights: Sequence[float], random: Random) -> None:
        super().__init__(endpoints, weights, random)
        self._weights = {id(endpoint): weight for endpoint, weight in zip(endpoints, weights, strict=True)}

    def pick(self, hashed: int | None) -> Endpoint | None:
        """Draw two, take the one with fewer requests under way for its weight."""
        if self._count < 2:
            return self._endpoints[0] if self._count else None
        first, second = self._draw(), self._draw()
        if not self._bounds:
            return second if second.active < first.active else first
        # The weight has been in the draw already; here it says how much is much for whom.
        ours, theirs = self._weights[id(first)], self._weights[id(second)]
        return second if (second.active + 1) * ours < (first.active + 1) * theirs else first


class RoundRobinBalancer:
    """One after the other; heavier ones more often, evenly spread (earliest deadline first)."""

    __slots__ = ("_endpoints", "_next", "_queue")

    def __init__(self, endpoints: Sequence[Endpoint], weights: Sequence[float], random: Random) -> None:
        self._endpoints = tuple(endpoints)
        # Replicas that all began with the first endpoint would hit it together.
        self._next = int(random() * len(self._endpoints)) if endpoints else 0
        self._queue: list[tuple[float, int, float]] = []
        if len(set(weights)) > 1:
            self._queue = [(random() / weight, index, 1 / weight) for index, weight in enumerate(weights)]
            heapq.heapify(self._queue)

    def pick(self, hashed: int | None) -> Endpoint | None:
        """The next in turn."""
        endpoints = self._endpoints
        if self._queue:
            deadline, index, step = self._queue[0]
            heapq.heapreplace(self._queue, (deadline + step, index, step))
            return endpoints[index]
        if not endpoints:
            return None
        index = self._next
        if index >= len(endpoints):
            index = 0
        self._next = index + 1
        return endpoints[index]
