"""HTTP/1.1 and 1.0 requests from bytes.

Theory of operation
-------------------
llhttp parses everything it is given at once, several pipelined requests too, and calls back from inside. So its
callbacks only note what there is, in :attr:`RequestReader.events`; whoever feeds the reader acts on them afterwards.

Strictness. llhttp is used without any of its leniencies: both framings at once, bare line feeds, folded headers, spaces
before a colon, NUL, doubled lengths are errors there. What it lets pass is checked here when a head is complete: one
``host`` that is an authority, no transfer coding but ``chunked``, a version that we speak, bounds on sizes. Whatever is
refused ends the connection, since nobody can know any more where its next request begins.
"""

from __future__ import annotations

from collections import deque

import httptools

from waypoint.http.h1_codec import (
    REQUEST_SPECIAL,
    BadHead,
    connection_tokens,
    read_target,
    status_of_parser_error,
    valid_authority,
    without_named,
)
from waypoint.http.h1_plain_codec import read_plain_request
from waypoint.http.limits import HttpLimits
from waypoint.http.message import Headers, RequestHead
from waypoint.wire.contract import Buffer


class RequestEvent:
    """A head has arrived."""

    __slots__ = ("end", "head", "http10", "keep_alive")

    def __init__(self, head: RequestHead, *, end: bool, http10: bool, keep_alive: bool) -> None:
        self.head = head
        self.end = end
        """The request has no body."""
        self.http10 = http10
        self.keep_alive = keep_alive


class EndEvent:
    """A body is over."""

    __slots__ = ("trailers",)

    def __init__(self, trailers: Headers | None) -> None:
        self.trailers = trailers


class DataEvent:
    """Some of a body."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data


Event = RequestEvent | DataEvent | EndEvent | BadHead


def _size(headers: Headers) -> int:
    """Bytes of these lines."""
    return sum(len(name) + len(value) + 4 for name, value in headers)


class RequestReader:
    """One connection's input."""

    __slots__ = (
        *("_body_bytes", "_chunked", "_chunks", "_connection", "_excess", "_first", "_headers", "_host", "_known_host"),
        *("_last", "_length", "_limits", "_parser", "_parsing", "_refusal", "_te", "_trailers", "_upgrade", "_url"),
        *("events", "head_bytes", "in_head", "rest", "upgrade_pending"),
    )

    def __init__(self, limits: HttpLimits) -> None:
        self._limits = limits
        self._parser = httptools.HttpRequestParser(self)
        self.events: deque[Event] = deque()
        """What has arrived and was not acted on; after a :class:`BadHead` there is nothing."""
        self.upgrade_pending = False
        """What follows the request at hand may be another protocol: it waits in ``rest``."""
        self.rest = bytearray()
        self._first = True
        self._last = False
        """The client has said that no request follows."""
        self._parsing = False
        """The parser is in the midst of a request: what arrives is its to read, however it looks."""
        # The head being read.
        self.in_head = True
        self.head_bytes = 0
        """How much of a head that is not complete has arrived."""
        self._url = b""
        self._headers: Headers = []
        self._host: bytes | None = None
        self._known_host = b" "
        """The last that was looked at and found to be one."""
        self._connection: bytes | None = None
        self._te: bytes | None = None
        self._upgrade = b""
        self._length = 0
        self._refusal: BadHead | None = None
        # Its body.
        self._trailers: Headers | None = None
        self._chunked = False
        self._chunks = 0
        self._body_bytes = 0
        self._excess = 0

    def feed(self, data: Buffer) -> None:
        """Parse bytes into ``events``."""
        if self.upgrade_pending:
            self.rest += data
            return
        before = self._body_bytes
        if self.in_head:
            if not self._parsing and not self._last:
                data = self._take_plain(data)
                if not data:
                    return
            self.head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._first = False
            self._stopped(bytes(data[upgrade.args[0] :]))
            return
        except httptools.HttpParserError as error:
            self._failed(error, data)
            return
        self._first = False
        if self.in_head:
            if self.head_bytes > self._limits.head_bytes:
                self.events.append(BadHead(431, "the request's head is too large"))
        elif self._chunked:
            # Chunk headers, extensions and trailers: what they may take grows with the body (16 bytes for a chunk).
            delivered = self._body_bytes - before
            self._excess = max(0, self._excess + len(data) - 2 * delivered - 16 * self._chunks)
            self._chunks = 0
            if self._excess > self._limits.chunk_overhead_bytes:
                self.events.append(BadHead(413, "a body that is all chunk headers"))

    def _take_plain(self, data: Buffer) -> Buffer:
        """Read the heads at the front that need no parser; returns what is left for it."""
        whole, limits = bytes(data), self._limits
        start, end = 0, whole.find(b"\r\n\r\n")
        while end >= 0 and end - start < limits.head_bytes:
            plain = read_plain_request(whole[start:end])
            if plain is None or len(plain.target) > limits.target_bytes or len(plain.headers) > limits.headers:
                break
            if plain.host != self._known_host:
                if not valid_authority(plain.host):
                    break
                self._known_host = plain.host
            head = RequestHead(
                method=plain.method, path=plain.target, authority=plain.host, headers=plain.headers
            )
            self.events.append(RequestEvent(head, end=True, http10=False, keep_alive=True))
            self._first = False
            start = end + 4
            end = whole.find(b"\r\n\r\n", start)
        return whole[start:] if start else data

    def go_on(self) -> None:
        """The other protocol was declined: what waits are requests."""
        self.upgrade_pending = False
        rest, self.rest = self.rest, bytearray()
        self._parser = httptools.HttpRequestParser(self)
        self._parsing = False
        if rest:
            self.feed(rest)

    def _stopped(self, rest: bytes) -> None:
        """The parser stops after a request that offers another protocol, or is a CONNECT."""
        if self.upgrade_pending:
            self.rest += rest
            return
        self._parser = httptools.HttpRequestParser(self)
        self._parsing = False
        if rest:
            self.feed(rest)

    def _failed(self, error: httptools.HttpParserError, data: Buffer) -> None:
        refusal = self._refusal
        if refusal is None:
            if isinstance(error, httptools.HttpParserCallbackError):
                raise error  # a bug of ours
            text = str(error)
            if text.startswith("Data after `Connection: close`"):
                return  # sent in vain, as the client knows: it said that the request before is its last
            status = status_of_parser_error(text, self._te, bytes(data[:128]) if self._first else None)
            refusal = BadHead(status, text)
        self.events.append(refusal)

    # -- what the parser calls ---------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        self._parsing = True

    def on_url(self, part: bytes) -> None:
        """Some of the request's target."""
        self._url = self._url + part if self._url else part

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer."""
        name = name.lower()
        value = value.rstrip(b" \t")
        if not self.in_head:
            if name not in REQUEST_SPECIAL:
                if self._trailers is None:
                    self._trailers = []
                self._trailers.append((name, value))
                if len(self._trailers) > self._limits.headers or _size(self._trailers) > self._limits.head_bytes:
                    raise self._refuse(431, "the request's trailers are too large")
        elif name not in REQUEST_SPECIAL:
            self._headers.append((name, value))
        elif name == b"host":
            if self._host is not None:
                raise self._refuse(400, "two host headers")
            self._host = value
        elif name == b"content-length":
            self._length = int(value)
            self._headers.append((name, value))
        elif name == b"connection":
            self._connection = value if self._connection is None else self._connection + b"," + value
        elif name == b"transfer-encoding":
            self._te = value if self._te is None else self._te + b"," + value
        elif name == b"upgrade":
            self._upgrade = value.lower()
        elif name == b"te" and b"trailers" in value.lower():
            self._headers.append((name, b"trailers"))

    def _refuse(self, status: int, text: str) -> BadHead:
        self._refusal = BadHead(status, text)
        return self._refusal

    def on_headers_complete(self) -> None:
        """A whole head: check it, and make it an event."""
        parser, limits = self._parser, self._limits
        headers, url, method = self._headers, self._url, parser.get_method()
        version = parser.get_http_version()
        http10 = version == "1.0"
        if version != "1.1" and not http10:
            raise self._refuse(505, f"HTTP/{version}")
        if len(url) > limits.target_bytes:
            raise self._refuse(414, "the request's target is too long")
        if len(headers) > limits.headers:
            raise self._refuse(431, "too many headers")
        if self.head_bytes > limits.head_bytes and len(url) + _size(headers) > limits.head_bytes:
            raise self._refuse(431, "the request's head is too large")  # all of it came at once
        host = self._host
        if host is None:
            if not http10:
                raise self._refuse(400, "no host header")
            host = b""
        elif host != self._known_host:
            if not valid_authority(host):
                raise self._refuse(400, "a host header that names no host")
            self._known_host = host
        chunked = self._te is not None
        if chunked and (http10 or (self._te or b"").lower() != b"chunked"):
            raise self._refuse(400 if http10 else 501, "a transfer coding other than chunked")
        scheme = b"http"
        if url[:1] != b"/" or b"#" in url or method == b"CONNECT":
            try:
                scheme, host, url = read_target(method, url, host)
            except BadHead as refusal:
                self._refusal = refusal
                raise
        has_body = chunked or self._length > 0
        upgrade = b""
        if self._connection is not None:
            tokens = connection_tokens(self._connection)
            headers = without_named(headers, tokens)
            if self._upgrade and not http10 and b"upgrade" in tokens:
                if has_body and parser.should_upgrade():
                    # The parser would take the body for the other protocol.
                    raise self._refuse(400, "a request that has a body and offers another protocol")
                if not self._upgrade.startswith(b"h2c"):
                    upgrade = self._upgrade
        elif method == b"CONNECT" and has_body:
            raise self._refuse(400, "a CONNECT with a body")
        self.upgrade_pending = bool(upgrade) or method == b"CONNECT"
        head = RequestHead(method=method, path=url, authority=host, scheme=scheme, headers=headers, upgrade=upgrade)
        keep_alive = parser.should_keep_alive()
        self._last = not keep_alive
        self.events.append(RequestEvent(head, end=not has_body, http10=http10, keep_alive=keep_alive))
        # The next head begins when this message is complete; until then what comes are trailers.
        self.in_head = False
        self.head_bytes = 0
        self._chunked = chunked
        self._headers = []
        self._url = b""
        self._host = None
        self._connection = None
        self._te = None
        self._upgrade = b""

    def on_body(self, data: bytes) -> None:
        """Some of the body."""
        self._body_bytes += len(data)
        self.events.append(DataEvent(data))

    def on_chunk_header(self) -> None:
        """Another chunk."""
        self._chunks += 1

    def on_message_complete(self) -> None:
        """The request is over."""
        self._parsing = False
        if self._chunked or self._length:
            self.events.append(EndEvent(self._trailers))
            self._trailers = None
            self._length = 0
            self._chunked = False
            self._excess = 0
        self.in_head = True
