"""Which endpoint of a service: pure picks, chance injected.

Endpoints are filtered by health and ranked by how many of the service's routing preferences they share with the source,
counted from the first one until one differs. STRICT keeps those that share all, FAILOVER those of the best rank there
is; without either, all are equal. Among what is left one is drawn with a probability in proportion to its capacity.

Ranking looks at every endpoint, drawing does not: a ``WeightedPool`` is built once per locality of a source and kept
until the endpoints change.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Generic, TypeVar

from mesh.model.service import BalancingMode, HealthPolicy, LoadBalancing, RoutingScope
from mesh.model.workload import HealthStatus, Workload

Item = TypeVar("Item")
Place = tuple[str, ...]
"""Where a workload is, seen through a preference: one value per scope."""


def place_of(workload: Workload, preference: Sequence[RoutingScope]) -> Place:
    """The parts of a workload's position that a preference looks at, in its order."""
    return tuple([_part(workload, scope) for scope in preference])


def _part(workload: Workload, scope: RoutingScope) -> str:
    match scope:
        case RoutingScope.REGION:
            return workload.locality.region
        case RoutingScope.ZONE:
            return workload.locality.zone
        case RoutingScope.SUBZONE:
            return workload.locality.subzone
        case RoutingScope.NODE:
            return workload.node
        case RoutingScope.CLUSTER:
            return workload.cluster_id
        case RoutingScope.NETWORK:
            return workload.network
        case RoutingScope.UNSPECIFIED:
            return ""


def rank(source: Place, endpoint: Place) -> int:
    """How many leading parts agree."""
    for index, (ours, theirs) in enumerate(zip(source, endpoint, strict=True)):
        if ours != theirs:
            return index
    return len(source)


def eligible(endpoints: Iterable[Workload], source: Place, balancing: LoadBalancing) -> list[Workload]:
    """The endpoints that a source at ``source`` may be sent to, in their given order.

    Args:
        endpoints: candidates.
        source: ``place_of`` the source with the same preference.
        balancing: the service's.
    """
    if balancing.health_policy is not HealthPolicy.ALLOW_ALL:
        endpoints = [endpoint for endpoint in endpoints if endpoint.status is HealthStatus.HEALTHY]
    endpoints = [endpoint for endpoint in endpoints if endpoint.capacity > 0]
    preference = balancing.routing_preference
    if not endpoints or not preference or balancing.mode not in (BalancingMode.STRICT, BalancingMode.FAILOVER):
        return endpoints
    ranks = [rank(source, place_of(endpoint, preference)) for endpoint in endpoints]
    wanted = len(preference) if balancing.mode is BalancingMode.STRICT else max(ranks)
    return [endpoint for endpoint, reached in zip(endpoints, ranks, strict=True) if reached == wanted]


class WeightedPool(Generic[Item]):
    """Items to draw from by weight; immutable."""

    __slots__ = ("_bounds", "_total", "items")

    def __init__(self, items: Sequence[Item], weights: Sequence[int]) -> None:
        """Weights are positive."""
        self.items = tuple(items)
        self._bounds = tuple(accumulate(weights))
        self._total = self._bounds[-1] if self._bounds else 0

    @property
    def weights(self) -> tuple[int, ...]:
        """Of the items, in their order."""
        return tuple(high - low for low, high in zip((0, *self._bounds), self._bounds, strict=False))

    def pick(self, chance: float) -> Item | None:
        """Draw one with ``chance`` uniform in [0, 1); None from an empty pool."""
        items = self.items
        if len(items) < 2:
            return items[0] if items else None
        # Rounding can lift a chance just below 1 to the total itself.
        return items[min(bisect_right(self._bounds, chance * self._total), len(items) - 1)]
