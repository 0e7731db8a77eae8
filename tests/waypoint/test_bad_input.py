"""What hostile clients of the mesh send to a waypoint: each gets its answer, holds no memory, and harms nobody else.

The machines' own tests have the whole tables (``tests/waypoint/http``); here the process is attacked, through tunnels,
while another client goes on asking.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from mesh.hbone.codec import ErrorCode
from waypoint import serving
from waypoint.http.limits import HttpLimits

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, WINDOW, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, END_HEADERS = 1, 4
REQUEST = b"\x83\x86\x84\x41\x03web"
"""A block: POST http://web/."""
MEGABYTE = 1 << 20
BEHIND = b"GET /behind HTTP/1.1\r\nHost: web\r\n\r\n"


def post(*lines: bytes, body: bytes = b"0\r\n\r\n") -> bytes:
    return b"\r\n".join([b"POST /ahead HTTP/1.1", b"Host: web", *lines, b"", b""]) + body


AMBIGUOUS: dict[str, tuple[int, bytes]] = {
    "a length and chunks": (400, post(b"Content-Length: 4", b"Transfer-Encoding: chunked")),
    "chunks and a length": (400, post(b"Transfer-Encoding: chunked", b"Content-Length: 4")),
    "two lengths": (400, post(b"Content-Length: 0", b"Content-Length: 36", body=b"")),
    "chunked, and something behind it": (400, post(b"Transfer-Encoding: chunked, identity")),
    "a coding that is none": (501, post(b"Transfer-Encoding: xchunked")),
    "a tab before the coding": (400, post(b"Transfer-Encoding:\x0bchunked")),
    "a space before the colon": (400, post(b"Transfer-Encoding : chunked")),
    "two codings": (400, post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity")),
    "a coding in HTTP/1.0": (400, post(b"Transfer-Encoding: chunked").replace(b"HTTP/1.1", b"HTTP/1.0")),
    "a folded header": (400, post(b"X-A: b", b" Transfer-Encoding: chunked")),
    "bare line feeds": (400, b"POST /ahead HTTP/1.1\nHost: web\nContent-Length: 0\n\n"),
    "NUL": (400, post(b"X-A: b\0c", b"Content-Length: 0", body=b"")),
    "two hosts": (400, post(b"Host: other", b"Content-Length: 0", body=b"")),
    "a size with a sign": (400, post(b"Transfer-Encoding: chunked", body=b"+0\r\n\r\n")),
    "a size in other digits": (400, post(b"Transfer-Encoding: chunked", body=b"0x0\r\n\r\n")),
    "a chunk longer than its size": (400, post(b"Transfer-Encoding: chunked", body=b"1\r\nab\r\n0\r\n\r\n")),
    "a line feed for the end of a chunk": (400, post(b"Transfer-Encoding: chunked", body=b"1\r\na\n0\r\n\r\n")),
}
OVERSIZED: dict[str, tuple[int, bytes]] = {
    "a target": (414, b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: web\r\n\r\n"),
    "a header": (431, b"GET / HTTP/1.1\r\nHost: web\r\nX: " + b"a" * 70_000 + b"\r\n\r\n"),
    "many headers": (431, b"GET / HTTP/1.1\r\nHost: web\r\n" + b"X-A: b\r\n" * 150 + b"\r\n"),
    "a body's length": (413, post(b"Content-Length: 99999999999999999999", body=b"")),
    "a chunk's size": (400, post(b"Transfer-Encoding: chunked", body=b"fffffffffffffffff\r\n")),
    "chunk extensions": (413, post(b"Transfer-Encoding: chunked", body=b"1;" + b"a" * 300_000 + b"\r\na\r\n0\r\n\r\n")),
    "trailers": (
        431, post(b"Transfer-Encoding: chunked", body=b"0\r\nX: " + b"a" * 70_000 + b"\r\n\r\n")
    ),
}  # fmt: skip


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def resident() -> int:
    """Bytes of memory that this process, the waypoint in it, holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@asynccontextmanager
async def bystander(mesh: Any, web: Any) -> AsyncIterator[None]:
    """Somebody who goes on asking, on one connection and on new ones, and must not notice anything."""
    wire, received = await mesh.connect(web.authority)
    asked = 0

    async def ask() -> None:
        nonlocal asked
        while True:
            received.data.clear()
            wire.write(b"GET /good HTTP/1.1\r\nhost: web\r\n\r\n")
            answer = await received.until(lambda each: each.data.endswith(web.body) or each.ended or each.lost)
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert (await mesh.get(web.authority, "/good"))[0] == 200
            asked += 1
            await trio.sleep(0.005)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        yield
        before = asked
        with trio.fail_after(5):
            while asked < before + 3:  # noqa: ASYNC110 -- the other task counts
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    wire.reset()


async def answer_to(mesh: Any, web: Any, *parts: bytes) -> bytes:
    """What a connection is told before it is ended."""
    wire, received = await mesh.connect(web.authority)
    for part in parts:
        wire.write(part)
    answer: bytes = await received.until(lambda each: each.ended or each.lost)
    wire.reset()
    return answer


@pytest.mark.parametrize("case", AMBIGUOUS)
async def test_what_two_readers_could_read_differently_is_refused(own_mesh: Any, web: Any, case: str) -> None:
    status, data = AMBIGUOUS[case]
    async with bystander(own_mesh, web):
        answer = await answer_to(own_mesh, web, data + BEHIND)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert answer.count(b"HTTP/1.1 ") == 1, "nothing behind it is read as a request"
    assert b"/behind" not in web.seen


async def test_absolute_targets_go_where_they_say_whatever_the_host(own_mesh: Any, web: Any) -> None:
    answer = await answer_to(
        own_mesh, web, b"GET http://web/target HTTP/1.1\r\nHost: other\r\nConnection: close\r\n\r\n"
    )
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert web.seen == [b"/target"]


@pytest.mark.parametrize("case", OVERSIZED)
async def test_what_is_too_large_is_refused(own_mesh: Any, web: Any, case: str) -> None:
    status, data = OVERSIZED[case]
    async with bystander(own_mesh, web):
        assert (await answer_to(own_mesh, web, data)).startswith(b"HTTP/1.1 %d " % status)


def goaway(answer: bytes) -> int | None:
    """The code of a GOAWAY among frames."""
    while len(answer) >= 9:
        size = int.from_bytes(answer[:3], "big")
        if answer[3] == GOAWAY:
            return int.from_bytes(answer[13:17], "big")
        answer = answer[9 + size :]
    return None


def rapid_resets() -> bytes:
    """Requests that are given up at once (CVE-2023-44487)."""
    pairs = (
        frame(HEADERS, END_HEADERS | END_STREAM, number, REQUEST) + frame(RESET, 0, number, bytes(4))
        for number in range(1, 4001, 2)
    )
    return b"".join(pairs)


def continuations() -> bytes:
    """A header block without end (CVE-2024-24549 and its kin)."""
    return frame(HEADERS, 0, 1, REQUEST) + frame(CONTINUATION, 0, 1, b"\x00\x01a\x7f\x00" + b"b" * 127) * 5000


def bomb() -> bytes:
    """A field of 4,000 bytes kept in the table, and then named by one byte each time: 40 MB in 10 KB."""
    kept = REQUEST + b"\x40\x01x\x7f\xa1\x1e" + b"b" * 4000
    return frame(HEADERS, END_HEADERS | END_STREAM, 1, kept) + b"".join(
        frame(HEADERS, END_HEADERS | END_STREAM, number, REQUEST + b"\xbe" * 10_000) for number in range(3, 23, 2)
    )


FLOODS: dict[str, tuple[Callable[[], bytes], set[int]]] = {
    "rapid resets": (rapid_resets, {ErrorCode.ENHANCE_YOUR_CALM}),
    "a block without end": (continuations, {ErrorCode.ENHANCE_YOUR_CALM}),
    "empty pieces of a block": (
        lambda: frame(HEADERS, 0, 1, REQUEST) + frame(CONTINUATION, 0, 1) * 20_000, {ErrorCode.ENHANCE_YOUR_CALM}
    ),
    "a bomb of header fields": (bomb, {ErrorCode.ENHANCE_YOUR_CALM, ErrorCode.COMPRESSION_ERROR}),
    "pings": (lambda: frame(PING, 0, 0, bytes(8)) * 20_000, {ErrorCode.ENHANCE_YOUR_CALM}),
    "settings": (lambda: frame(SETTINGS) * 20_000, {ErrorCode.ENHANCE_YOUR_CALM}),
    "empty data": (
        lambda: frame(HEADERS, END_HEADERS, 1, REQUEST) + frame(DATA, 0, 1) * 20_000, {ErrorCode.ENHANCE_YOUR_CALM}
    ),
    "a frame too large": (
        lambda: frame(HEADERS, END_HEADERS, 1, REQUEST) + frame(DATA, 0, 1, bytes(MEGABYTE + 1)),
        {ErrorCode.FRAME_SIZE_ERROR},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FLOODS)
async def test_floods_of_http2_end_their_connection_and_nothing_else(own_mesh: Any, web: Any, case: str) -> None:
    make, codes = FLOODS[case]
    async with bystander(own_mesh, web):
        before = resident()
        answer = await answer_to(own_mesh, web, PREFACE + frame(SETTINGS), make())
        assert goaway(answer) in codes
        assert resident() - before < 64 * MEGABYTE
    assert sum(path != b"/good" for path in web.seen) < 1000, "most requests that are given up reach nobody"


def literal(name: bytes, value: bytes) -> bytes:
    """A field of a block, in plain letters."""
    return bytes((0, len(name))) + name + bytes((len(value),)) + value


ABUSED: dict[str, bytes] = {
    "a path twice": REQUEST + literal(b":path", b"/admin"),
    "a method twice": REQUEST + literal(b":method", b"GET"),
    "an authority twice": REQUEST + literal(b":authority", b"other"),
    "a host that is another one": REQUEST + literal(b"host", b"other"),
    "one behind a header": b"\x83\x86\x41\x03web" + literal(b"a", b"b") + b"\x84",
    "one that is unknown": REQUEST + literal(b":protocol", b"websocket"),
    "one of answers": REQUEST + literal(b":status", b"200"),
    "no path": b"\x83\x86\x41\x03web",
    "an empty path": b"\x83\x86\x41\x03web" + literal(b":path", b""),
    "a path with a line's end": b"\x83\x86\x41\x03web" + literal(b":path", b"/a HTTP/1.1\r\nHost: b"),
    "an authority with a line's end": b"\x83\x86\x84" + literal(b":authority", b"web\r\nx: y"),
    "capitals": REQUEST + literal(b"Transfer-Encoding", b"chunked"),
    "a coding": REQUEST + literal(b"transfer-encoding", b"chunked"),
    "a header of connections": REQUEST + literal(b"connection", b"close"),
    "a value with a line's end": REQUEST + literal(b"x", b"a\r\nHost: b"),
    "a value with NUL": REQUEST + literal(b"x", b"a\0b"),
}


@pytest.mark.parametrize("case", ABUSED)
async def test_a_malformed_head_of_http2_is_reset_and_the_next_request_served(
    own_mesh: Any, web: Any, case: str
) -> None:
    bad = frame(HEADERS, END_HEADERS | END_STREAM, 1, ABUSED[case])
    good = frame(HEADERS, END_HEADERS | END_STREAM, 3, REQUEST)
    async with bystander(own_mesh, web):
        answer = await answer_to(own_mesh, web, PREFACE + frame(SETTINGS), bad, good + frame(GOAWAY, 0, 0, bytes(8)))
    assert frame(RESET, 0, 1, b"\0\0\0\1") in answer
    assert answer.endswith(b"answer" + frame(DATA, END_STREAM, 3)), "the next request has been answered"
    assert web.seen.count(b"/") == 1


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A waypoint whose clients have little time."""
    monkeypatch.setattr(serving, "HttpLimits", partial(HttpLimits, head_seconds=1.0))


@pytest.mark.parametrize(
    ("start", "told"),
    [
        (b"GET / HTTP/1.1\r\nHost: web\r\nX-Slow: ", b"HTTP/1.1 408 "),
        (PREFACE + frame(SETTINGS) + frame(HEADERS, 0, 1, REQUEST), frame(GOAWAY)[3:4]),
    ],
)
async def test_slow_heads_have_their_time(
    hasty: None, own_mesh: Any, web: Any, start: bytes, told: bytes
) -> None:
    async with bystander(own_mesh, web):
        before = resident()
        made = [await own_mesh.connect(web.authority) for _ in range(300)]
        for wire, _ in made:
            wire.write(start)
        assert resident() - before < 64 * MEGABYTE
        for wire, received in made:
            answer = await received.until(lambda each: each.ended or each.lost)
            assert told in answer
            wire.reset()


async def test_who_does_not_read_holds_one_window_each(own_mesh: Any, web: Any) -> None:
    web.body = bytes(8 * MEGABYTE)
    wires = []
    before = resident()
    for _ in range(30):
        wire, _ = await own_mesh.connect(web.authority)
        wire.pause()
        wire.write(b"GET /unread HTTP/1.1\r\nhost: web\r\n\r\n")
        wires.append(wire)
    with trio.fail_after(10):
        while len(web.seen) < len(wires):  # noqa: ASYNC110 -- the server counts
            await trio.sleep(0.01)
    await trio.sleep(0.5)
    held = resident() - before
    web.body = b"answer"
    async with bystander(own_mesh, web):
        pass
    for wire in wires:
        wire.reset()
    assert held < 100 * MEGABYTE, "240 MB were asked for"
