"""The record of one request: what metrics, access log and trace are made of.

The exchange makes one when a request's head has been read, fills it while the request lives, and hands it over when the
last byte of the answer is out or the request has failed. A plain class with slots, because one is made per request:
what nobody sets keeps the value that means "did not happen", and no part of it is formatted before somebody asks.

Times are seconds on the monotonic clock; one that was not reached is negative. Bytes are of bodies, as they crossed the
client's connection, without framing.
"""

from __future__ import annotations

import enum
from typing import Final

from mesh.addresses import SocketAddress
from mesh.identity import SpiffeId
from mesh.model.workload import Workload
from waypoint.client import Client
from waypoint.http.message import Headers, RequestHead

NOT_REACHED: Final = -1.0
"""A time that did not come."""
NO_GRPC_STATUS: Final = -1


class HttpVersion(enum.StrEnum):
    """As access logs write it."""

    HTTP_1_0 = "HTTP/1.0"
    HTTP_1_1 = "HTTP/1.1"
    HTTP_2 = "HTTP/2"
    NONE = "-"
    """A connection of bytes."""


class RequestRecord:
    """One request; the exchange writes, telemetry reads."""

    __slots__ = (
        "attempts",
        "client",
        "destination",
        "details",
        "ended",
        "endpoint",
        "first_answered",
        "flags",
        "forwarded",
        "grpc",
        "grpc_status",
        "path",
        "peer_identity",
        "request",
        "request_bytes",
        "request_ended",
        "request_id",
        "request_messages",
        "request_principal",
        "response_bytes",
        "response_headers",
        "response_messages",
        "route",
        "server_name",
        "started",
        "started_wall",
        "status",
        "termination",
        "transport_failure",
        "upstream_address",
        "upstream_service",
        "version",
    )

    def __init__(
        self,
        client: Client,
        destination: str,
        request: RequestHead,
        version: HttpVersion,
        started: float,
        started_wall: float,
    ) -> None:
        """Begin a record.

        Args:
            client: whose connection it came on.
            destination: ``mesh.model.waypoint.Destination.key``; empty if none serves it.
            request: its head; filters change it in place, and the log shows the changed one, but for the path.
            version: the client's.
            started: when the head was complete.
            started_wall: the same moment in seconds since 1970.
        """
        self.client = client
        self.destination = destination
        self.request = request
        self.path = request.path
        """As received, before any rewrite."""
        self.version = version
        self.started = started
        self.started_wall = started_wall
        self.request_ended = NOT_REACHED
        """The last byte of the request had come."""
        self.forwarded = NOT_REACHED
        """The first byte of the last attempt was sent upstream."""
        self.first_answered = NOT_REACHED
        """The head of the answer that the client got had come from upstream."""
        self.ended = NOT_REACHED
        """Everything was over."""
        self.request_bytes = 0
        self.response_bytes = 0
        self.status = 0
        """What the client was answered; 0: nothing."""
        self.flags = 0
        """Bits of ``waypoint.telemetry.flags``."""
        self.details = ""
        """Why this status, in one word without blanks: ``via_upstream``, ``route_not_found``, ..."""
        self.transport_failure = ""
        """What went wrong with the connection to the endpoint, in words."""
        self.termination = ""
        """Why the client's connection was ended, in one word without blanks."""
        self.server_name = ""
        """Of TLS that passes through; only of connections of bytes."""
        self.route = ""
        """``mesh.model.http_route.HttpRoute.name``."""
        self.upstream_service = ""
        """``namespace/hostname`` of the backend that was chosen."""
        self.endpoint: Workload | None = None
        """Who answered, or was asked last."""
        self.upstream_address: SocketAddress | None = None
        self.peer_identity: SpiffeId | None = None
        """The endpoint's, as proven by its tunnel."""
        self.attempts = 0
        """How often it was sent upstream."""
        self.grpc = False
        """The request's ``content-type`` says gRPC."""
        self.grpc_status = NO_GRPC_STATUS
        """Of the answer's headers or trailers."""
        self.request_messages = 0
        """gRPC messages; counted where ``grpc``."""
        self.response_messages = 0
        self.request_id = b""
        """``x-request-id``."""
        self.request_principal = ""
        """``issuer/subject`` of the verified JWT."""
        self.response_headers: Headers | None = None
        """As sent to the client."""
