"""What is the waypoint's own of its HTTP ports (``mesh.admin``): readiness, and what it shows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, Protocol

import msgspec

from mesh.certificates.manager import IdentityManager
from mesh.identity import SpiffeId
from mesh.readiness import ProxyReadiness
from mesh.state.store import MeshState
from mesh.telemetry import log
from mesh.tls.kernel_driver import KernelTls, NoKernelTls, describe
from waypoint.destinations import Destinations
from waypoint.inbound import ConnectionServer

HELP = """\
GET  /config_dump          destinations, endpoints, certificate, connections
GET  /logging              log level
POST /logging?level=LEVEL  set the level of the process log
POST /quitquitquit         drain and stop
"""

_SECRETS: Final = frozenset({"private_key", "session_key"})


class Describes(Protocol):
    """What serves, for the dump."""

    def describe(self) -> object:
        """Connections and endpoints, as JSON can hold them."""
        ...


class Readiness(ProxyReadiness):
    """Whether this replica can serve; answers ``/healthz/ready``."""

    def __init__(
        self,
        state: MeshState,
        destinations: Destinations[ConnectionServer],
        identities: IdentityManager,
        identity: SpiffeId,
    ) -> None:
        super().__init__()
        self._state = state
        self._destinations = destinations
        self._identities = identities
        self._identity = identity

    def waits_for(self) -> Iterator[str]:
        """See :class:`ProxyReadiness`."""
        if not self._state.received_addresses:
            yield "the control plane has not sent workloads and services yet"
        if not self._destinations.synchronized:
            yield "the control plane has not sent this waypoint's destinations yet"
        if self._identities.cached(self._identity) is None:
            yield f"there is no certificate for {self._identity} yet"


def dump(
    state: MeshState,
    identities: IdentityManager,
    destinations: Destinations[ConnectionServer],
    serving: Describes,
    kernel_tls: KernelTls | NoKernelTls,
) -> object:
    """Everything this replica works from."""
    return {
        "destinations": [
            without_secrets(msgspec.to_builtins(value, enc_hook=str)) for value in destinations.models()
        ],
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
        "kernel_tls": describe(kernel_tls),
        "workloads": len(state.workloads.by_uid),
        "services": len(state.services.views),
    }


def without_secrets(value: Any) -> Any:
    """A dump in which private keys, and the secret of session tokens, are only said to be there."""
    if isinstance(value, dict):
        return {
            key: "(not shown)" if key in _SECRETS and inner else without_secrets(inner)
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [without_secrets(inner) for inner in value]
    return value


def set_levels(level: str | None, _access: str | None) -> dict[str, str]:
    """Log from now on as this says and return what is in force; what is logged of requests is said by Telemetries.

    Raises:
        ConfigurationError: no such level.
    """
    if level is not None:
        log.set_level(level)
    return {"level": log.current_level()}
