"""Active health checks: when each endpoint is to be asked, and what its answers mean.

An endpoint that is new counts as healthy until its checks have failed ``unhealthy_threshold`` times in a row: the
control plane has called it ready. Checks of the endpoints of one service are spread over the interval.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mesh.model.upstream_policy import HealthCheck
from waypoint.routing.chance import Random
from waypoint.upstream.endpoint import Endpoint


class _Checked:
    __slots__ = ("asking", "due", "endpoint", "row")

    def __init__(self, endpoint: Endpoint, due: float) -> None:
        self.endpoint = endpoint
        self.due = due
        self.asking = False
        self.row = 0
        """Answers in a row that speak against what the endpoint counts as."""


class HealthMachine:
    """The health checks of one service or subset."""

    def __init__(self, policy: HealthCheck, changed: Callable[[], None], random: Random) -> None:
        """Prepare.

        Args:
            policy: the model's; may be replaced.
            changed: told when an endpoint's ``usable`` has changed.
            random: spreads the checks.
        """
        self.policy = policy
        self._changed = changed
        self._random = random
        self._checked: dict[int, _Checked] = {}

    def endpoints_changed(self, endpoints: Sequence[Endpoint], now: float) -> None:
        """These are the endpoints now."""
        former = self._checked
        self._checked = {
            id(endpoint): former.get(id(endpoint))
            or _Checked(endpoint, now + self._random() * self.policy.interval_seconds)
            for endpoint in endpoints
        }

    def due(self, now: float, most: int = 1_000_000) -> list[Endpoint]:
        """Whom to ask now: at most ``most``, then those that are due longest. Each is not due again before
        ``succeeded`` or ``failed``."""
        asked = [checked for checked in self._checked.values() if not checked.asking and checked.due <= now]
        if len(asked) > most:
            asked = sorted(asked, key=lambda checked: checked.due)[:most]
        for checked in asked:
            checked.asking = True
        return [checked.endpoint for checked in asked]

    def next_due(self) -> float | None:
        """When ``due`` is to be asked again; None: when something has changed."""
        return min((checked.due for checked in self._checked.values() if not checked.asking), default=None)

    def forget(self) -> None:
        """Nobody is asked for a while: what answers have said counts no more."""
        changed = False
        for checked in self._checked.values():
            checked.row = 0
            checked.endpoint.healthy = True
            changed = checked.endpoint.settle() or changed
        if changed:
            self._changed()

    def succeeded(self, endpoint: Endpoint, now: float) -> None:
        """A check was answered well."""
        self._answered(endpoint, True, now)

    def failed(self, endpoint: Endpoint, now: float) -> None:
        """A check was answered badly, or not in time."""
        self._answered(endpoint, False, now)

    def _answered(self, endpoint: Endpoint, well: bool, now: float) -> None:
        checked = self._checked.get(id(endpoint))
        if checked is None:
            return  # It went away meanwhile.
        checked.asking = False
        checked.due = now + self.policy.interval_seconds * (0.9 + 0.2 * self._random())
        if well is endpoint.healthy:
            checked.row = 0
            return
        checked.row += 1
        needed = self.policy.healthy_threshold if well else self.policy.unhealthy_threshold
        if checked.row >= max(needed, 1):
            checked.row = 0
            endpoint.healthy = well
            if endpoint.settle():
                self._changed()
