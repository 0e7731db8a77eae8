"""Heads of HTTP/1.1 that say one thing only, read without a parser.

Nearly every head is plain: a line, fields of printable ASCII, and nothing about the connection or the message's framing
but ``content-length``. Split into lines it is read in a quarter of the time that llhttp's callbacks take, since lines
repeat from message to message: what a line means is remembered. Whatever is not plain in every respect is not judged
here; None says "ask the parser", which alone refuses anything. So what is read here must be a part of what the parser
reads, with the same result, and the tests hold it to that.

Lines are remembered up to a bound, short ones only, and none that holds a secret or is another one each time.
"""

from __future__ import annotations

import re
from typing import Any, Final

from waypoint.http.h1_codec import REQUEST_SPECIAL, RESPONSE_SPECIAL
from waypoint.http.message import Headers
from waypoint.wire.contract import Buffer

Field = tuple[bytes, bytes]
_Kept = dict[bytes, Any]
"""Fields by line. To the compiler they are any objects: as pairs it would take them apart, and make new ones, each
time one is handed on."""

_LOOKED_AT: Final = 8192
"""How far the end of an answer's head is looked for."""
_MOST_LINES: Final = 2048
_LONGEST_LINE: Final = 256
_FIELD: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ?((?:[!-~](?:[ -~]*[!-~])?)?)")
_STATUS: Final = re.compile(rb"HTTP/1\.1 ([2-5][0-9][0-9]) [ -~]*")
_METHODS: Final = frozenset({b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"PATCH", b"OPTIONS"})
_TARGET: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!$&'()*+,;=:@/?%"
_NOT_KEPT: Final = frozenset(
    {
        *(b"authorization", b"cookie", b"set-cookie", b"proxy-authorization"),
        *(b"x-request-id", b"traceparent", b"tracestate", b"b3", b"x-b3-traceid", b"x-b3-spanid"),
    }
)
_NOTHING: Final[Field] = (b"", b"")
"""Of a line that says nothing: ``connection: keep-alive`` is how it is anyway. Told by its empty name."""


class PlainRequest:
    """What a head says."""

    __slots__ = ("headers", "host", "method", "target")

    def __init__(self, method: bytes, target: bytes, host: bytes, headers: Headers) -> None:
        self.method = method
        self.target = target
        self.host = host
        """As it stands there."""
        self.headers = headers


class PlainResponse:
    """What a head says."""

    __slots__ = ("headers", "length", "size", "status")

    def __init__(self, status: int, length: int, headers: Headers) -> None:
        self.size = 0
        """Of the head, the empty line at its end included; 0: nobody has said."""
        self.status = status
        self.length = length
        self.headers = headers


class _Lines:
    """What lines mean, once they have been seen."""

    __slots__ = ("_apart", "_special", "apart", "fields")

    def __init__(self, special: frozenset[bytes], apart: bytes) -> None:
        """``special``: names that make a head not plain; ``apart``: one of them that is read here."""
        self._special = special - {apart}
        self._apart = apart
        self.fields: _Kept = {}
        self.apart: _Kept = {}
        """Lines of that name."""

    def learn(self, line: bytes) -> Any:
        """What a line means that is not remembered; None: it is not plain."""
        match = _FIELD.fullmatch(line)
        if match is None:
            return None
        name = match[1].lower()
        value = match[2]
        if name in self._special:
            if name != b"connection" or value.lower() != b"keep-alive":
                return None
            field: Any = _NOTHING
        else:
            field = (name, value)
        if len(line) <= _LONGEST_LINE and name not in _NOT_KEPT:
            kept = self.apart if name == self._apart else self.fields
            if len(kept) >= _MOST_LINES:
                kept.clear()
            kept[line] = field
        return field


_request_lines = _Lines(REQUEST_SPECIAL, b"host")
_response_lines = _Lines(RESPONSE_SPECIAL, b"content-length")
_statuses: dict[bytes, int] = {}


def read_plain_request(head: bytes) -> PlainRequest | None:
    """A request without a body, or None.

    Args:
        head: without the empty line at its end.
    """
    lines = head.split(b"\r\n")
    words = lines[0].split(b" ")
    if len(words) != 3:
        return None
    method, target, version = words
    if version != b"HTTP/1.1" or method not in _METHODS:
        return None
    if not target.startswith(b"/") or target.translate(None, _TARGET):
        return None
    host: bytes | None = None
    headers: list[Any] = []
    fields, hosts = _request_lines.fields, _request_lines.apart
    for index in range(1, len(lines)):
        line = lines[index]
        field = fields.get(line)
        if field is None:
            field = hosts.get(line)
            if field is None:
                field = _request_lines.learn(line)
                if field is None:
                    return None
            name = field[0]
            if name == b"host":
                if host is not None:
                    return None
                host = field[1]
                continue
        if field[0]:
            headers.append(field)
    return None if host is None else PlainRequest(method, target, host, headers)


def plain_response_at(data: Buffer, most: int) -> PlainResponse | None:
    """The answer at the front of these bytes, if its head is whole, plain and shorter than ``most`` bytes."""
    end = bytes(data[:_LOOKED_AT]).find(b"\r\n\r\n")
    if end < 0 or end >= most:
        return None
    found = read_plain_response(bytes(data[:end]))
    if found is not None:
        found.size = end + 4
    return found


def read_plain_response(head: bytes) -> PlainResponse | None:
    """A final answer with a length, or None.

    Args:
        head: without the empty line at its end.
    """
    lines = head.split(b"\r\n")
    first = lines[0]
    status = _statuses.get(first, 0)
    if not status:
        match = _STATUS.fullmatch(first)
        if match is None:
            return None
        status = int(match[1])
        if len(first) <= _LONGEST_LINE:
            if len(_statuses) >= _MOST_LINES:
                _statuses.clear()
            _statuses[first] = status
    length = -1
    headers: list[Any] = []
    fields, lengths = _response_lines.fields, _response_lines.apart
    for index in range(1, len(lines)):
        line = lines[index]
        field = fields.get(line)
        if field is None:
            field = lengths.get(line)
            if field is None:
                field = _response_lines.learn(line)
                if field is None:
                    return None
            if field[0] == b"content-length":
                text: bytes = field[1]
                if length >= 0 or not text.isdigit() or len(text) > 15:
                    return None
                length = int(text)
        if field[0]:
            headers.append(field)
    return None if length < 0 else PlainResponse(status, length, headers)
