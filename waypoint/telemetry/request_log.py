"""The access log: one line when a request, or a connection of bytes, is over.

Text is Istio's default line; a template of one's own uses the same operators (``waypoint.telemetry.log_format``); JSON
has Istio's keys, numbers as numbers, and null for what did not happen. Lines leave through ``mesh.telemetry.output``,
the one buffer that the process's own log uses as well.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from mesh.model.waypoint import LogFormat, Telemetry
from mesh.telemetry.output import LineOutput
from waypoint.telemetry.default_line import DefaultLine
from waypoint.telemetry.flags import flags_text
from waypoint.telemetry.log_format import (
    DEFAULT_TEMPLATE,
    NOTHING,
    StartTime,
    compile_template,
    milliseconds,
    request_header,
)
from waypoint.telemetry.record import HttpVersion, RequestRecord

_encode = msgspec.json.Encoder().encode


class RequestLog:
    """The access log of one destination."""

    __slots__ = ("_codes", "_failures_only", "_line", "_output", "off")

    def __init__(self, telemetry: Telemetry, output: LineOutput) -> None:
        """Compile.

        Args:
            telemetry: the destination's.
            output: where lines go.

        Raises:
            ConfigurationError: a template that cannot be read.
        """
        self._output = output
        self._failures_only = telemetry.log_failures_only
        self._codes: frozenset[int] | None = None
        if telemetry.log_codes is not None:
            self._codes = frozenset(code for first, last in telemetry.log_codes for code in range(first, last + 1))
        self.off = telemetry.log_format is LogFormat.OFF
        """Nothing is written; callers need not call."""
        self._line: Callable[[RequestRecord], bytes] = _line(telemetry)

    def write(self, record: RequestRecord) -> None:
        """A request is over."""
        if self.off or (self._failures_only and _went_well(record)):
            return
        if self._codes is not None and record.status not in self._codes and record.version is not HttpVersion.NONE:
            return
        self._output.write(self._line(record))


def _went_well(record: RequestRecord) -> bool:
    if record.flags or record.termination:
        return False
    return 0 < record.status < 400 or record.version is HttpVersion.NONE


def _line(telemetry: Telemetry) -> Callable[[RequestRecord], bytes]:
    if telemetry.log_format is LogFormat.JSON:
        return _JsonLine()
    usual = telemetry.log_format is not LogFormat.TEMPLATE
    template = DEFAULT_TEMPLATE if usual else telemetry.log_template
    text = compile_template(template if template.endswith("\n") else template + "\n")
    if not usual:
        return lambda record: text(record).encode(errors="backslashreplace")
    of_request = DefaultLine()

    def line(record: RequestRecord) -> bytes:
        # Connections of bytes are rare, and fill fields that are empty for every request.
        if record.version is HttpVersion.NONE:
            return text(record).encode(errors="backslashreplace")
        return of_request(record)

    return line


class _JsonLine:
    __slots__ = ("_start",)

    def __init__(self) -> None:
        self._start = StartTime()

    def __call__(self, record: RequestRecord) -> bytes:
        service_time = milliseconds(record.forwarded, record.first_answered)
        fields = {
            "start_time": self._start(record),
            "method": _header(record, b":method"),
            "path": _header(record, b":path"),
            "protocol": record.version.value,
            "response_code": record.status,
            "response_flags": flags_text(record.flags),
            "response_code_details": record.details or None,
            "connection_termination_details": record.termination or None,
            "upstream_transport_failure_reason": record.transport_failure or None,
            "bytes_received": record.request_bytes,
            "bytes_sent": record.response_bytes,
            "duration": round((record.ended - record.started) * 1000),
            "upstream_service_time": None if service_time == NOTHING else int(service_time),
            "x_forwarded_for": _header(record, b"x-forwarded-for"),
            "user_agent": _header(record, b"user-agent"),
            "request_id": _header(record, b"x-request-id"),
            "authority": _header(record, b":authority"),
            "upstream_host": None if record.upstream_address is None else str(record.upstream_address),
            "upstream_cluster": record.upstream_service or None,
            "upstream_local_address": None,
            "downstream_local_address": str(record.client.destination),
            "downstream_remote_address": str(record.client.address),
            "request_principal": record.request_principal or None,
            "downstream_peer": None if record.client.identity is None else str(record.client.identity),
            "upstream_peer": None if record.peer_identity is None else str(record.peer_identity),
            "requested_server_name": record.server_name or None,
            "route_name": record.route or None,
        }
        return _encode(fields) + b"\n"


def _header(record: RequestRecord, name: bytes) -> str | None:
    value = request_header(record, name)
    return value.decode("utf-8", "backslashreplace") if value else None
