"""Traces: whether a request is one of those that are recorded, its span, and ``x-request-id``.

The client's decision is kept; a request without one starts a trace with the probability that the destination's
Telemetry says. A request that is not recorded and brought a context passes with that context untouched, so that the
trace's ends still meet; without one, nothing is added to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from mesh.model.waypoint import Telemetry
from waypoint.http.message import Headers, RequestHead, first
from waypoint.routing.chance import Random
from waypoint.telemetry.flags import flags_text
from waypoint.telemetry.log_format import escaped
from waypoint.telemetry.record import NO_GRPC_STATUS, RequestRecord
from waypoint.telemetry.trace_codec import TraceContext, extract, inject

RandomBits = Callable[[int], int]
"""So many random bits as a number (``random.getrandbits``)."""

REQUEST_ID: Final = b"x-request-id"
MAX_REQUEST_ID_BYTES: Final = 256


class Span:
    """A request's span, recorded by us between a client's and a server's."""

    __slots__ = ("parent_id", "span_id", "trace_id")

    def __init__(self, trace_id: bytes, span_id: bytes, parent_id: bytes) -> None:
        self.trace_id = trace_id
        """32 hexadecimal digits."""
        self.span_id = span_id
        """16 hexadecimal digits."""
        self.parent_id = parent_id
        """16 hexadecimal digits; empty: the trace begins here."""


class Tracer:
    """Tracing of one destination's requests."""

    __slots__ = ("_bits", "_random", "_share", "tags")

    def __init__(self, telemetry: Telemetry, random: Random, bits: RandomBits) -> None:
        """Prepare.

        Args:
            telemetry: the destination's.
            random: uniform in [0, 1).
            bits: for ids.
        """
        self._share = min(max(telemetry.sampling_percent, 0.0), 100.0) / 100.0
        self._random = random
        self._bits = bits
        self.tags = telemetry.tags

    def begin(self, head: RequestHead) -> Span | None:
        """Decide about a request, and write the context it goes on with; None: it is not recorded."""
        context = extract(head.headers)
        if context is None:
            if self._share <= 0 or self._random() >= self._share:
                return None
            context = TraceContext(_hex(self._bits, 128), b"", True)
            context.w3c = True
        elif context.sampled is None:
            if self._share <= 0 or self._random() >= self._share:
                return None
        elif not context.sampled:
            return None
        span = Span(context.trace_id, _hex(self._bits, 64), context.span_id)
        inject(head.headers, context, span.span_id, True)
        return span


def _hex(bits: RandomBits, count: int) -> bytes:
    # All zeros means "none" in every format.
    return b"%0*x" % (count // 4, bits(count) or 1)


def request_id(headers: Headers, bits: RandomBits) -> bytes:
    """A request's id: its own, if it is one that can be logged, or a new one, which it is given.

    Args:
        headers: the request's, changed if it has none.
        bits: for a new one.
    """
    given = first(headers, REQUEST_ID)
    if given is not None:
        if 0 < len(given) <= MAX_REQUEST_ID_BYTES and given.isascii() and given.decode().isprintable():
            return given
        headers[:] = [field for field in headers if field[0] != REQUEST_ID]
    # A UUID of version 4 (RFC 9562 section 5.4).
    number = (bits(128) & ~(0xF << 76 | 0x3 << 62)) | 0x4 << 76 | 0x2 << 62
    text = b"%032x" % number
    made = b"-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
    headers.append((REQUEST_ID, made))
    return made


def span_attributes(record: RequestRecord, tags: tuple[tuple[str, str], ...]) -> Mapping[str, str | int]:
    """What a span says of a request, in OpenTelemetry's names where there are any."""
    attributes: dict[str, str | int] = {
        "http.request.method": escaped(record.request.method),
        "url.path": escaped(record.path.partition(b"?")[0]),
        "server.address": escaped(record.request.authority),
        "http.response.status_code": record.status,
        "http.request.body.size": record.request_bytes,
        "http.response.body.size": record.response_bytes,
        "network.protocol.version": record.version.value.removeprefix("HTTP/"),
        "client.address": str(record.client.address),
        "response_flags": flags_text(record.flags),
    }
    if record.route:
        attributes["http.route"] = record.route
    if record.upstream_service:
        attributes["upstream_cluster"] = record.upstream_service
    if record.upstream_address is not None:
        attributes["network.peer.address"] = str(record.upstream_address)
    if record.request_id:
        attributes["guid:x-request-id"] = escaped(record.request_id)
    if record.grpc_status != NO_GRPC_STATUS:
        attributes["rpc.grpc.status_code"] = record.grpc_status
    if record.client.identity is not None:
        attributes["istio.source_principal"] = str(record.client.identity)
    attributes.update(tags)
    return attributes
