"""The usual line of the access log, written faster than its template says it.

Of requests only: connections of bytes fill other fields. The same line as ``compile_template(DEFAULT_TEMPLATE)`` makes,
byte for byte, which the tests hold it to: one join of bytes instead of a function for each operator, one look at the
headers, and what repeats from line to line (addresses, names, numbers, the second) kept as bytes.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

from waypoint.client import Client
from waypoint.routing.text import header_value
from waypoint.telemetry.flags import flags_text
from waypoint.telemetry.log_format import NOTHING, StartTime, escaped, shown_text
from waypoint.telemetry.record import RequestRecord

_NOTHING: Final = NOTHING.encode()
_CLEAN: Final = bytes(byte for byte in range(32, 127) if byte not in b'"\\')
_NUMBERS: Final = [b"%d" % number for number in range(2048)]
_MOST_KEPT: Final = 4096
_CHAIN: Final = b"x-forwarded-for"
_AGENT: Final = b"user-agent"
_REQUEST_ID: Final = b"x-request-id"
_SERVICE_TIME: Final = b"x-envoy-upstream-service-time"


class DefaultLine:
    """Writes lines; one per destination."""

    __slots__ = ("_addresses", "_clients", "_start")

    def __init__(self) -> None:
        self._start = StartTime()
        # By identity, which takes less time than hashing; the objects are held, so that it stays theirs.
        self._clients: dict[int, tuple[Client, bytes]] = {}
        self._addresses: dict[int, tuple[Any, bytes]] = {}

    def __call__(self, record: RequestRecord) -> bytes:
        """The line of a request."""
        request = record.request
        chain: bytes | None = None
        agent: bytes | None = None
        request_id: bytes | None = None
        doubled = False
        for name, value in request.headers:
            if name == _AGENT:
                doubled = doubled or agent is not None
                agent = value
            elif name == _CHAIN:
                doubled = doubled or chain is not None
                chain = value
            elif name == _REQUEST_ID:
                doubled = doubled or request_id is not None
                request_id = value
        if doubled:
            chain, agent, request_id = (header_value(request.headers, name) for name in (_CHAIN, _AGENT, _REQUEST_ID))
        known = self._clients.get(id(record.client))
        client = known[1] if known is not None else self._client(record.client)
        address = record.upstream_address
        upstream = _NOTHING
        if address is not None:
            found = self._addresses.get(id(address))
            upstream = found[1] if found is not None else self._address(address)
        if record.first_answered >= 0:
            service_time = _milliseconds(record.forwarded, record.first_answered)
        else:
            answered = header_value(record.response_headers or [], _SERVICE_TIME)
            service_time = _quoted(answered)
        return b"".join(
            (
                b"[",
                self._start(record).encode(),
                b'] "',
                _quoted(request.method),
                b" ",
                _quoted(record.path),
                b" ",
                record.version.value.encode(),
                b'" ',
                _number(record.status),
                b" ",
                _flags(record.flags),
                b" ",
                _name(record.details),
                b' - "',
                _name(record.transport_failure),
                b'" ',
                _number(record.request_bytes),
                b" ",
                _number(record.response_bytes),
                b" ",
                _milliseconds(record.started, record.ended),
                b" ",
                service_time,
                b' "',
                _quoted(chain),
                b'" "',
                _quoted(agent),
                b'" "',
                _quoted(record.request_id or request_id),
                b'" "',
                _quoted(request.authority),
                b'" "',
                upstream,
                b'" ',
                _name(record.upstream_service),
                client,
                _name(record.route),
                b"\n",
            )
        )

    def _client(self, client: Client) -> bytes:
        if len(self._clients) >= _MOST_KEPT:
            self._clients.clear()
        text = f" - {client.destination} {client.address} - ".encode()
        self._clients[id(client)] = (client, text)
        return text

    def _address(self, address: object) -> bytes:
        if len(self._addresses) >= _MOST_KEPT:
            self._addresses.clear()
        text = str(address).encode()
        self._addresses[id(address)] = (address, text)
        return text


def _quoted(value: bytes | None) -> bytes:
    """What a peer has sent, so that it ends neither a line nor a quoted field."""
    if not value:
        return _NOTHING
    return value if not value.translate(None, _CLEAN) else escaped(value).encode(errors="backslashreplace")


def _number(value: int) -> bytes:
    return _NUMBERS[value] if 0 <= value < 2048 else b"%d" % value


def _milliseconds(start: float, end: float) -> bytes:
    return _NOTHING if start < 0 or end < 0 else _number(round((end - start) * 1000))


@lru_cache(maxsize=8192)
def _name(text: str) -> bytes:
    return shown_text(text).encode(errors="backslashreplace")


@lru_cache(maxsize=1024)
def _flags(flags: int) -> bytes:
    return flags_text(flags).encode()
