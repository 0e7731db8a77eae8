"""Consistent hashing: requests with one hash go to one endpoint, and few move when endpoints come and go.

All replicas of a waypoint must choose alike, so hashes are of 64 bits of BLAKE2b over names, never of the process.

**Ring** (ketama): every endpoint stands at many points of a circle, as many as its weight says; a request goes to the
next point. **Maglev** (Eisenbud et al., NSDI 2016, section 3.4): every endpoint walks a permutation of a table of prime
size and takes slots in turn until all are taken; shares are nearly equal, a look-up is one index, and somewhat more
than the ideal share moves when an endpoint goes. Filling a table of 65537 slots takes tens of milliseconds.

An endpoint that is left out for a while (ejected, unhealthy) keeps its place: its requests go on to the next point, or
to slots found by hashing on, and come back when it does. Only endpoints that come or go make another layout.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Sequence
from hashlib import blake2b
from typing import Final

from waypoint.routing.chance import Random
from waypoint.upstream.endpoint import Endpoint

_MASK: Final = (1 << 64) - 1
_GOLDEN: Final = 0x9E3779B97F4A7C15
_MAX_HOPS: Final = 64
MAX_SIZE: Final = 131_071
"""Of a ring or table, whatever a policy says: making one takes time in which nothing else happens. A prime."""


def hash64(data: bytes) -> int:
    """64 bits of BLAKE2b."""
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little")


class RingBalancer:
    """A circle of points."""

    __slots__ = ("_endpoints", "_owners", "_points", "_random")

    def __init__(self, endpoints: Sequence[Endpoint], weights: Sequence[float], random: Random, size: int) -> None:
        """Lay the circle out.

        Args:
            endpoints: in any order; the layout does not depend on it.
            weights: positive.
            random: for requests without a hash.
            size: an eighth of it is how many points an endpoint of weight 1 has.
        """
        self._endpoints = sorted(endpoints, key=_key)
        self._random = random
        of = {id(endpoint): weight for endpoint, weight in zip(endpoints, weights, strict=True)}
        # The same whoever else is there: if it followed their number, each that comes or goes would move points of all
        # others. Only a circle that would grow too large is thinned, to a power of two.
        unit = max(size, 8) / 8
        while unit * sum(weights) > MAX_SIZE and unit > 1:
            unit /= 2
        points: list[tuple[int, int]] = []
        for index, endpoint in enumerate(self._endpoints):
            count = max(1, round(unit * of[id(endpoint)]))
            name = endpoint.key.encode()
            points += [(hash64(b"%s_%d" % (name, number)), index) for number in range(count)]
        points.sort()
        self._points = array("Q", [point for point, _ in points])
        self._owners = array("L", [owner for _, owner in points])

    def pick(self, hashed: int | None) -> Endpoint | None:
        """The owner of the next point; of those that may be used, if any may."""
        if not self._endpoints:
            return None
        if hashed is None:
            hashed = int(self._random() * (1 << 53)) << 11
        start = bisect_left(self._points, hashed)
        count = len(self._points)
        first = None
        for step in range(min(count, _MAX_HOPS)):
            endpoint = self._endpoints[self._owners[(start + step) % count]]
            if endpoint.usable:
                return endpoint
            first = first or endpoint
        return next((endpoint for endpoint in self._endpoints if endpoint.usable), first)


class MaglevBalancer:
    """A table of slots."""

    __slots__ = ("_endpoints", "_random", "_slots")

    def __init__(self, endpoints: Sequence[Endpoint], weights: Sequence[float], random: Random, size: int) -> None:
        """Fill the table.

        Args:
            endpoints: in any order; the layout does not depend on it.
            weights: positive.
            random: for requests without a hash.
            size: of the table, well above the number of endpoints; the next prime is taken.
        """
        self._endpoints = sorted(endpoints, key=_key)
        self._random = random
        of = {id(endpoint): weight for endpoint, weight in zip(endpoints, weights, strict=True)}
        self._slots = _filled(self._endpoints, [of[id(endpoint)] for endpoint in self._endpoints], prime(size))

    def pick(self, hashed: int | None) -> Endpoint | None:
        """The slot's endpoint; of those that may be used, if any may."""
        if not self._endpoints:
            return None
        if hashed is None:
            hashed = int(self._random() * (1 << 53))
        slots = self._slots
        first = None
        for _ in range(_MAX_HOPS):
            endpoint = self._endpoints[slots[hashed % len(slots)]]
            if endpoint.usable:
                return endpoint
            first = first or endpoint
            hashed = (hashed ^ (hashed >> 29)) * _GOLDEN + 1 & _MASK
        return next((endpoint for endpoint in self._endpoints if endpoint.usable), first)


def prime(size: int) -> int:
    """The least prime that is not below a size, between 3 and ``MAX_SIZE``: in a table of any other size the
    permutations would not reach every slot."""
    candidate = max(3, size | 1)
    while candidate < MAX_SIZE and any(candidate % divisor == 0 for divisor in range(3, int(candidate**0.5) + 1, 2)):
        candidate += 2
    return min(candidate, MAX_SIZE)


def _filled(endpoints: Sequence[Endpoint], weights: Sequence[float], size: int) -> array[int]:
    empty = (1 << 32) - 1
    slots = array("L", [empty]) * size
    if not endpoints:
        return slots
    heaviest = max(weights)
    positions, skips = [], []
    for endpoint in endpoints:
        name = endpoint.key.encode()
        positions.append(hash64(name + b"/offset") % size)
        skips.append(hash64(name + b"/skip") % (size - 1) + 1)
    turns = [0.0] * len(endpoints)
    taken = 0
    while True:
        for index, weight in enumerate(weights):
            # A lighter endpoint sits out some of the rounds.
            turns[index] += weight
            if turns[index] < heaviest:
                continue
            turns[index] -= heaviest
            position, skip = positions[index], skips[index]
            while slots[position] != empty:
                position += skip
                if position >= size:
                    position -= size
            slots[position] = index
            positions[index] = position
            taken += 1
            if taken == size:
                return slots


def _key(endpoint: Endpoint) -> str:
    return endpoint.key
