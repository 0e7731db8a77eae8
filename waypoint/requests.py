"""What becomes known of requests: metrics and access records, made when a request is over."""

from __future__ import annotations

import random

from prometheus_client import CollectorRegistry

from mesh.addresses import PeerAddress
from mesh.errors import MeshError
from mesh.model.waypoint import Destination
from mesh.state.store import MeshState
from mesh.telemetry.output import LineOutput
from waypoint.exchange.facts import Facts


class Requests:
    """Shared by all destinations."""

    def __init__(self, registry: CollectorRegistry, output: LineOutput, state: MeshState) -> None:
        self._output = output
        self._random = random.Random()

    def new_request_id(self) -> bytes:
        """A UUID of version 4 (RFC 9562): unique, not secret, so no system call for entropy."""
        digits = f"{self._random.getrandbits(128):032x}"
        return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}".encode()

    def of(self, destination: Destination) -> DestinationRequests:
        """The observer of one destination's requests."""
        return DestinationRequests(self._output, destination)

    def refused(self, peer: PeerAddress, wanted: str, error: MeshError) -> None:
        """A connection was not served at all."""


class DestinationRequests:
    """One destination's (``waypoint.exchange.decision.Observer``)."""

    def __init__(self, output: LineOutput, destination: Destination) -> None:
        self._output = output
        self._destination = destination

    def finished(self, facts: Facts) -> None:
        """A request is over."""
        line = f"{facts.method.decode('latin-1')} {facts.path.decode('latin-1')} {facts.status} {facts.flags or '-'}\n"
        self._output.write(line.encode())
