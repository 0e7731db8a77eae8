"""The waypoint's own HTTP ports: admin on loopback, metrics, readiness."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec

from mesh.certificates.manager import IdentityManager
from mesh.errors import ConfigurationError
from mesh.identity import SpiffeId
from mesh.relay.acceptor import Acceptor
from mesh.state.store import MeshState
from mesh.telemetry import log
from mesh.telemetry.http_endpoint import Handler, HttpRequest, HttpResponse, json_response, text_response
from waypoint.destinations import Destinations
from waypoint.inbound import ConnectionServer

Routes = dict[tuple[str, str], Handler]

_HELP = """\
GET  /config_dump          destinations, endpoints, certificate, connections
GET  /logging              log level
POST /logging?level=LEVEL  set the level of the process log
POST /quitquitquit         drain and stop
"""


class Describes(Protocol):
    """What serves, for the dump."""

    def describe(self) -> object:
        """Connections and endpoints, as JSON can hold them."""
        ...


class Readiness:
    """Whether this replica can serve; answers ``/healthz/ready``.

    Looked at from the data path's own task: if the relay or trio's loop hangs, nobody answers, and the probe fails.
    """

    def __init__(
        self,
        state: MeshState,
        destinations: Destinations[ConnectionServer],
        identities: IdentityManager,
        identity: SpiffeId,
    ) -> None:
        self._state = state
        self._destinations = destinations
        self._identities = identities
        self._identity = identity
        self._refused_before = 0
        self.draining = False

    def missing(self) -> list[str]:
        """What stands in the way, in words; empty when ready."""
        reasons = []
        if self.draining:
            reasons.append("draining")
        if not self._state.received_addresses:
            reasons.append("the control plane has not sent workloads and services yet")
        if not self._destinations.synchronized:
            reasons.append("the control plane has not sent this waypoint's destinations yet")
        if self._identities.cached(self._identity) is None:
            reasons.append(f"there is no certificate for {self._identity} yet")
        refused, self._refused_before = Acceptor.out_of_descriptors - self._refused_before, Acceptor.out_of_descriptors
        if refused:
            reasons.append(f"{refused} connections were refused for want of file descriptors")
        return reasons

    async def answer(self, _request: HttpRequest) -> HttpResponse:
        """The handler."""
        reasons = self.missing()
        return text_response("not ready: " + "; ".join(reasons), 503) if reasons else text_response("ready")


def dump(
    state: MeshState,
    identities: IdentityManager,
    destinations: Destinations[ConnectionServer],
    serving: Describes,
) -> object:
    """Everything this replica works from."""
    return {
        "destinations": [msgspec.to_builtins(value, enc_hook=str) for value in destinations.models()],
        "serving": serving.describe(),
        "certificates": [
            {
                "identity": str(report.identity),
                "state": report.state.value,
                "renew_at": None if report.renew_at is None else report.renew_at.isoformat(),
                "error": report.error,
            }
            for report in identities.report()
        ],
        "workloads": len(state.workloads.by_uid),
        "services": len(state.services.views),
    }


def admin_routes(everything: Callable[[], object], quit_now: Callable[[], None]) -> Routes:
    """Port 15000, loopback only."""

    async def help_page(_request: HttpRequest) -> HttpResponse:
        return text_response(_HELP)

    async def config_dump(_request: HttpRequest) -> HttpResponse:
        return json_response(everything())

    async def logging(request: HttpRequest) -> HttpResponse:
        if request.method == "POST" and "level" in request.query:
            try:
                log.set_level(request.query["level"])
            except ConfigurationError as error:
                return text_response(str(error), 400)
        return text_response(f"level: {log.current_level()}")

    async def stop(_request: HttpRequest) -> HttpResponse:
        quit_now()
        return text_response("draining")

    return {
        ("GET", "/"): help_page,
        ("GET", "/config_dump"): config_dump,
        ("GET", "/logging"): logging,
        ("POST", "/logging"): logging,
        ("POST", "/quitquitquit"): stop,
    }


def metrics_routes(page: Handler) -> Routes:
    """Port 15020."""
    return {("GET", "/metrics"): page, ("GET", "/stats/prometheus"): page}


def readiness_routes(answer: Callable[[HttpRequest], Awaitable[HttpResponse]]) -> Routes:
    """Port 15021."""
    return {("GET", "/healthz/ready"): answer}
