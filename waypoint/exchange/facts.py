"""What is known of a request when it is over, for metrics, access log and traces.

Response flags are Envoy's, so that what people know about them holds here: ``DC`` (the client went away), ``DPE`` (the
client broke the protocol), ``UF`` (no connection to the endpoint), ``UC`` (its connection ended), ``UR`` (it reset the
request), ``UPE`` (it broke the protocol), ``UT`` (no answer in time), ``URX`` (retries are used up), ``UO`` (a limit
was reached), ``UH`` (no healthy endpoint), ``NR``, ``NC``, ``RL``, ``UAEX``, ``FI``, ``DI`` (decided), ``SI`` (nothing
has moved for too long).
"""

from __future__ import annotations

from waypoint.client import Client
from waypoint.exchange.grpc_messages import GrpcMessages
from waypoint.http.message import Headers, RequestHead, ResponseHead
from waypoint.telemetry.tracing import RequestTrace
from waypoint.upstream.backend import Chooser


class Facts:
    """One request. Times are monotonic seconds; sizes are of bodies, in bytes."""

    __slots__ = (
        *("answered_at", "attempts", "authority", "chooser", "client", "details", "ended_at", "endpoint", "flags"),
        *("grpc", "head", "method", "path", "received", "received_at", "request_id", "request_principal"),
        *("request_trailers", "response", "response_trailers", "route", "sent", "sent_at", "started_at", "status"),
        *("trace", "upstream_failure"),
        "version",
    )

    def __init__(self, head: RequestHead, client: Client, version: str, started_at: float) -> None:
        self.head = head
        """As it went to the upstream, if it did."""
        self.client = client
        self.method = head.method
        """As the client sent it, like ``path`` and ``authority``."""
        self.path = head.path
        self.authority = head.authority
        self.version = version
        """``1.0``, ``1.1`` or ``2``."""
        self.request_id = b""
        """``x-request-id``."""
        self.trace: RequestTrace | None = None
        """None: the request is not recorded."""
        self.started_at = started_at
        self.received_at = 0.0
        """When all of the request had come; 0: it did not."""
        self.sent_at = 0.0
        """When the last attempt was sent; 0: never."""
        self.answered_at = 0.0
        """When the endpoint's answer began; 0: it did not."""
        self.ended_at = 0.0
        self.status = 0
        """What the client was answered; 0: it went before."""
        self.flags = ""
        """Response flags, separated by commas."""
        self.details = ""
        """Why an answer was made here."""
        self.route = ""
        self.chooser: Chooser | None = None
        """Who knows the service and the endpoint of the last attempt; None: the request was not to go anywhere."""
        self.endpoint = ""
        """The name of the last attempt's endpoint."""
        self.attempts = 0
        self.request_principal = ""
        """``issuer/subject`` of the verified token; empty without one."""
        self.upstream_failure = ""
        """Why the last attempt failed."""
        self.received = 0
        self.sent = 0
        self.grpc: GrpcMessages | None = None
        """Messages of a gRPC call; None: it is none."""
        self.request_trailers: Headers | None = None
        self.response: ResponseHead | None = None
        """The answer's head as it went to the client."""
        self.response_trailers: Headers | None = None

    def add_flag(self, flag: str) -> None:
        """Note a response flag."""
        if flag:
            self.flags = f"{self.flags},{flag}" if self.flags else flag

    @property
    def upstream_service_time(self) -> float:
        """Seconds from sending the last attempt to its answer's first byte; 0 without an answer."""
        return self.answered_at - self.sent_at if self.answered_at else 0.0

    @property
    def grpc_status(self) -> bytes | None:
        """The ``grpc-status`` of the answer, from its trailers or its head; None if it has none."""
        for headers in (self.response_trailers, None if self.response is None else self.response.headers):
            for name, value in headers or ():
                if name == b"grpc-status":
                    return value
        return None
