"""Heads as bytes, and the checks around them."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import InternalError
from waypoint.http.h1_codec import chunk, header_block, last_chunk, request_head, valid_authority
from waypoint.http.message import Headers, RequestHead


def head(
    method: bytes = b"GET", path: bytes = b"/p", headers: Headers | None = None, upgrade: bytes = b""
) -> RequestHead:
    return RequestHead(method=method, path=path, authority=b"h:1", headers=headers or [], upgrade=upgrade)


def read_by_h11(data: bytes) -> tuple[h11.Request, bytes, list[tuple[bytes, bytes]]]:
    """What an independent reader makes of a request."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(data)
    request = connection.next_event()
    assert isinstance(request, h11.Request)
    body = b""
    while isinstance(event := connection.next_event(), h11.Data):
        body += event.data
    assert isinstance(event, h11.EndOfMessage)
    return request, body, list(event.headers)


_names = st.text("abcdefgh-", min_size=1).map(lambda text: f"x-{text}".encode())
_values = st.text("abcXYZ019 ,;=").map(lambda text: text.strip().encode())


@given(
    headers=st.lists(st.tuples(_names, _values), max_size=6),
    bodies=st.lists(st.binary(min_size=1, max_size=100), max_size=4),
    trailers=st.lists(st.tuples(_names, _values), max_size=3),
)
def test_what_is_written_is_read_by_h11(headers: Headers, bodies: list[bytes], trailers: Headers) -> None:
    block, chunked = request_head(head(b"POST", headers=headers), end=False)
    assert chunked
    request, body, read_trailers = read_by_h11(block + b"".join(map(chunk, bodies)) + last_chunk(trailers or None))
    assert (request.method, request.target) == (b"POST", b"/p")
    assert list(request.headers) == [(b"host", b"h:1"), *headers, (b"transfer-encoding", b"chunked")]
    assert (body, read_trailers) == (b"".join(bodies), trailers)


@pytest.mark.parametrize(
    ("request_in", "end", "expected"),
    [
        (head(), True, b"GET /p HTTP/1.1\r\nhost: h:1\r\n\r\n"),
        (head(b"POST"), True, b"POST /p HTTP/1.1\r\nhost: h:1\r\ncontent-length: 0\r\n\r\n"),
        (
            head(b"PUT", headers=[(b"content-length", b"3")]),
            False,
            b"PUT /p HTTP/1.1\r\nhost: h:1\r\ncontent-length: 3\r\n\r\n",
        ),
        (
            head(b"PUT", headers=[(b"x-content-length", b"3")]),
            False,
            b"PUT /p HTTP/1.1\r\nhost: h:1\r\nx-content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n",
        ),
        (
            head(headers=[(b"te", b"trailers")]),
            True,
            b"GET /p HTTP/1.1\r\nhost: h:1\r\nte: trailers\r\nconnection: te\r\n\r\n",
        ),
        (
            head(upgrade=b"websocket"),
            True,
            b"GET /p HTTP/1.1\r\nhost: h:1\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        ),
        (head(b"CONNECT", b""), True, b"CONNECT h:1 HTTP/1.1\r\nhost: h:1\r\n\r\n"),
    ],
)
def test_framing_and_hop_by_hop_headers(request_in: RequestHead, end: bool, expected: bytes) -> None:
    assert request_head(request_in, end=end)[0] == expected


@pytest.mark.parametrize("bad", [(b"x", b"a\r\nb: c"), (b"x\n", b"a"), (b"x", b"\n"), (b"x", b"a\rb")])
def test_no_header_can_end_its_line(bad: tuple[bytes, bytes]) -> None:
    with pytest.raises(InternalError):
        header_block([(b"a", b"b"), bad])


@pytest.mark.parametrize("path", [b"/a b", b"/a\r\nx: y", b"/\n"])
def test_no_path_can_end_its_line(path: bytes) -> None:
    with pytest.raises(InternalError):
        request_head(head(path=path), end=True)


@pytest.mark.parametrize("good", [b"a", b"a.example:80", b"[::1]:80", b"10.0.0.1", b"a_b", b"a:"])
def test_authorities(good: bytes) -> None:
    assert valid_authority(good)


@pytest.mark.parametrize(
    "bad", [b"", b"a b", b"a/b", b"u@a", b"a:b", b"[::1", b"a" * 600, b"a\x80", b":80", b"a:123456"]
)
def test_what_is_no_authority(bad: bytes) -> None:
    assert not valid_authority(bad)
