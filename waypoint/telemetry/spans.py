"""Finished spans as plain values: what is said of a request and of each of its attempts.

Names of attributes are OpenTelemetry's semantic conventions for HTTP and RPC where there are any, otherwise Envoy's,
which people of Istio look for. Values that clients choose are cut, and queries are left out: they hold secrets. Names
of spans are few: the method and the route, never the path.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from mesh.addresses import format_ip
from mesh.model.waypoint import SpanTag, TagSource
from waypoint.routing.text import header_value
from waypoint.telemetry.flags import flags_text
from waypoint.telemetry.log_format import escaped
from waypoint.telemetry.record import NO_GRPC_STATUS, RequestRecord
from waypoint.telemetry.tracing import TIMED_OUT, AttemptNotes, RequestTrace

Attribute = str | int
TagOf = Callable[[RequestRecord], str]

MAX_VALUE: Final = 1024
"""Characters of one attribute's value."""
_METHODS: Final = frozenset(
    {b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"CONNECT", b"OPTIONS", b"TRACE", b"PATCH", b"QUERY"}
)
"""Others are ``_OTHER``: a client must not make names of spans."""
_GRPC_FAULTS: Final = frozenset({2, 4, 12, 13, 14, 15})
"""Statuses that are the server's fault, as the conventions for RPC count them."""


class FinishedSpan:
    """One span, ready to be sent."""

    __slots__ = ("attributes", "began", "ended", "failed", "name", "parent_id", "served", "span_id", "trace_id")

    def __init__(
        self,
        name: str,
        trace_id: bytes,
        span_id: bytes,
        parent_id: bytes,
        began: float,
        ended: float,
        attributes: dict[str, Attribute],
        *,
        served: bool,
        failed: bool,
    ) -> None:
        """Ids are hexadecimal digits, an empty parent is none; times are seconds since 1970. ``served``: of the kind
        SERVER, otherwise CLIENT."""
        self.name = name
        self.trace_id = trace_id
        self.span_id = span_id
        self.parent_id = parent_id
        self.began = began
        self.ended = ended
        self.attributes = attributes
        self.served = served
        self.failed = failed


class SpanMaker:
    """Makes the spans of one destination's requests."""

    __slots__ = ("_tags",)

    def __init__(self, tags: Iterable[SpanTag], environment: Mapping[str, str] = os.environ) -> None:
        """Prepare.

        Args:
            tags: added to requests' own spans.
            environment: where tags of that kind come from; read now.
        """
        self._tags = tuple((tag.name, _tag(tag, environment)) for tag in tags)

    def spans(self, trace: RequestTrace, record: RequestRecord) -> list[FinishedSpan]:
        """The span of a request that is over, and one for each of its attempts."""
        # The wall clock was read once: all times of a request are told by the monotonic one.
        offset = record.started_wall - record.started
        method = record.request.method
        known = method.decode() if method in _METHODS else "_OTHER"
        common: dict[str, Attribute] = {"http.request.method": known}
        if known == "_OTHER":
            common["http.request.method_original"] = _cut(escaped(method))
        attributes = common | _request_attributes(record)
        for name, value_of in self._tags:
            if value := value_of(record):
                attributes[name] = _cut(value)
        made = [
            FinishedSpan(
                f"{known} {record.route}" if record.route else known,
                trace.trace_id,
                trace.span_id,
                trace.parent_id,
                record.started_wall,
                record.ended + offset,
                attributes,
                served=True,
                failed=record.status == 0 or record.status >= 500 or record.grpc_status in _GRPC_FAULTS,
            )
        ]
        for index, notes in enumerate(trace.attempts):
            made.append(self._attempt(trace, record, index, notes, known, common, offset))
        return made

    def _attempt(
        self,
        trace: RequestTrace,
        record: RequestRecord,
        index: int,
        notes: AttemptNotes,
        known: str,
        common: dict[str, Attribute],
        offset: float,
    ) -> FinishedSpan:
        ended, failure = notes.ended or record.ended, notes.failure
        last = index == len(trace.attempts) - 1
        if last and notes.status and record.first_answered >= 0:
            # Its answer is what the client got: it came in until the request was over, or until it broke off.
            ended, failure = record.ended, failure or record.transport_failure
        failed = bool(failure) or notes.status == 0 or notes.status >= 400
        return FinishedSpan(
            known,
            trace.trace_id,
            notes.span_id,
            trace.span_id,
            notes.began + offset,
            ended + offset,
            common | _attempt_attributes(record, index, notes, failure),
            served=False,
            failed=failed,
        )


def _request_attributes(record: RequestRecord) -> dict[str, Attribute]:
    request, client = record.request, record.client
    attributes: dict[str, Attribute] = {
        "url.path": _cut(escaped(record.path.partition(b"?")[0])),
        "url.scheme": _cut(escaped(request.scheme)),
        **_server(request.authority),
        "client.address": format_ip(client.address.ip),
        "client.port": client.address.port,
        "network.protocol.name": "http",
        "network.protocol.version": record.version.value.removeprefix("HTTP/"),
        "http.response.status_code": record.status,
        "http.request.body.size": record.request_bytes,
        "http.response.body.size": record.response_bytes,
        "response_flags": flags_text(record.flags),
    }
    if record.status == 0 or record.status >= 500:
        attributes["error.type"] = str(record.status) if record.status else "client_gone"
    if record.details:
        attributes["response_code_details"] = _cut(record.details)
    if record.route:
        attributes["ambimesh.route"] = record.route
    if record.request_id:
        attributes["guid:x-request-id"] = escaped(record.request_id)
    if record.upstream_service:
        attributes["upstream_cluster.name"] = record.upstream_service
    if client.identity is not None:
        attributes["ambimesh.source.principal"] = str(client.identity)
    if (agent := header_value(request.headers, b"user-agent")) is not None:
        attributes["user_agent.original"] = _cut(escaped(agent))
    if record.grpc:
        attributes.update(_grpc(record))
    return attributes


def _attempt_attributes(
    record: RequestRecord, index: int, notes: AttemptNotes, failure: str
) -> dict[str, Attribute]:
    request = record.request
    path = request.path.partition(b"?")[0]
    host, _, port = notes.endpoint.rpartition(":")
    attributes: dict[str, Attribute] = {
        "url.full": _cut(escaped(b"%b://%b%b" % (request.scheme, request.authority, path))),
        **_server(request.authority),
        "network.peer.address": host.strip("[]"),
    }
    if port.isdigit():
        attributes["network.peer.port"] = int(port)
    if record.upstream_service:
        attributes["peer.service"] = record.upstream_service
    if index:
        attributes["http.request.resend_count"] = index
    if notes.status and not failure:
        attributes["http.response.status_code"] = notes.status
    if failure:
        attributes["error.type"] = "timeout" if failure == TIMED_OUT else "connection"
        attributes["upstream_transport_failure_reason"] = _cut(failure)
    elif notes.status == 0:
        attributes["error.type"] = "given_up"
    elif notes.status >= 400:
        attributes["error.type"] = str(notes.status)
    return attributes


def _server(authority: bytes) -> dict[str, Attribute]:
    host, colon, port = _cut(escaped(authority)).rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or len(port) > 5:
        return {"server.address": _cut(escaped(authority))}
    return {"server.address": host.strip("[]"), "server.port": int(port)}


def _grpc(record: RequestRecord) -> dict[str, Attribute]:
    service, _, method = record.path.partition(b"?")[0].removeprefix(b"/").rpartition(b"/")
    attributes: dict[str, Attribute] = {"rpc.system": "grpc"}
    if service and method:
        attributes["rpc.service"], attributes["rpc.method"] = _cut(escaped(service)), _cut(escaped(method))
    if record.grpc_status != NO_GRPC_STATUS:
        attributes["rpc.grpc.status_code"] = record.grpc_status
    return attributes


def _tag(tag: SpanTag, environment: Mapping[str, str]) -> TagOf:
    if tag.source is TagSource.HEADER:
        name, default = tag.value.encode(errors="replace"), tag.default

        def header(record: RequestRecord) -> str:
            value = header_value(record.request.headers, name)
            return default if value is None else escaped(value)

        return header
    text = environment.get(tag.value, tag.default) if tag.source is TagSource.ENVIRONMENT else tag.value
    return lambda record: text


def _cut(text: str) -> str:
    return text if len(text) <= MAX_VALUE else text[:MAX_VALUE]
