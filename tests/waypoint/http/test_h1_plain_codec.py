"""Heads that are read without a parser: what is read is what llhttp reads, and what is not plain is left to it."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from waypoint.http.h1_codec import BadHead
from waypoint.http.h1_plain_codec import plain_response_at, read_plain_request, read_plain_response
from waypoint.http.h1_request_machine import DataEvent, RequestEvent, RequestReader
from waypoint.http.limits import HttpLimits

NAMES = ["accept", "X-Canary", "User-Agent", "cookie", "authorization", "x-request-id", "connection", "host", "Host"]
NAMES += ["content-length", "transfer-encoding", "te", "upgrade", "keep-alive", "proxy-connection", "x a", "", "é"]
VALUES = ["", "a", "*/*", "keep-alive", "close", "Keep-Alive", "upgrade", "x, y", "shop", "shop:80", "a b", " a", "a "]
VALUES += ["\ta", "a\tb", "5", "0", "chunked", "trailers", "websocket", "a\rb", "a\nb", "\x00", "\x7f", "é", "a\r\n b"]
TARGETS = ["/", "/a?b=c", "/%41", "/#x", "*", "http://shop/a", "shop:80", "/a b", "/é", "/{x}", "", "//", "/\\", "/|"]
METHODS = ["GET", "POST", "HEAD", "get", "CONNECT", "OPTIONS", "PURGE", "FOO", ""]
VERSIONS = ["HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "http/1.1", ""]

fields = st.tuples(
    st.sampled_from(NAMES) | st.text(max_size=8), st.sampled_from([": ", ":", " : ", ":  "]), st.sampled_from(VALUES)
)
heads = st.builds(
    lambda method, target, version, host, lines: "\r\n".join(
        [f"{method} {target} {version}", *([f"host: {host}"] if host else []), *(a + b + c for a, b, c in lines)]
    ).encode("latin-1", "replace"),
    st.sampled_from(METHODS),
    st.sampled_from(TARGETS) | st.text(max_size=10),
    st.sampled_from(VERSIONS),
    st.sampled_from(["shop", "shop:80", "[::1]:80", "", "a b"]),
    st.lists(fields, max_size=4),
)
Told = list[tuple[object, ...]]


def told(*parts: bytes) -> Told:
    """What a reader makes of bytes that come in these parts; of adjacent data it makes one."""
    reader = RequestReader(HttpLimits())
    found: Told = []
    for part in parts:
        if not any(isinstance(event, BadHead) for event in reader.events):  # after a refusal nothing is fed
            reader.feed(part)
    for event in reader.events:
        if isinstance(event, RequestEvent):
            head = event.head
            said = (head.method, head.path, head.authority, head.scheme, head.headers, head.upgrade)
            found.append((*said, event.end, event.http10, event.keep_alive))
        elif isinstance(event, DataEvent):
            before = found.pop()[1] if found and found[-1][0] == "data" else b""
            assert isinstance(before, bytes)
            found.append(("data", before + event.data))
        else:
            found.append((type(event).__name__,))
    return found


def by_the_parser(data: bytes) -> Told:
    """The same, with llhttp asked about every byte: it gets one at a time, and no head is ever whole."""
    return told(*(data[place : place + 1] for place in range(len(data))))


@settings(max_examples=500)
@given(heads, st.binary(max_size=8) | heads.map(lambda head: head + b"\r\n\r\n"))
@example(b"GET / HTTP/1.1\r\nhost: shop\r\nconnection: keep-alive\r\nx:", b"")
@example(b"GET / HTTP/1.1\r\nhost: shop\r\nconnection: close", b"GET / HTTP/1.1\r\nhost: shop\r\n\r\n")
def test_a_reader_tells_what_the_parser_alone_would(head: bytes, more: bytes) -> None:
    data = head + b"\r\n\r\n" + more
    assert told(data) == by_the_parser(data)


MESSAGES = [
    b"GET /a HTTP/1.1\r\nhost: shop\r\n\r\n",
    b"GET /b HTTP/1.1\r\nhost: shop\r\nx-a: GET /c HTTP/1.1\r\nx-b: 1\r\n\r\n",
    b"POST /d HTTP/1.1\r\nhost: shop\r\ncontent-length: 5\r\n\r\nhello",
    b"POST /e HTTP/1.1\r\nhost: shop\r\ncontent-length: 35\r\n\r\nGET /f HTTP/1.1\r\nhost: shop\r\n\r\n.....",
    b"PUT /g HTTP/1.1\r\nhost: shop\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-t: 1\r\n\r\n",
    b"\r\nGET /h HTTP/1.1\r\nhost: shop\r\n\r\n",
    b"GET /i HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n",
    b"GET /j HTTP/1.1\r\nx-a: \r\nhost: shop\r\n\r\n",
]


@settings(max_examples=500)
@given(st.lists(st.sampled_from(MESSAGES), min_size=1, max_size=4), st.lists(st.integers(0, 400), max_size=6))
def test_wherever_bytes_are_cut_requests_are_the_same(messages: list[bytes], cuts: list[int]) -> None:
    data = b"".join(messages)
    places = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    parts = [data[start:end] for start, end in itertools.pairwise(places)]
    assert told(*parts) == by_the_parser(data)


def test_what_looks_like_a_head_inside_of_a_head_is_none() -> None:
    """A body's last bytes come with the beginning of the next request, whose rest looks like a request of its own."""
    first = b"POST / HTTP/1.1\r\nhost: shop\r\ncontent-length: 2\r\n\r\n"
    parts = (first, b"okGET /outer HTTP/1.1\r\nx-a: ", b"GET /inner HTTP/1.1\r\nhost: shop\r\n\r\n")
    found = told(*parts)
    assert [said[1] for said in found if len(said) > 2] == [b"/", b"/outer"]
    assert found == by_the_parser(b"".join(parts))


@given(heads)
def test_a_line_means_the_same_when_it_is_remembered(head: bytes) -> None:
    first = read_plain_request(head)
    again = read_plain_request(head)
    assert (first is None) == (again is None)
    if first is not None and again is not None:
        assert (first.host, first.headers) == (again.host, again.headers)


def test_a_plain_request() -> None:
    found = read_plain_request(
        b"GET /a?b HTTP/1.1\r\nHost: shop\r\nConnection: Keep-Alive\r\nX-A: 1\r\nx-a: \r\ncookie: c=1; d=2"
    )
    assert found is not None
    assert (found.method, found.target, found.host) == (b"GET", b"/a?b", b"shop")
    assert found.headers == [(b"x-a", b"1"), (b"x-a", b""), (b"cookie", b"c=1; d=2")]


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1",
        b"GET / HTTP/1.1\r\nhost: a\r\nhost: a",
        b"GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 0",
        b"GET / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked",
        b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close",
        b"GET / HTTP/1.1\r\nhost: a\r\n folded",
        b"GET / HTTP/1.1\r\nhost: a\nx: b",
        b"GET  / HTTP/1.1\r\nhost: a",
        b"GET /a#b HTTP/1.1\r\nhost: a",
        b"\r\nGET / HTTP/1.1\r\nhost: a",
    ],
)
def test_what_is_left_to_the_parser(head: bytes) -> None:
    assert read_plain_request(head) is None


def test_a_plain_response() -> None:
    found = read_plain_response(b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 12\r\nconnection: keep-alive")
    assert found is not None
    assert (found.status, found.length) == (200, 12)
    assert found.headers == [(b"server", b"x"), (b"content-length", b"12")]
    found = read_plain_response(b"HTTP/1.1 503 \r\ncontent-length: 0")
    assert found is not None
    assert (found.status, found.length) == (503, 0)


def test_an_answer_at_the_front_of_bytes() -> None:
    data = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabcHTTP/1.1 ..."
    found = plain_response_at(memoryview(data), 100)
    assert found is not None
    assert (found.status, found.length, data[found.size :][: found.length]) == (200, 3, b"abc")
    assert plain_response_at(data[:30], 100) is None  # not whole
    assert plain_response_at(data, 20) is None  # too long
    assert plain_response_at(b"HTTP/1.1 200 OK\r\nx: %b\r\n\r\n" % (9000 * b"x"), 100_000) is None


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK",
        b"HTTP/1.0 200 OK\r\ncontent-length: 1",
        b"HTTP/1.1 100 Continue\r\ncontent-length: 1",
        b"HTTP/1.1 600 ?\r\ncontent-length: 1",
        b"HTTP/1.1 200\r\ncontent-length: 1",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 1",
        b"HTTP/1.1 200 OK\r\ncontent-length: +1",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1, 1",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\nconnection: close",
        b"HTTP/1.1 200 OK\r\ncontent-length : 1",
    ],
)
def test_which_answers_are_left_to_the_parser(head: bytes) -> None:
    assert read_plain_response(head) is None


def test_more_lines_than_are_remembered_are_forgotten_and_learnt_again() -> None:
    for number in range(5000):
        found = read_plain_request(b"GET / HTTP/1.1\r\nhost: h%d\r\nx-n: %d" % (number, number))
        assert found is not None
        assert (found.host, found.headers) == (b"h%d" % number, [(b"x-n", b"%d" % number)])
