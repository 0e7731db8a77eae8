"""Which places requests go to, near ones first: endpoints in tiers, and each tier's share.

Who says what a tier is, in this order:

1. the service itself, by its routing preference (``trafficDistribution``, ``internalTrafficPolicy``): as
   ``mesh.balance`` ranks endpoints for ztunnel, with the worse ranks as further tiers, unless the service is strict;
2. shares by locality that the policy states for the waypoint's own;
3. failover by locality, if the policy has any, or has outlier detection: as in Istio, without which nobody could tell
   when to fail over. Same subzone, zone, region come first; then the region that the policy names; then all others;
4. else all endpoints are one tier.

How much a tier gets follows Envoy's rule: a tier carries 140 % of its healthy share, at most all; what it does not
carry goes to the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from mesh.balance import place_of, rank
from mesh.model.service import BalancingMode, LoadBalancing
from mesh.model.upstream_policy import Balancing
from mesh.model.workload import Workload
from waypoint.upstream.endpoint import Endpoint

_OVERPROVISIONING: Final = 1.4

Shares = list[tuple[list[Endpoint], float]]
"""Endpoints and their share of requests; shares add up to 1, unless nobody is there."""


def spread(
    endpoints: Sequence[Endpoint], source: Workload, service: LoadBalancing, balancing: Balancing, *, outliers: bool
) -> Shares:
    """Endpoints with their shares, as health is now.

    Args:
        endpoints: all of them, usable or not.
        source: the waypoint itself: only its place matters.
        service: the service's own preference.
        balancing: the policy's.
        outliers: the policy has outlier detection.
    """
    if service.routing_preference and service.mode in (BalancingMode.STRICT, BalancingMode.FAILOVER):
        return by_priority(_by_preference(endpoints, source, service))
    own = (source.locality.region, source.locality.zone, source.locality.subzone)
    if balancing.locality_enabled and own[0]:
        for share in balancing.locality_shares:
            if _covers(share.source, own):
                return _by_shares(endpoints, share.shares)
        if balancing.failover or outliers:
            return by_priority(_by_locality(endpoints, own, dict(balancing.failover)))
    return by_priority([list(endpoints)])


def by_priority(tiers: Sequence[list[Endpoint]]) -> Shares:
    """The share of each tier, by how many of its endpoints are usable. Tiers without a share are left out."""
    filled = [tier for tier in tiers if tier]
    health = [
        min(1.0, _OVERPROVISIONING * sum(endpoint.usable for endpoint in tier) / len(tier)) for tier in filled
    ]
    total = min(1.0, sum(health))
    if not total:
        return [(filled[0], 1.0)] if filled else []
    shares: Shares = []
    left = 1.0
    for tier, healthy in zip(filled, health, strict=True):
        share = min(left, healthy / total)
        if share > 1e-9:
            shares.append((tier, share))
        left -= share
    return shares


def _by_preference(endpoints: Sequence[Endpoint], source: Workload, service: LoadBalancing) -> list[list[Endpoint]]:
    preference = service.routing_preference
    place = place_of(source, preference)
    tiers: list[list[Endpoint]] = [[] for _ in range(len(preference) + 1)]
    for endpoint in endpoints:
        tiers[rank(place, place_of(endpoint.to.workload, preference))].append(endpoint)
    tiers.reverse()
    return tiers[:1] if service.mode is BalancingMode.STRICT else tiers


def _by_locality(
    endpoints: Sequence[Endpoint], own: tuple[str, str, str], failover: dict[str, str]
) -> list[list[Endpoint]]:
    tiers: list[list[Endpoint]] = [[] for _ in range(5)]
    for endpoint in endpoints:
        region, zone, subzone = endpoint.locality
        if region != own[0]:
            tier = 3 if failover.get(own[0]) == region else 4
        elif zone != own[1]:
            tier = 2
        else:
            tier = 0 if subzone == own[2] else 1
        tiers[tier].append(endpoint)
    return tiers


def _by_shares(endpoints: Sequence[Endpoint], wanted: Sequence[tuple[str, int]]) -> Shares:
    """Shares as stated; localities without a usable endpoint give theirs to the others."""
    groups: Shares = []
    placed: set[int] = set()
    # The most specific pattern takes an endpoint.
    for pattern, percent in sorted(wanted, key=lambda item: -len(item[0].rstrip("*").strip("/"))):
        group = [item for item in endpoints if id(item) not in placed and _covers(pattern, item.locality)]
        placed.update(map(id, group))
        if percent > 0 and any(endpoint.usable for endpoint in group):
            groups.append((group, float(percent)))
    total = sum(share for _, share in groups)
    if not total:
        return by_priority([list(endpoints)])
    return [(group, share / total) for group, share in groups]


def _covers(pattern: str, locality: tuple[str, str, str]) -> bool:
    """``region/zone/subzone``, cut short or with ``*`` for any."""
    parts = pattern.split("/")
    return all(part in ("*", have) for part, have in zip(parts, locality, strict=False))
