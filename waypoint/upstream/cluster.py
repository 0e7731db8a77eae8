"""The endpoints of one service port (or subset of it), and the choice among them.

Theory of operation. Choosing is done for every request, and must cost a microsecond; what it depends on changes rarely.
So everything that can be is made when something has changed: tiers with their shares (``priorities``), and one balancer
for each tier's endpoints. ``changed`` marks that as stale, the next choice makes it anew. While an endpoint is in its
slow start its weight grows with time, and the balancers are made anew once a second.

Endpoints keep their object, and with it what was seen of them, as long as they are there under the same address; so a
change elsewhere forgets no ejection and no request under way.

Panic: if fewer than ``min_health_percent`` of the endpoints are usable, health is not believed and all are used: that
so many should be broken is less likely than that whoever says so is wrong. Without such a bound, nobody is chosen when
nobody is usable (``UH``).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Sequence
from itertools import accumulate
from typing import Final

from mesh.model.service import LoadBalancing
from mesh.model.upstream_policy import Algorithm, TrafficPolicy
from mesh.model.workload import Workload
from mesh.state.routes import ToWorkload
from waypoint.routing.chance import Random
from waypoint.upstream.balancers import Balancer, LeastRequestBalancer, RandomBalancer, RoundRobinBalancer
from waypoint.upstream.endpoint import Endpoint
from waypoint.upstream.hash_key import RequestHash
from waypoint.upstream.hashing import MaglevBalancer, RingBalancer
from waypoint.upstream.health_machine import HealthMachine
from waypoint.upstream.limits_machine import Limits
from waypoint.upstream.outlier_machine import OutlierMachine
from waypoint.upstream.priorities import spread

_SLOW_START_STEP: Final = 1.0
_SLOW_START_LEAST: Final = 0.1
_TRIES: Final = 5


class Cluster:
    """A service's port or subset, as a backend."""

    def __init__(self, policy: TrafficPolicy, source: Workload, random: Random) -> None:
        """Prepare, without endpoints.

        Args:
            policy: for this port or subset.
            source: the waypoint's own workload: where it is.
            random: uniform in [0, 1).

        Raises:
            ConfigurationError: a hash key that cannot be one.
        """
        self.policy = policy
        self.endpoints: list[Endpoint] = []
        self.limits = Limits(policy.pool)
        self.hash: RequestHash | None = None
        """What requests are hashed by; None if the balancing does not hash."""
        if policy.balancing.algorithm in (Algorithm.RING_HASH, Algorithm.MAGLEV) and policy.balancing.hash_keys:
            self.hash = RequestHash(policy.balancing.hash_keys)
        self.outliers = None if policy.outlier is None else OutlierMachine(policy.outlier, self.changed)
        self.health = None if policy.health_check is None else HealthMachine(policy.health_check, self.changed, random)
        self._source = source
        self._random = random
        self._service = LoadBalancing()
        self._by_key: dict[str, Endpoint] = {}
        self._balancers: list[Balancer] = []
        # Layouts of hashes by endpoints and weights: health does not change them, and they are dear to make.
        self._layouts: dict[tuple[tuple[int, float], ...], Balancer] = {}
        self._bounds: tuple[float, ...] = ()
        self._only: Balancer | None = None
        self._stale = True
        self._fresh_until = float("inf")

    def update(self, routes: Iterable[ToWorkload], service: LoadBalancing, now: float) -> list[Endpoint]:
        """Take in who is there now.

        Args:
            routes: where the endpoints are (``waypoint.upstream.endpoint.routes_of``).
            service: the service's own preference.
            now: on the monotonic clock.

        Returns:
            Those that are gone: their idle connections may be closed.
        """
        former = self._by_key
        first_time = not former
        current: dict[str, Endpoint] = {}
        for to in routes:
            known = former.get(to.workload.uid)
            if known is not None and _place(known.to) == _place(to):
                known.to, known.weight = to, to.workload.capacity
                locality = to.workload.locality
                known.locality = (locality.region, locality.zone, locality.subzone)
                current[known.key] = known
            else:
                # Who was there before this replica was is not new.
                current[to.workload.uid] = Endpoint(to, float("-inf") if first_time else now)
        gone = [endpoint for key, endpoint in former.items() if current.get(key) is not endpoint]
        self._by_key = current
        self.endpoints = list(current.values())
        self._service = service
        if self.outliers is not None:
            self.outliers.endpoints_changed(self.endpoints)
        if self.health is not None:
            self.health.endpoints_changed(self.endpoints, now)
        self._stale = True
        return gone

    def changed(self) -> None:
        """Somebody's health has changed."""
        self._stale = True

    def by_key(self, key: str) -> Endpoint | None:
        """The endpoint of a session, if it is there and usable."""
        endpoint = self._by_key.get(key)
        return endpoint if endpoint is not None and endpoint.usable else None

    def pick(self, now: float, hashed: int | None = None, tried: Collection[Endpoint] = ()) -> Endpoint | None:
        """Choose an endpoint.

        Args:
            now: on the monotonic clock.
            hashed: ``hash.of`` the request.
            tried: those that had their chance; another one is preferred.

        Returns:
            None: nobody may be used (``UH``).
        """
        if self._stale or now >= self._fresh_until:
            self._make(now)
        if not tried:
            return self._pick(hashed)
        for attempt in range(_TRIES):
            endpoint = self._pick(hashed if attempt == 0 else None)
            if endpoint is None or endpoint not in tried:
                return endpoint
        untried = [endpoint for endpoint in self.endpoints if endpoint.usable and endpoint not in tried]
        return untried[int(self._random() * len(untried))] if untried else endpoint

    def _pick(self, hashed: int | None) -> Endpoint | None:
        if self._only is not None:
            return self._only.pick(hashed)
        if not self._balancers:
            return None
        index = bisect_right(self._bounds, self._random() * self._bounds[-1])
        return self._balancers[min(index, len(self._balancers) - 1)].pick(hashed)

    def _make(self, now: float) -> None:
        policy = self.policy
        self._stale = False
        self._fresh_until = float("inf")
        everybody = self.endpoints
        usable = sum(endpoint.usable for endpoint in everybody)
        least = 0 if policy.outlier is None else policy.outlier.min_health_percent
        panic = usable * 100 < least * len(everybody)
        shares = spread(everybody, self._source, self._service, policy.balancing, outliers=policy.outlier is not None)
        tiers = [(tier if panic else [item for item in tier if item.usable], tier, share) for tier, share in shares]
        tiers = [(chosen, tier, share) for chosen, tier, share in tiers if chosen]
        former, self._layouts = self._layouts, {}
        self._balancers = [self._balancer(chosen, tier, now, former) for chosen, tier, _ in tiers]
        self._bounds = tuple(accumulate(share for _, _, share in tiers))
        self._only = self._balancers[0] if len(self._balancers) == 1 else None

    def _balancer(
        self,
        chosen: Sequence[Endpoint],
        tier: Sequence[Endpoint],
        now: float,
        former: dict[tuple[tuple[int, float], ...], Balancer],
    ) -> Balancer:
        balancing = self.policy.balancing
        match balancing.algorithm:
            case Algorithm.RING_HASH | Algorithm.MAGLEV:
                # Whoever is out for a while keeps its place, so that its requests come back with it.
                weights = self._weights(tier, now)
                key = tuple([(id(endpoint), weight) for endpoint, weight in zip(tier, weights, strict=True)])
                layout = former.get(key)
                if layout is None and balancing.algorithm is Algorithm.RING_HASH:
                    layout = RingBalancer(tier, weights, self._random, balancing.ring_size)
                elif layout is None:
                    layout = MaglevBalancer(tier, weights, self._random, balancing.table_size)
                self._layouts[key] = layout
                return layout
            case Algorithm.ROUND_ROBIN:
                return RoundRobinBalancer(chosen, self._weights(chosen, now), self._random)
            case Algorithm.RANDOM:
                return RandomBalancer(chosen, self._weights(chosen, now), self._random)
            case _:
                return LeastRequestBalancer(chosen, self._weights(chosen, now), self._random)

    def _weights(self, endpoints: Sequence[Endpoint], now: float) -> list[float]:
        window = self.policy.balancing.slow_start_seconds
        hashes = self.policy.balancing.algorithm in (Algorithm.RING_HASH, Algorithm.MAGLEV)
        if window <= 0 or hashes:
            return [float(endpoint.weight) for endpoint in endpoints]
        weights = []
        for endpoint in endpoints:
            age = now - endpoint.joined
            if age < window:
                self._fresh_until = now + min(_SLOW_START_STEP, window)
                weights.append(endpoint.weight * max(_SLOW_START_LEAST, age / window))
            else:
                weights.append(float(endpoint.weight))
        return weights


def _place(to: ToWorkload) -> tuple[object, ...]:
    """What connections to an endpoint depend on: with another one, it is another endpoint."""
    return to.target, to.tunnel, to.expected_identities
