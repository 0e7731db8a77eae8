"""Answers from bytes: any split gives the same, h11 agrees, and nothing ambiguous passes."""

from __future__ import annotations

import itertools
from typing import Any

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import ConnectionLost
from waypoint.http.contract import Failure, FailureKind, Unwanted
from waypoint.http.h1_client_machine import H1ClientMachine
from waypoint.http.limits import HttpLimits
from waypoint.http.message import Headers, RequestHead, ResponseHead
from waypoint.testing.wires import MemoryWire


class Sink(Unwanted):
    """What was answered; adjacent data are one."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.failure: Failure | None = None

    def response_informational(self, head: ResponseHead) -> None:
        self.events.append(("interim", head.status))

    def response_head(self, head: ResponseHead, *, end: bool) -> None:
        assert not end
        self.events.append((head.status, head.headers))

    def response_data(self, data: bytes) -> None:
        if self.events and isinstance(self.events[-1], bytes):
            self.events[-1] += data
        else:
            self.events.append(data)

    def response_end(self, trailers: Headers | None) -> None:
        self.events.append(("end", trailers))

    def response_flush(self) -> None:
        pass

    def call_failed(self, failure: Failure) -> None:
        self.failure = failure

    def upstream_writable(self) -> None:
        pass


class Owner:
    def __init__(self) -> None:
        self.reusable = 0
        self.gone = 0

    def call_over(self, machine: H1ClientMachine) -> None:
        self.reusable += 1

    def connection_gone(self, machine: H1ClientMachine) -> None:
        self.gone += 1


def answered(parts: list[bytes], method: bytes = b"GET", *, close: bool = False) -> tuple[Sink, Owner]:
    wire, sink, owner = MemoryWire(), Sink(), Owner()
    machine = H1ClientMachine(wire, HttpLimits(), owner)
    wire.attach(machine)
    machine.begin(sink)
    machine.send_head(RequestHead(method=method, path=b"/", authority=b"h"), end=True)
    for part in parts:
        wire.feed(part)
    if close:
        wire.hang_up()
    return sink, owner


WHOLE = (
    b"HTTP/1.1 100 Continue\r\n\r\n"
    b"HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n"
    b"HTTP/1.1 200 OK\r\nX-A: 1\r\nConnection: keep-alive, x-gone\r\nX-Gone: 2\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5;a=b\r\nhello\r\n1\r\n!\r\n0\r\nx-t: 3\r\n\r\n"
)


@given(cuts=st.lists(st.integers(0, len(WHOLE)), max_size=10))
def test_any_split_gives_the_same(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(WHOLE)]
    sink, owner = answered([WHOLE[start:end] for start, end in itertools.pairwise(edges) if end > start])
    assert sink.events == [
        ("interim", 100),
        ("interim", 103),
        (200, [(b"x-a", b"1")]),
        b"hello!",
        ("end", [(b"x-t", b"3")]),
    ]
    assert (owner.reusable, owner.gone) == (1, 0)


@given(
    status=st.sampled_from([200, 204, 304, 404, 500]),
    body=st.binary(max_size=300),
    framing=st.sampled_from(["chunked", "length", "close"]),
    method=st.sampled_from(["GET", "HEAD"]),
)
def test_what_h11_answers_is_read(status: int, body: bytes, framing: str, method: str) -> None:
    server = h11.Connection(h11.SERVER)
    server.receive_data(f"{method} / HTTP/1.1\r\nhost: h\r\n\r\n".encode())
    assert isinstance(server.next_event(), h11.Request)
    bodyless = status in (204, 304) or method == "HEAD"
    headers = {
        "chunked": [("transfer-encoding", "chunked")],
        "length": [("content-length", str(len(body)))],
        "close": [("connection", "close")],
    }[framing]
    if status == 204:
        headers = []
    data = server.send(h11.Response(status_code=status, headers=headers)) or b""
    if not bodyless:
        data += server.send(h11.Data(body)) or b""
    data += server.send(h11.EndOfMessage()) or b""
    sink, _ = answered([data], method.encode(), close=True)
    assert sink.failure is None
    assert sink.events[0][0] == status
    assert b"".join(event for event in sink.events if isinstance(event, bytes)) == (b"" if bodyless else body)
    assert sink.events[-1] == ("end", None)


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-A : b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-A: b\r\n c\r\n\r\n",
        b"HTTP/1.1 200 OK\nX-A: b\n\n",
        b"HTTP/1.1 200 OK\r\nX-A: b\0\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 099 OK\r\n\r\n",
        b"ICY 200 OK\r\n\r\n",
    ],
)
@pytest.mark.parametrize("bytewise", [False, True])
def test_nothing_ambiguous_passes(data: bytes, bytewise: bool) -> None:
    parts = [data[at : at + 1] for at in range(len(data))] if bytewise else [data]
    sink, owner = answered(parts)
    assert sink.failure is not None
    assert sink.failure.kind is FailureKind.PROTOCOL
    assert not any(isinstance(event, bytes) for event in sink.events)
    assert (owner.reusable, owner.gone) == (0, 1)


def test_a_broken_chunk_in_the_midst() -> None:
    sink, owner = answered([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\nzz\r\n"])
    assert sink.events == [(200, []), b"ab"]
    assert sink.failure is not None
    assert owner.gone == 1


def test_a_cut_answer_is_not_taken_for_whole() -> None:
    for data in (b"HTTP/1.1 200 OK\r\ncontent-le", b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab"):
        sink, _ = answered([data], close=True)
        assert sink.failure is not None
        assert (sink.failure.kind, sink.failure.stale) == (FailureKind.LOST, False)


def test_a_body_that_ends_with_its_connection_is_whole_only_if_that_ends_well() -> None:
    for end, whole in (("hang_up", True), ("lose", True), ("cut", False)):
        wire, sink = MemoryWire(), Sink()
        machine = H1ClientMachine(wire, HttpLimits(), Owner())
        wire.attach(machine)
        machine.begin(sink)
        machine.send_head(RequestHead(method=b"GET", path=b"/", authority=b"h"), end=True)
        wire.feed(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nsome")
        if end == "cut":
            wire.lose(ConnectionLost("reset"))
        else:
            getattr(wire, end)()
        assert sink.events[-1] == (("end", None) if whole else b"some")
        assert (sink.failure is None) is whole


def test_a_connection_on_which_an_answer_has_begun_unasked_is_not_used_again() -> None:
    chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"
    for answer in (chunked, b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na"):
        sink, owner = answered([answer + b"HTTP/1.1 200 OK\r\nx: "])
        assert sink.events[-1] == ("end", None)
        assert (owner.reusable, owner.gone) == (0, 1)
        sink, owner = answered([answer])
        assert (owner.reusable, owner.gone) == (1, 0)
