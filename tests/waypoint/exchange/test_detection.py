"""What clients speak, told from their first bytes."""

from __future__ import annotations

import ssl
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.hbone.codec import PREFACE
from waypoint.client import Client
from waypoint.exchange.client_connection import ClientConnection
from waypoint.exchange.detection import MOST, Spoken, detect, detect_http, server_name
from waypoint.http.limits import HttpLimits
from waypoint.testing.exchanges import CLIENT, Stage
from waypoint.testing.wires import MemoryWire
from waypoint.wire.contract import Wire


def hello(name: str | None) -> bytes:
    """What OpenSSL says first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    outgoing = ssl.MemoryBIO()
    connection = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        connection.do_handshake()
    return outgoing.read()


@pytest.mark.parametrize(
    ("start", "spoken"),
    [
        (b"", Spoken.UNDECIDED),
        (b"P", Spoken.UNDECIDED),
        (b"PRI * HTTP", Spoken.UNDECIDED),
        (PREFACE, Spoken.HTTP2),
        (PREFACE + b"\0\0", Spoken.HTTP2),
        (b"POST / HTTP/1.1\r\n", Spoken.HTTP1),
        (b"GE", Spoken.UNDECIDED),
        (b"GET ", Spoken.HTTP1),
        (b"\r\nGET /", Spoken.HTTP1),
        (b"VERSION-CONTROL /", Spoken.HTTP1),
        (b"\x16", Spoken.UNDECIDED),
        (b"\x16\x03", Spoken.UNDECIDED),
        (b"\x16\x04", Spoken.OTHER),
        (b"SSH-2.0-OpenSSH_9.2\r\n", Spoken.OTHER),
        (b"*1\r\n$4\r\nPING\r\n", Spoken.OTHER),
        (b"\0\0\0\x08\x04\xd2\x16\x2f", Spoken.OTHER),
        (b"ABCDEFGHIJKLMNOPQRSTUVWXYZ", Spoken.OTHER),
    ],
)
def test_first_bytes(start: bytes, spoken: Spoken) -> None:
    assert detect(start) is spoken


@pytest.mark.parametrize("name", ["Reviews.Demo.example", None])
def test_tls_and_its_server_name(name: str | None) -> None:
    start = hello(name)
    assert detect(start) is Spoken.TLS
    assert [detect(start[:size]) for size in (1, 5, len(start) - 1)] == [Spoken.UNDECIDED] * 3
    assert server_name(start) == (name or "").lower()


@given(start=st.binary(max_size=200), cut=st.integers(0, 600), flip=st.integers(0, 600))
def test_whatever_is_sent_has_a_meaning_and_no_failure(start: bytes, cut: int, flip: int) -> None:
    assert isinstance(detect(start), Spoken)
    assert isinstance(detect_http(start), Spoken)
    broken = bytearray(hello("a.example")[:cut])
    if flip < len(broken):
        broken[flip] ^= 0xFF
    assert isinstance(server_name(bytes(broken)), str)
    assert isinstance(server_name(start), str)


def test_a_hello_without_end_is_given_up() -> None:
    assert detect(b"\x16\x03\x01\xff\xff" + bytes(1000)) is Spoken.UNDECIDED
    assert detect(b"\x16\x03\x01\xff\xff" + bytes(MOST)) is Spoken.OTHER


class Bytes:
    def __init__(self) -> None:
        self.served: list[tuple[bytes, str | None]] = []

    def serve(self, client: Client, wire: Wire, start: bytes, server_name: str | None) -> None:
        assert client is CLIENT
        self.served.append((start, server_name))


def connect(stage: Stage, server: Bytes) -> MemoryWire:
    wire = MemoryWire()
    ClientConnection(stage.context, wire, CLIENT, HttpLimits(), stage.ended.append, byte_server=server)
    return wire


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ((b"SSH-2.0-", b"x"), (b"SSH-2.0-", None)),
        ((hello("a")[:3], hello("a")[3:]), (hello("a")[:3] + hello("a")[3:], "a")),
    ],
)
def test_what_is_no_http_is_handed_over(parts: tuple[bytes, bytes], told: Any) -> None:
    stage, server = Stage(), Bytes()
    wire = connect(stage, server)
    for part in parts:
        wire.feed(part)
    assert len(server.served) == 1
    assert (server.served[0][0][:8], server.served[0][1]) == (told[0][:8], told[1])
    assert wire.paused
    assert len(stage.ended) == 1
    assert len(stage.clock.timers) == 0


def test_who_waits_for_the_other_side_is_handed_over_in_time() -> None:
    stage, server = Stage(), Bytes()
    connect(stage, server)
    stage.clock.advance(0.9)
    assert server.served == []
    stage.clock.advance(0.2)
    assert server.served == [(b"", None)]


def test_http_is_served_where_other_things_are_possible() -> None:
    stage, server = Stage(), Bytes()
    wire = connect(stage, server)
    wire.feed(b"G")
    wire.feed(b"ET /a HTTP/1.1\r\nhost: h\r\n\r\n")
    assert stage.upstreams[0].take() == b"GET /a HTTP/1.1\r\nhost: h\r\n\r\n"
    assert server.served == []


def test_a_client_that_says_nothing_or_little() -> None:
    stage = Stage(limits=HttpLimits(head_seconds=10, idle_seconds=100))
    silent, slow, gone = stage.client(), stage.client(b"PRI * HT"), stage.client()
    gone.hang_up()
    assert gone.closed
    stage.clock.advance(30)
    assert slow.take().startswith(b"HTTP/1.1 4")
    assert not silent.closed
    stage.clock.advance(100)
    assert silent.closed
    assert len(stage.ended) == 3
