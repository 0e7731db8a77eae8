"""HTTP/1.1 heads: checks that go beyond the parser's, and heads as bytes (RFC 9110, RFC 9112)."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Final

from mesh.errors import InternalError, InvalidValue
from waypoint.http.message import Headers, RequestHead

REQUEST_SPECIAL: Final = frozenset(
    {
        *(b"host", b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"te", b"upgrade"),
        *(b"http2-settings", b"content-length"),
    }
)
"""Headers of requests that do not simply travel on."""
RESPONSE_SPECIAL: Final = REQUEST_SPECIAL - {b"host", b"te"}

_NOT_NAMED: Final = frozenset({b"close", b"keep-alive", b"upgrade", b"te", b""})
_KEPT: Final = frozenset(
    {b"content-length", b"cookie", b"authorization", b"forwarded", b"x-forwarded-for", b"cache-control"}
)
"""Headers that ``connection`` may not name: nobody would who means well (RFC 9110 section 7.6.1)."""

_AUTHORITY: Final = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]+)(?::[0-9]{0,5})?")
_ABSOLUTE: Final = re.compile(rb"(https?)://([^/?#@]+)([/?][^#]*)?", re.IGNORECASE)
_ENDS_A_WORD: Final = re.compile(rb"[ \r\n]")
_METHOD: Final = re.compile(rb"(?:\r\n)*[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64} ")

_PHRASES: Final = {status.value: status.phrase for status in HTTPStatus}
STATUS_LINES: Final = {
    status: f"HTTP/1.1 {status} {_PHRASES.get(status, '')}\r\n".encode() for status in range(100, 1000)
}


class BadHead(InvalidValue):
    """A head that is refused; ``status`` is the answer."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def valid_authority(value: bytes) -> bool:
    """Whether this can be a ``host`` header or ``:authority``; the empty one cannot."""
    return len(value) <= 512 and _AUTHORITY.fullmatch(value) is not None


def read_target(method: bytes, target: bytes, host: bytes) -> tuple[bytes, bytes, bytes]:
    """Scheme, authority and path of a request's target (RFC 9112 section 3.2).

    Raises:
        BadHead: it has none of the four forms.
    """
    if method == b"CONNECT":
        if not valid_authority(target) or b":" not in target:
            raise BadHead(400, "the target of CONNECT is no host with a port")
        return b"http", target, b""
    if target[:1] == b"/":
        if b"#" in target:
            raise BadHead(400, "a fragment in the request's target")
        return b"http", host, target
    if target == b"*":
        if method != b"OPTIONS":
            raise BadHead(400, "the target * is for OPTIONS")
        return b"http", host, target
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None or not valid_authority(absolute[2]):
        raise BadHead(400, "the request's target has none of the known forms")
    path = absolute[3] or b"/"
    return absolute[1].lower(), absolute[2], path if path[:1] == b"/" else b"/" + path


def status_of_parser_error(text: str, transfer_encoding: bytes | None, first_bytes: bytes | None) -> int:
    """How a request is answered that llhttp does not take.

    Args:
        text: llhttp's reason.
        transfer_encoding: the header, as far as it was read.
        first_bytes: of the connection, if this is its first request.
    """
    if text == "Invalid HTTP version":
        return 505
    if "overflow" in text and "Content-Length" in text:
        return 413
    if "method" in text and first_bytes is not None and _METHOD.match(first_bytes):
        return 501  # well formed, and nothing that llhttp knows
    if "has invalid `Transfer-Encoding`" in text and transfer_encoding is not None:
        return 501
    return 400


def connection_tokens(value: bytes) -> list[bytes]:
    """What a ``connection`` header lists, in lower case."""
    return [token.strip(b" \t") for token in value.lower().split(b",")]


def without_named(headers: Headers, tokens: list[bytes]) -> Headers:
    """The headers but those that ``connection`` names."""
    named = {token for token in tokens if token not in _NOT_NAMED and token not in _KEPT}
    return [header for header in headers if header[0] not in named] if named else headers


def header_block(headers: Headers) -> bytes:
    """``name: value`` lines, each with its end.

    Raises:
        InternalError: a name or value, which must come from our own configuration then, would end its line.
    """
    if not headers:
        return b""
    block = b"\r\n".join(map(b": ".join, headers)) + b"\r\n"
    if block.count(b"\n") != len(headers) or block.count(b"\r") != len(headers):
        raise InternalError("a header with a line end in it")
    return block


def request_head(head: RequestHead, *, end: bool) -> tuple[bytes, bool]:
    """A request's head as bytes, and whether its body is to be sent in chunks."""
    method = head.method
    block = header_block(head.headers)
    target = head.path
    if _ENDS_A_WORD.search(target) or method.find(b" ") >= 0 or head.authority.find(b"\n") >= 0:
        raise InternalError("a request line with a space or line end in its target")
    chunked = False
    block = b"host: %b\r\n%b" % (head.authority, block)
    if method == b"CONNECT":
        target = head.authority
    elif head.upgrade:
        block += b"connection: upgrade\r\nupgrade: " + head.upgrade + b"\r\n"
    elif end:
        if method in _WITH_BODY and block.find(b"\ncontent-length: ") < 0:
            block += b"content-length: 0\r\n"
    elif block.find(b"\ncontent-length: ") < 0:
        chunked = True
        block += b"transfer-encoding: chunked\r\n"
    if block.find(b"\nte: trailers\r\n") >= 0 and not head.upgrade:
        block += b"connection: te\r\n"
    return b"%b %b HTTP/1.1\r\n%b\r\n" % (method, target, block), chunked


_WITH_BODY: Final = frozenset({b"POST", b"PUT", b"PATCH"})


def chunk(data: bytes) -> bytes:
    """One chunk of a body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def last_chunk(trailers: Headers | None) -> bytes:
    """The end of a body in chunks."""
    return b"0\r\n" + header_block(trailers) + b"\r\n" if trailers else b"0\r\n\r\n"
