"""Templates of access log lines: Envoy's command operators, compiled once to a list of functions.

``%REQ(X?Y):Z%`` is a request's header X, or Y if it is not there, cut to Z characters; ``%RESP(..)%`` is the answer's.
``%%`` is a percent sign. An operator that is not known is an error, not an empty field: a log that misses what somebody
relies on is noticed when it is too late. What peers send cannot end a line or a quoted field: quotes, backslashes and
control characters are escaped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from mesh.addresses import SocketAddress, format_ip
from mesh.errors import ConfigurationError
from waypoint.http.message import Headers
from waypoint.routing.text import encoded, header_value
from waypoint.telemetry.flags import flags_text
from waypoint.telemetry.record import NO_GRPC_STATUS, NOT_REACHED, RequestRecord

Field = Callable[[RequestRecord], str]

NOTHING: Final = "-"
_SERVICE_TIME: Final = b"x-envoy-upstream-service-time"

DEFAULT_TEMPLATE: Final = (
    '[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" %RESPONSE_CODE% %RESPONSE_FLAGS% '
    "%RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% "
    '"%UPSTREAM_TRANSPORT_FAILURE_REASON%" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% '
    '%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "%REQ(X-FORWARDED-FOR)%" "%REQ(USER-AGENT)%" "%REQ(X-REQUEST-ID)%" '
    '"%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%" %UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% '
    "%DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n"
)
"""Istio's default line."""


def escaped(value: bytes) -> str:
    """Bytes of a peer as text that ends neither a line nor a quoted field."""
    text = value.decode("utf-8", "backslashreplace")
    return text if text.isprintable() and '"' not in text and "\\" not in text else _escaped(text)


def _escaped(text: str) -> str:
    return json.dumps(text)[1:-1]


def milliseconds(start: float, end: float) -> str:
    """Between two moments; ``-`` if one was not reached."""
    return NOTHING if start < 0 or end < 0 else str(round((end - start) * 1000))


class StartTime:
    """The wall time of a request's begin; the second's text is kept, as many requests share it."""

    __slots__ = ("_second", "_text")

    def __init__(self) -> None:
        self._second = -1
        self._text = ""

    def __call__(self, record: RequestRecord) -> str:
        """ISO 8601 with milliseconds, UTC."""
        second = int(record.started_wall)
        if second != self._second:
            self._second = second
            self._text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        return f"{self._text}.{int((record.started_wall - second) * 1000):03d}Z"


@lru_cache(maxsize=8192)
def shown_text(text: str) -> str:
    """Names of routes and services, reasons: few of them, in every line."""
    return _escaped(text) if text else NOTHING


@lru_cache(maxsize=8192)
def _address(address: SocketAddress) -> str:
    return str(address)


def _nothing(record: RequestRecord) -> str:
    return NOTHING


FIELDS: Final[Mapping[str, Field]] = MappingProxyType(
    {
        "PROTOCOL": lambda record: record.version.value,
        "RESPONSE_CODE": lambda record: str(record.status),
        "RESPONSE_FLAGS": lambda record: flags_text(record.flags),
        "RESPONSE_CODE_DETAILS": lambda record: shown_text(record.details),
        "CONNECTION_TERMINATION_DETAILS": lambda record: shown_text(record.termination),
        "UPSTREAM_TRANSPORT_FAILURE_REASON": lambda record: shown_text(record.transport_failure),
        "BYTES_RECEIVED": lambda record: str(record.request_bytes),
        "BYTES_SENT": lambda record: str(record.response_bytes),
        "DURATION": lambda record: milliseconds(record.started, record.ended),
        "REQUEST_DURATION": lambda record: milliseconds(record.started, record.request_ended),
        "RESPONSE_DURATION": lambda record: milliseconds(record.started, record.first_answered),
        "UPSTREAM_HOST": lambda record: (
            NOTHING if record.upstream_address is None else _address(record.upstream_address)
        ),
        "UPSTREAM_CLUSTER": lambda record: shown_text(record.upstream_service),
        "UPSTREAM_CLUSTER_RAW": lambda record: shown_text(record.upstream_service),
        "UPSTREAM_LOCAL_ADDRESS": _nothing,
        "UPSTREAM_REQUEST_ATTEMPT_COUNT": lambda record: str(record.attempts),
        "UPSTREAM_PEER_URI_SAN": lambda record: NOTHING if record.peer_identity is None else str(record.peer_identity),
        "DOWNSTREAM_LOCAL_ADDRESS": lambda record: _address(record.client.destination),
        "DOWNSTREAM_REMOTE_ADDRESS": lambda record: _address(record.client.address),
        "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT": lambda record: format_ip(record.client.address.ip),
        "DOWNSTREAM_PEER_URI_SAN": lambda record: (
            NOTHING if record.client.identity is None else str(record.client.identity)
        ),
        "REQUESTED_SERVER_NAME": lambda record: _escaped(record.server_name) or NOTHING,
        "ROUTE_NAME": lambda record: shown_text(record.route),
        "GRPC_STATUS_NUMBER": lambda record: (
            NOTHING if record.grpc_status == NO_GRPC_STATUS else str(record.grpc_status)
        ),
        "GRPC_STATUS": lambda record: NOTHING if record.grpc_status == NO_GRPC_STATUS else str(record.grpc_status),
    }
)


def compile_template(template: str) -> Callable[[RequestRecord], str]:
    """A function from a record to its line, as the template says.

    Raises:
        ConfigurationError: an operator that is not known, or one without end.
    """
    pieces: list[str] = []
    fields: list[Field] = []
    literal = ""
    index = 0
    while index < len(template):
        start = template.find("%", index)
        if start < 0:
            literal += template[index:]
            break
        literal += template[index:start]
        end = _end_of_operator(template, start)
        operator = template[start + 1 : end]
        if operator:
            pieces.append(literal)
            fields.append(_field(operator))
            literal = ""
        else:
            literal += "%"
        index = end + 1
    pieces.append(literal)
    first, *rest = pieces
    # One format string: faster than joining pieces.
    form = _brace(first) + "".join(["{}" + _brace(piece) for piece in rest])
    called = tuple(fields)
    return lambda record: form.format(*[field(record) for field in called])


def _brace(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _end_of_operator(template: str, start: int) -> int:
    """The closing percent sign; there may be others in parentheses."""
    depth = 0
    for index in range(start + 1, len(template)):
        character = template[index]
        if character == "(":
            depth += 1
        elif character == ")":
            depth -= 1
        elif character == "%" and depth <= 0:
            return index
    raise ConfigurationError(f"the log template has an operator without end: {template[start : start + 32]!r}")


def _field(operator: str) -> Field:
    name, _, rest = operator.partition("(")
    name, _, limit_text = name.partition(":")
    argument = ""
    if rest:
        argument, closing, after = rest.rpartition(")")
        if not closing:
            raise ConfigurationError(f"%{operator[:64]}% lacks a closing parenthesis")
        limit_text = after.removeprefix(":")
    if limit_text and not (limit_text.isascii() and limit_text.isdigit()):
        raise ConfigurationError(f"%{operator[:64]}%: {limit_text[:16]!r} is no length")
    limit = int(limit_text) if limit_text else 0
    field = _plain_field(name, argument, operator)
    return (lambda record: field(record)[:limit]) if limit else field


def _plain_field(name: str, argument: str, operator: str) -> Field:
    if name == "START_TIME" and not argument:
        return StartTime()
    if name == "REQ" and argument:
        return _request_header(argument)
    if name == "RESP" and argument:
        return _response_header(argument)
    if name == "DYNAMIC_METADATA" and argument == "istio_authn:request.auth.principal":
        return lambda record: _escaped(record.request_principal) if record.request_principal else NOTHING
    field = FIELDS.get(name)
    if field is None or argument:
        raise ConfigurationError(
            f"the log template has %{operator[:64]}%, which is not known; known are START_TIME, REQ(..), RESP(..), "
            + ", ".join(sorted(FIELDS))
        )
    return field


def _request_header(argument: str) -> Field:
    names = [encoded(name.lower()) for name in argument.split("?")]
    pseudo = _PSEUDO.get(names[0])
    if pseudo is not None:
        # Always there: what follows the question mark is never asked for.
        return lambda record: escaped(value) if (value := pseudo(record)) else NOTHING

    def field(record: RequestRecord) -> str:
        for name in names:
            value = request_header(record, name)
            if value:
                return escaped(value)
        return NOTHING

    return field


def request_header(record: RequestRecord, name: bytes) -> bytes | None:
    """A header of the request, pseudo-headers and ``x-request-id`` included; the path is the one that was received."""
    if name == b"x-request-id" and record.request_id:
        return record.request_id
    pseudo = _PSEUDO.get(name)
    return header_value(record.request.headers, name) if pseudo is None else pseudo(record)


_PSEUDO: Final[Mapping[bytes, Callable[[RequestRecord], bytes]]] = MappingProxyType(
    {
        b":method": lambda record: record.request.method,
        b":path": lambda record: record.path,
        b"x-envoy-original-path": lambda record: record.path,
        b":authority": lambda record: record.request.authority,
        b"host": lambda record: record.request.authority,
        b":scheme": lambda record: record.request.scheme,
    }
)


def _response_header(argument: str) -> Field:
    names = [encoded(name.lower()) for name in argument.split("?")]
    nothing: Headers = []

    def field(record: RequestRecord) -> str:
        for name in names:
            if name == _SERVICE_TIME and record.first_answered != NOT_REACHED:
                return milliseconds(record.forwarded, record.first_answered)
            value = header_value(record.response_headers or nothing, name)
            if value:
                return escaped(value)
        return NOTHING

    return field
