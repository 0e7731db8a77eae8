"""What becomes known of requests: metrics, access log and spans, made of an exchange's facts when a request is over.

A request has an id from its beginning (``x-request-id``): its client's, if the client has proven who it is, so that a
chain of calls in the mesh has one; otherwise one made here, since whoever stands outside could make two requests look
like one.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from prometheus_client import CollectorRegistry, Counter

from mesh.addresses import PeerAddress
from mesh.clock import wall_seconds
from mesh.errors import ConfigurationError, MeshError
from mesh.model.waypoint import Destination, LogFormat
from mesh.telemetry.metrics import L4Metrics
from mesh.telemetry.output import LineOutput
from waypoint.exchange.facts import Facts
from waypoint.telemetry.flags import flag_bits
from waypoint.telemetry.otlp_driver import SpanQueue, SpanQueues
from waypoint.telemetry.record import HttpVersion, RequestRecord
from waypoint.telemetry.request_log import RequestLog
from waypoint.telemetry.request_metrics import MetricsPlan, RequestMetrics
from waypoint.telemetry.spans import SpanMaker
from waypoint.telemetry.streams import StreamObserver
from waypoint.telemetry.tracing import Tracer, request_id

_VERSIONS: Final = {"1.0": HttpVersion.HTTP_1_0, "1.1": HttpVersion.HTTP_1_1, "2": HttpVersion.HTTP_2}


class Requests:
    """Shared by all destinations."""

    def __init__(self, registry: CollectorRegistry, output: LineOutput, queues: SpanQueues) -> None:
        """Begin to count.

        Args:
            registry: the process's.
            output: where lines of the access log go.
            queues: where spans go.
        """
        self._output = output
        self._queues = queues
        self._metrics = RequestMetrics(registry)
        self._connections = L4Metrics(registry)
        self._connections.sockets_open.clear()  # ztunnels', which own the applications' sockets
        self._refused = Counter(
            "ambimesh_waypoint_refused_connections",
            "Connections that were not served at all, by the kind of error.",
            ("reason",),
            registry=registry,
        )
        self._random = random.Random()

    def of(self, destination: Destination) -> DestinationRequests:
        """The observer of one destination's requests."""
        return DestinationRequests(destination, self._metrics, self._output, self._queues, self._random)

    def streams_of(self, destination: Destination, requests: DestinationRequests) -> StreamObserver:
        """The observer of one destination's connections that are no HTTP; they are logged as its requests are."""
        return StreamObserver(destination.key, destination.telemetry, self._connections, requests.log)

    def refused(self, peer: PeerAddress, wanted: str, error: MeshError) -> None:
        """A connection was not served at all; who and what is in the process's log."""
        self._refused.labels(type(error).__name__).inc()


class DestinationRequests:
    """One destination's (``waypoint.exchange.decision.Observer``)."""

    def __init__(
        self,
        destination: Destination,
        metrics: RequestMetrics,
        output: LineOutput,
        queues: SpanQueues,
        generator: random.Random,
        wall: Callable[[], float] = wall_seconds,
    ) -> None:
        """Prepare as the destination's Telemetry says.

        Args:
            destination: whose requests these are.
            metrics: the process's.
            output: where lines go.
            queues: where spans go.
            generator: of chances and ids.
            wall: seconds since 1970.
        """
        self._bits = generator.getrandbits
        self._key = destination.key
        self._plan = MetricsPlan(destination.telemetry)
        self._metrics = None if self._plan.nothing else metrics
        self._wall = wall
        self.problems: tuple[str, ...] = self._plan.problems
        """What is not recorded as it was asked for, and why."""
        try:
            log = RequestLog(destination.telemetry, output)
        except ConfigurationError as error:
            # Traffic is served, and a log in the usual form tells more than none.
            self.problems = (*self.problems, f"{error}; the default format is used")
            log = RequestLog(replace(destination.telemetry, log_format=LogFormat.TEXT, log_template=""), output)
        self.log = None if log.off else log
        self._tracer: Tracer | None = None
        self._spans: tuple[SpanMaker, SpanQueue] | None = None
        telemetry = destination.telemetry
        if telemetry.collector is not None:
            try:
                queue = queues.to(telemetry.collector)
            except ConfigurationError as error:
                self.problems = (*self.problems, str(error))
            else:
                self._tracer = Tracer(telemetry, generator.random, self._bits)
                if telemetry.report_spans:
                    self._spans = SpanMaker(telemetry.tags), queue

    def began(self, facts: Facts) -> None:
        """See ``waypoint.exchange.decision.Observer``."""
        head = facts.head
        facts.request_id = request_id(head.headers, self._bits, trusted=facts.client.identity is not None)
        if self._tracer is not None:
            facts.trace = self._tracer.begin(head)

    def finished(self, facts: Facts) -> None:
        """A request is over."""
        metrics, log = self._metrics, self.log
        trace = facts.trace
        if metrics is None and log is None and trace is None:
            return
        record = record_of(facts, self._key, self._wall())
        if metrics is not None:
            metrics.count(record, self._plan)
        if log is not None:
            log.write(record)
        if trace is not None and self._spans is not None:
            maker, queue = self._spans
            queue.add(maker.spans(trace, record))


def record_of(facts: Facts, destination: str, wall: float) -> RequestRecord:
    """What telemetry reads of a request.

    Args:
        facts: of the request, which is over.
        destination: ``mesh.model.waypoint.Destination.key``.
        wall: seconds since 1970, now.
    """
    head, started, ended = facts.head, facts.started_at, facts.ended_at
    record = RequestRecord(facts.client, destination, head, _VERSIONS[facts.version], started, wall - (ended - started))
    record.path = facts.path
    record.request_id = facts.request_id
    record.ended = ended
    if facts.received_at:
        record.request_ended = facts.received_at
    if facts.sent_at:
        record.forwarded = facts.sent_at
        if facts.answered_at >= facts.sent_at:  # not an earlier attempt's answer
            record.first_answered = facts.answered_at
    record.request_bytes, record.response_bytes = facts.received, facts.sent
    record.status, record.flags = facts.status, flag_bits(facts.flags)
    record.route, record.attempts = facts.route, facts.attempts
    record.request_principal = facts.request_principal
    if facts.details:
        record.details = facts.details.replace(" ", "_")
        record.transport_failure = facts.upstream_failure
    else:
        record.details = "via_upstream"
    if facts.response is not None:
        record.response_headers = facts.response.headers
    if facts.grpc is not None:
        record.grpc = True
        record.request_messages, record.response_messages = facts.grpc.request.count, facts.grpc.response.count
        status = facts.grpc_status
        if status is not None and status.isdigit() and len(status) <= 2:
            record.grpc_status = int(status)
    chooser = facts.chooser
    if chooser is not None:
        record.upstream_service = chooser.service
        endpoint = chooser.chosen
        if endpoint is not None:
            to = endpoint.to
            record.endpoint, record.upstream_address = to.workload, to.target
            if facts.sent_at and to.tunnel is not None:
                if len(to.expected_identities) == 1:
                    # Its tunnel is not used before the one identity that is admitted has been proven.
                    record.peer_identity = to.workload.identity
                elif endpoint.connector is not None:
                    record.peer_identity = endpoint.connector.peer_identity
    return record
