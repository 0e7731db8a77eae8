"""Outlier detection: endpoints that answer badly are left out for a while (Envoy's rules).

What ejects: so many 5xx in a row; so many 502, 503, 504 in a row; so many failures of our own side in a row (no
connection, reset, timeout), where these are told apart, else they count as 5xx; and, at each sweep, a share of
successes that lies more than some standard deviations below the mean of all. The first ejection lasts the base time,
the n-th n times that, at most five minutes; a sweep without ejection forgives one. No more than a given part of the
endpoints is out at a time, though always one may be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean, pstdev
from typing import Final

from mesh.model.upstream_policy import OutlierDetection
from waypoint.upstream.endpoint import Endpoint

MAX_EJECTION_SECONDS: Final = 300.0


class OutlierMachine:
    """Outlier detection for the endpoints of one service or subset."""

    __slots__ = ("_changed", "_endpoints", "ejections", "policy")

    def __init__(self, policy: OutlierDetection, changed: Callable[[], None]) -> None:
        """Prepare.

        Args:
            policy: the model's; may be replaced.
            changed: told when an endpoint's ``usable`` has changed.
        """
        self.policy = policy
        self.ejections = 0
        """In all, for metrics."""
        self._changed = changed
        self._endpoints: Sequence[Endpoint] = ()

    def endpoints_changed(self, endpoints: Sequence[Endpoint]) -> None:
        """These are the endpoints now."""
        self._endpoints = endpoints

    def answered(self, endpoint: Endpoint, status: int, now: float) -> None:
        """An endpoint has answered. Costs next to nothing while all is well."""
        endpoint.requests += 1
        endpoint.consecutive_local_failures = 0
        if status < 500:
            endpoint.successes += 1
            endpoint.consecutive_5xx = 0
            endpoint.consecutive_gateway_errors = 0
            return
        self._failed(endpoint, status in (502, 503, 504), now)

    def failed_locally(self, endpoint: Endpoint, now: float) -> None:
        """No answer: no connection, a reset, a timeout."""
        endpoint.requests += 1
        policy = self.policy
        if not policy.split_local_errors:
            self._failed(endpoint, True, now)
            return
        endpoint.consecutive_local_failures += 1
        limit = policy.consecutive_local_failures
        if limit and endpoint.consecutive_local_failures >= limit:
            endpoint.consecutive_local_failures = 0
            self._eject(endpoint, now)

    def _failed(self, endpoint: Endpoint, gateway: bool, now: float) -> None:
        policy = self.policy
        endpoint.consecutive_5xx += 1
        endpoint.consecutive_gateway_errors = endpoint.consecutive_gateway_errors + 1 if gateway else 0
        limit, gateway_limit = policy.consecutive_5xx, policy.consecutive_gateway_errors
        if (limit and endpoint.consecutive_5xx >= limit) or (
            gateway_limit and endpoint.consecutive_gateway_errors >= gateway_limit
        ):
            endpoint.consecutive_5xx = endpoint.consecutive_gateway_errors = 0
            self._eject(endpoint, now)

    def sweep(self, now: float) -> None:
        """Let back in whose time is up, forgive, and look at shares of successes; every ``policy.interval_seconds``."""
        back = False
        for endpoint in self._endpoints:
            if endpoint.ejected_until:
                if now >= endpoint.ejected_until:
                    endpoint.ejected_until = 0.0
                    back = endpoint.settle() or back
            elif endpoint.ejections:
                endpoint.ejections -= 1
        if back:
            self._changed()
        if self.policy.success_rate:
            self._judge_rates(now)
        for endpoint in self._endpoints:
            endpoint.requests = endpoint.successes = 0

    def _judge_rates(self, now: float) -> None:
        policy = self.policy
        judged = [
            endpoint
            for endpoint in self._endpoints
            if endpoint.requests >= policy.success_rate_request_volume and not endpoint.ejected_until
        ]
        if len(judged) < max(policy.success_rate_minimum_hosts, 1):
            return
        rates = [endpoint.successes / endpoint.requests for endpoint in judged]
        bound = fmean(rates) - policy.success_rate_stdev_factor * pstdev(rates)
        for endpoint, rate in zip(judged, rates, strict=True):
            if rate < bound:
                self._eject(endpoint, now)

    def _eject(self, endpoint: Endpoint, now: float) -> None:
        if endpoint.ejected_until:
            return
        out = sum(1 for other in self._endpoints if other.ejected_until)
        if out and (out + 1) * 100 > self.policy.max_ejection_percent * len(self._endpoints):
            return
        endpoint.ejections += 1
        lasts = min(self.policy.base_ejection_seconds * endpoint.ejections, MAX_EJECTION_SECONDS)
        endpoint.ejected_until = now + max(lasts, self.policy.base_ejection_seconds)
        self.ejections += 1
        if endpoint.settle():
            self._changed()
