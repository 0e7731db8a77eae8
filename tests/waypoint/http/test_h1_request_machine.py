"""Requests from bytes: any split gives the same events, h11 agrees, and nothing ambiguous passes."""

from __future__ import annotations

import itertools
from typing import Any

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from waypoint.http.h1_codec import BadHead
from waypoint.http.h1_request_machine import DataEvent, EndEvent, RequestEvent, RequestReader
from waypoint.http.limits import HttpLimits


def read(*parts: bytes, limits: HttpLimits | None = None) -> list[Any]:
    """What is read, in a form that can be compared; adjacent data are one."""
    reader = RequestReader(limits or HttpLimits())
    for part in parts:
        reader.feed(part)
        if any(isinstance(event, BadHead) for event in reader.events):
            break
    events: list[Any] = []
    for event in reader.events:
        if isinstance(event, RequestEvent):
            head = event.head
            events.append(
                (head.method, head.authority, head.path, tuple(head.headers), event.end, event.http10, event.keep_alive)
            )
        elif isinstance(event, DataEvent):
            if events and isinstance(events[-1], bytes):
                events[-1] += event.data
            else:
                events.append(event.data)
        elif isinstance(event, EndEvent):
            events.append(("end", event.trailers))
        else:
            events.append(event.status)
            break
    return events


HOST = b"Host: a.example\r\n"


def request(*lines: bytes, start: bytes = b"POST /x HTTP/1.1", host: bytes = HOST, body: bytes = b"") -> bytes:
    return start + b"\r\n" + host + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body


CONVERSATION = (
    request(b"X-A: 1", start=b"GET /one?q=%20 HTTP/1.1")
    + request(b"Content-Length: 5", b"X-Empty:", body=b"hello")
    + request(
        b"Transfer-Encoding: chunked",
        b"Connection: x-gone, keep-alive",
        b"X-Gone: 1",
        b"TE: trailers",
        body=b"3\r\nabc\r\n1;name=value\r\nd\r\n0\r\nX-Trailer: t\r\n\r\n",
    )
    + request(start=b"OPTIONS * HTTP/1.1")
    + request(start=b"GET http://b.example:81/abs HTTP/1.1")
    + request(b"Connection: close", start=b"GET /last HTTP/1.1")
)


def test_a_conversation() -> None:
    assert read(CONVERSATION) == [
        (b"GET", b"a.example", b"/one?q=%20", ((b"x-a", b"1"),), True, False, True),
        (b"POST", b"a.example", b"/x", ((b"content-length", b"5"), (b"x-empty", b"")), False, False, True),
        b"hello",
        ("end", None),
        (b"POST", b"a.example", b"/x", ((b"te", b"trailers"),), False, False, True),
        b"abcd",
        ("end", [(b"x-trailer", b"t")]),
        (b"OPTIONS", b"a.example", b"*", (), True, False, True),
        (b"GET", b"b.example:81", b"/abs", (), True, False, True),
        (b"GET", b"a.example", b"/last", (), True, False, False),
    ]


@given(cuts=st.lists(st.integers(0, len(CONVERSATION)), max_size=12))
def test_any_split_gives_the_same_events(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(CONVERSATION)]
    assert read(*(CONVERSATION[a:b] for a, b in itertools.pairwise(edges))) == read(CONVERSATION)


def test_single_bytes_give_the_same_events() -> None:
    assert read(*(bytes([byte]) for byte in CONVERSATION)) == read(CONVERSATION)


_names = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=12).map(lambda text: "x-" + text)
_values = st.text("abcXYZ019 ,;=\"'()", max_size=20).map(str.strip)


@given(
    headers=st.lists(st.tuples(_names, _values), max_size=8),
    bodies=st.lists(st.binary(min_size=1, max_size=300), max_size=4),
    chunked=st.booleans(),
    target=st.text("abc/?=&%20.", max_size=20),
)
@settings(max_examples=200)
def test_what_h11_writes_is_read(
    headers: list[tuple[str, str]], bodies: list[bytes], chunked: bool, target: str
) -> None:
    connection = h11.Connection(h11.CLIENT)
    framing = ("transfer-encoding", "chunked") if chunked else ("content-length", str(sum(map(len, bodies))))
    data = connection.send(h11.Request(method="POST", target=f"/{target}", headers=[("host", "h"), *headers, framing]))
    assert data is not None
    for body in bodies:
        data += connection.send(h11.Data(body)) or b""
    data += connection.send(h11.EndOfMessage()) or b""
    events = read(data)
    kept = tuple((name.encode(), value.encode()) for name, value in headers)
    if not chunked:
        kept = (*kept, (b"content-length", framing[1].encode()))
    whole = b"".join(bodies)
    assert events[0] == (b"POST", b"h", f"/{target}".encode(), kept, not whole and not chunked, False, True)
    assert [event for event in events[1:] if isinstance(event, bytes)] == ([whole] if whole else [])


SMUGGLING = {
    "both framings": (400, request(b"Content-Length: 3", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n")),
    "both framings, the other way": (
        400,
        request(b"Transfer-Encoding: chunked", b"Content-Length: 3", body=b"0\r\n\r\n"),
    ),
    "xchunked": (501, request(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n")),
    "gzip, chunked": (501, request(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n")),
    "chunked, identity": (400, request(b"Transfer-Encoding: chunked, identity", body=b"0\r\n\r\n")),
    "identity": (501, request(b"Transfer-Encoding: identity", body=b"0\r\n\r\n")),
    "twice chunked": (400, request(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n")),
    "chunked, chunked": (400, request(b"Transfer-Encoding: chunked, chunked", body=b"0\r\n\r\n")),
    "vertical tab": (400, request(b"Transfer-Encoding:\x0bchunked", body=b"0\r\n\r\n")),
    "a quoted coding": (501, request(b'Transfer-Encoding: "chunked"', body=b"0\r\n\r\n")),
    "space before the colon": (400, request(b"Transfer-Encoding : chunked", body=b"0\r\n\r\n")),
    "tab before the colon": (400, request(b"Content-Length\t: 3", body=b"abc")),
    "chunked in HTTP/1.0": (
        400,
        request(b"Transfer-Encoding: chunked", start=b"POST / HTTP/1.0", body=b"0\r\n\r\n"),
    ),
    "two lengths": (400, request(b"Content-Length: 3", b"Content-Length: 4", body=b"abcd")),
    "the same length twice": (400, request(b"Content-Length: 3", b"Content-Length: 3", body=b"abc")),
    "a list of lengths": (400, request(b"Content-Length: 3, 3", body=b"abc")),
    "a length with a sign": (400, request(b"Content-Length: +3", body=b"abc")),
    "a negative length": (400, request(b"Content-Length: -3", body=b"abc")),
    "a hexadecimal length": (400, request(b"Content-Length: 0x3", body=b"abc")),
    "no length": (400, request(b"Content-Length:", body=b"abc")),
    "a length beyond all bounds": (413, request(b"Content-Length: 99999999999999999999", body=b"abc")),
    "a folded header": (400, request(b"X-A: b", b" c")),
    "a folded host": (400, request(host=b"Host: a\r\n b\r\n")),
    "space before the first header": (400, request(host=b" Host: a\r\n")),
    "bare line feeds": (400, b"GET / HTTP/1.1\nHost: a\n\n"),
    "a bare line feed": (400, request(b"X-A: b\nX-C: d")),
    "a bare carriage return": (400, request(b"X-A: b\rX-C: d")),
    "NUL in a value": (400, request(b"X-A: b\0c")),
    "NUL in a name": (400, request(b"X\0A: b")),
    "a control character": (400, request(b"X-A: b\x01c")),
    "a space in a name": (400, request(b"X A: b")),
    "no name": (400, request(b": b")),
    "no colon": (400, request(b"X-A")),
    "two hosts": (400, request(b"Host: b")),
    "no host": (400, request(host=b"")),
    "an empty host": (400, request(host=b"Host:\r\n")),
    "a host with a path": (400, request(host=b"Host: a/b\r\n")),
    "a host with a user": (400, request(host=b"Host: u@a\r\n")),
    "a host with a space": (400, request(host=b"Host: a b\r\n")),
    "hosts in a list": (400, request(host=b"Host: a,b:80:90\r\n")),
    "an unknown method": (501, request(start=b"BREW / HTTP/1.1")),
    "a method in lower case": (501, request(start=b"get / HTTP/1.1")),
    "no method": (400, request(start=b"@[] / HTTP/1.1")),
    "a space in the target": (400, request(start=b"GET /a b HTTP/1.1")),
    "a control character in the target": (400, request(start=b"GET /\x01 HTTP/1.1")),
    "a fragment": (400, request(start=b"GET /a#b HTTP/1.1")),
    "no target form": (400, request(start=b"GET a HTTP/1.1")),
    "a star for GET": (400, request(start=b"GET * HTTP/1.1")),
    "a user in the target": (400, request(start=b"GET http://u@a/ HTTP/1.1")),
    "another scheme": (400, request(start=b"GET ftp://a/ HTTP/1.1")),
    "CONNECT with a path": (400, request(start=b"CONNECT /a HTTP/1.1")),
    "CONNECT without port": (400, request(start=b"CONNECT a HTTP/1.1")),
    "HTTP/2.0 in text": (505, request(start=b"GET / HTTP/2.0")),
    "HTTP/1.2": (505, request(start=b"GET / HTTP/1.2")),
    "HTTP/0.9": (505, b"GET /\r\n\r\n"),
    "another protocol's name": (400, request(start=b"GET / http/1.1")),
    "an offer with a body": (
        400,
        request(b"Connection: upgrade", b"Upgrade: websocket", b"Content-Length: 3", body=b"abc"),
    ),
    "CONNECT with a body": (400, request(b"Content-Length: 3", start=b"CONNECT a:1 HTTP/1.1", body=b"abc")),
}


@pytest.mark.parametrize("vector", SMUGGLING)
@pytest.mark.parametrize("bytewise", [False, True])
def test_nothing_ambiguous_passes(vector: str, bytewise: bool) -> None:
    status, data = SMUGGLING[vector]
    behind = data + request(start=b"GET /behind HTTP/1.1")
    events = read(*(bytes([byte]) for byte in behind)) if bytewise else read(behind)
    if bytewise and status == 501 and "method" in vector:
        status = 400  # the first byte alone does not tell a method from noise
    assert events == [status], "neither the request nor what stands behind it may be taken for one"


CHUNKS = {
    "a space after the size": b"3 \r\nabc\r\n0\r\n\r\n",
    "a prefix": b"0x3\r\nabc\r\n0\r\n\r\n",
    "a sign": b"-3\r\nabc\r\n0\r\n\r\n",
    "no size": b"\r\nabc\r\n0\r\n\r\n",
    "bare line feeds": b"3\nabc\n0\n\n",
    "a bare line feed in an extension": b"3;a\nb\r\nabc\r\n0\r\n\r\n",
    "too much data": b"3\r\nabcd\r\n0\r\n\r\n",
    "no line end after data": b"3\r\nabc0\r\n\r\n",
    "an overflow": b"fffffffffffffffff\r\nabc",
    "framing in a trailer": b"3\r\nabc\r\n0\r\nContent-Length: 5\r\n\r\n",
    "a bare line feed at the end": b"3\r\nabc\r\n0\r\n\n",
}


@pytest.mark.parametrize("vector", CHUNKS)
def test_chunks_are_read_strictly(vector: str) -> None:
    events = read(request(b"Transfer-Encoding: chunked", body=CHUNKS[vector]) + request())
    assert events[-1] == 400
    assert sum(isinstance(event, tuple) and event[0] == b"POST" for event in events) == 1


def test_trailers_cannot_bring_what_concerns_the_connection() -> None:
    body = b"0\r\nHost: b\r\nConnection: close\r\nUpgrade: x\r\nX-T: 1\r\n\r\n"
    assert read(request(b"Transfer-Encoding: chunked", body=body))[1:] == [("end", [(b"x-t", b"1")])]


@pytest.mark.parametrize("line", [b"X-A: " + b"a" * 1100 + b"\r\n", b"X-A: b\r\n" * 11])
def test_trailers_are_bounded(line: bytes) -> None:
    data = request(b"Transfer-Encoding: chunked", body=b"0\r\n" + line + b"\r\n")
    assert read(data, limits=LIMITS)[1:] == [431]


def test_connection_names_what_goes_but_nothing_that_matters() -> None:
    data = request(b"Connection: x-a, Authorization, close", b"X-A: 1", b"Authorization: b", b"X-C: 2")
    assert read(data) == [
        (b"POST", b"a.example", b"/x", ((b"authorization", b"b"), (b"x-c", b"2")), True, False, False)
    ]


LIMITS = HttpLimits(head_bytes=1000, headers=10, target_bytes=100, chunk_overhead_bytes=1000)


@pytest.mark.parametrize(
    ("status", "data"),
    [
        (431, request(*(b"X-%d: 1" % number for number in range(11)))),
        (431, request(b"X-A: " + b"a" * 2000)),
        (431, b"GET / HTTP/1.1\r\nX-A: " + b"a" * 2000),
        (431, b"\r\n" * 600),
        (431, request(*(b"X-%d: " % number + b"a" * 150 for number in range(9)))),
        (414, request(start=b"GET /" + b"a" * 200 + b" HTTP/1.1")),
    ],
)
def test_heads_are_bounded(status: int, data: bytes) -> None:
    step = 100
    parts = [data[start : start + step] for start in range(0, len(data), step)]
    assert read(*parts, limits=LIMITS) == [status]


@pytest.mark.parametrize("body", [b"1;" + b"a" * 5000, b"1\r\na\r\n0\r\nX-T: " + b"a" * 5000])
def test_what_chunks_add_is_bounded(body: bytes) -> None:
    data = request(b"Transfer-Encoding: chunked", body=body)
    parts = [data[start : start + 100] for start in range(0, len(data), 100)]
    assert read(*parts, limits=LIMITS)[-1] == 413


def test_tiny_chunks_are_no_abuse() -> None:
    body = b"1\r\na\r\n" * 3000 + b"0\r\n\r\n"
    data = request(b"Transfer-Encoding: chunked", body=body)
    parts = [data[start : start + 100] for start in range(0, len(data), 100)]
    assert read(*parts, limits=LIMITS)[1:] == [b"a" * 3000, ("end", None)]


def test_another_protocol_waits_and_can_be_declined() -> None:
    reader = RequestReader(HttpLimits())
    reader.feed(request(b"Connection: upgrade", b"Upgrade: WebSocket", start=b"GET /ws HTTP/1.1") + b"\x81")
    reader.feed(b"\x05")
    event = reader.events.popleft()
    assert isinstance(event, RequestEvent)
    assert (event.head.upgrade, reader.upgrade_pending, bytes(reader.rest)) == (b"websocket", True, b"\x81\x05")
    assert not reader.events
    reader.rest[:] = request(start=b"GET /next HTTP/1.1")
    reader.go_on()
    following = reader.events.popleft()
    assert isinstance(following, RequestEvent)
    assert (following.head.path, reader.upgrade_pending) == (b"/next", False)


def test_an_offer_of_cleartext_http2_is_ignored() -> None:
    offer = request(
        b"Connection: upgrade, http2-settings", b"Upgrade: h2c", b"HTTP2-Settings: AA", start=b"GET /a HTTP/1.1"
    )
    assert [event[2] for event in read(offer + request(start=b"GET /b HTTP/1.1"))] == [b"/a", b"/b"]
    assert read(offer)[0][3] == ()
