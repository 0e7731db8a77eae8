"""What HTTP/2 demands of a server that is sent what must not be (RFC 9113, RFC 7541), section by section.

Each case: what follows the preface, SETTINGS and a request on stream 1 that is still open, and how it must be answered:
GOAWAY with a code (the connection ends), or RST_STREAM with a code (the stream ends, the connection goes on).
"""

from __future__ import annotations

import struct

import pytest

from mesh.hbone.codec import ErrorCode
from waypoint.testing.exchanges import Stage

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RESET, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED, WITH_PRIORITY = 1, 1, 4, 8, 32
REQUEST = b"\x83\x86\x84\x41\x01h"


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def setting(key: int, value: int) -> bytes:
    return frame(SETTINGS, 0, 0, struct.pack(">HI", key, value))


def window(increment: int, stream: int = 0) -> bytes:
    return frame(WINDOW, 0, stream, struct.pack(">I", increment))


SELF = b"\0\0\0\3\x0f"
"""The priority of a stream 3 that depends on itself."""
SKIPPED = frame(HEADERS, 5, 7, REQUEST)
"""Opens 7, and so closes 3 and 5, which were never used."""
CLOSED = frame(HEADERS, END_HEADERS | END_STREAM, 3, REQUEST) + frame(RESET, 0, 3, bytes(4))
HALF_CLOSED = frame(HEADERS, END_HEADERS | END_STREAM, 3, REQUEST)

CONNECTION: dict[str, tuple[bytes, ErrorCode]] = {
    "4.2 a frame beyond the size allowed": (frame(DATA, 0, 1, bytes(256 * 1024 + 1)), ErrorCode.FRAME_SIZE_ERROR),
    "4.3 a block that cannot be decoded": (frame(HEADERS, 5, 3, b"\xff\xff\xff\xff\xff"), ErrorCode.COMPRESSION_ERROR),
    "4.3 a block interrupted by another frame": (
        frame(HEADERS, 0, 3, REQUEST) + frame(PING, 0, 0, bytes(8)),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "4.3 a block interrupted by an unknown frame": (
        frame(HEADERS, 0, 3, REQUEST) + frame(99, 0, 3),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "4.3 a block interrupted by another block": (
        frame(HEADERS, 0, 3, REQUEST) + frame(HEADERS, 5, 5, REQUEST),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "5.1 DATA for an idle stream": (frame(DATA, 0, 3, b"a"), ErrorCode.PROTOCOL_ERROR),
    "5.1 RST_STREAM for an idle stream": (frame(RESET, 0, 3, bytes(4)), ErrorCode.PROTOCOL_ERROR),
    "5.1 WINDOW_UPDATE for an idle stream": (window(1, 3), ErrorCode.PROTOCOL_ERROR),
    "5.1 CONTINUATION without HEADERS": (frame(CONTINUATION, 4, 1, REQUEST), ErrorCode.PROTOCOL_ERROR),
    "5.1.1 a stream with an even number": (frame(HEADERS, 5, 2, REQUEST), ErrorCode.PROTOCOL_ERROR),
    "5.1.1 a stream with a number below the newest": (
        SKIPPED + frame(HEADERS, 5, 5, REQUEST),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "5.1.1 DATA for a stream that was passed over": (SKIPPED + frame(DATA, 0, 3, b"a"), ErrorCode.PROTOCOL_ERROR),
    "5.1 HEADERS for a stream that the client has reset": (
        CLOSED + frame(HEADERS, 5, 3, REQUEST),
        ErrorCode.STREAM_CLOSED,
    ),
    "RFC 7540 5.3.1 HEADERS of a stream that depends on itself": (
        frame(HEADERS, 5 | WITH_PRIORITY, 3, SELF + REQUEST),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "RFC 7540 5.3.1 PRIORITY of a stream that depends on itself": (
        frame(PRIORITY, 0, 3, SELF),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "6.1 DATA without a stream": (frame(DATA, 0, 0, b"a"), ErrorCode.PROTOCOL_ERROR),
    "6.1 padding as long as the frame": (frame(DATA, PADDED, 1, b"\x06aaaaa"), ErrorCode.PROTOCOL_ERROR),
    "6.2 HEADERS without a stream": (frame(HEADERS, 5, 0, REQUEST), ErrorCode.PROTOCOL_ERROR),
    "6.2 HEADERS that are all padding": (frame(HEADERS, 5 | PADDED, 3, b"\x0a" + REQUEST), ErrorCode.PROTOCOL_ERROR),
    "6.2 HEADERS too short for a priority": (frame(HEADERS, 5 | WITH_PRIORITY, 3, b"\0"), ErrorCode.FRAME_SIZE_ERROR),
    "6.3 PRIORITY without a stream": (frame(PRIORITY, 0, 0, bytes(5)), ErrorCode.PROTOCOL_ERROR),
    "6.3 PRIORITY of the wrong size for an idle stream": (frame(PRIORITY, 0, 9, bytes(4)), ErrorCode.FRAME_SIZE_ERROR),
    "6.4 RST_STREAM without a stream": (frame(RESET, 0, 0, bytes(4)), ErrorCode.PROTOCOL_ERROR),
    "6.4 RST_STREAM of the wrong size": (frame(RESET, 0, 1, bytes(3)), ErrorCode.FRAME_SIZE_ERROR),
    "6.5 an acknowledgement with settings": (frame(SETTINGS, ACK, 0, bytes(6)), ErrorCode.FRAME_SIZE_ERROR),
    "6.5 SETTINGS on a stream": (frame(SETTINGS, 0, 1), ErrorCode.PROTOCOL_ERROR),
    "6.5 SETTINGS of the wrong size": (frame(SETTINGS, 0, 0, bytes(3)), ErrorCode.FRAME_SIZE_ERROR),
    "6.5.2 ENABLE_PUSH that is no boolean": (setting(2, 2), ErrorCode.PROTOCOL_ERROR),
    "6.5.2 INITIAL_WINDOW_SIZE beyond its limit": (setting(4, 2**31), ErrorCode.FLOW_CONTROL_ERROR),
    "6.5.2 MAX_FRAME_SIZE too small": (setting(5, 16383), ErrorCode.PROTOCOL_ERROR),
    "6.5.2 MAX_FRAME_SIZE too large": (setting(5, 2**24), ErrorCode.PROTOCOL_ERROR),
    "6.6 PUSH_PROMISE from a client": (frame(PUSH, 4, 1, bytes(4) + REQUEST), ErrorCode.PROTOCOL_ERROR),
    "6.7 PING on a stream": (frame(PING, 0, 1, bytes(8)), ErrorCode.PROTOCOL_ERROR),
    "6.7 PING of the wrong size": (frame(PING, 0, 0, bytes(6)), ErrorCode.FRAME_SIZE_ERROR),
    "6.8 GOAWAY on a stream": (frame(GOAWAY, 0, 1, bytes(8)), ErrorCode.PROTOCOL_ERROR),
    "6.8 GOAWAY of the wrong size": (frame(GOAWAY, 0, 0, bytes(4)), ErrorCode.FRAME_SIZE_ERROR),
    "6.9 a window opened by nothing": (window(0), ErrorCode.PROTOCOL_ERROR),
    "6.9 WINDOW_UPDATE of the wrong size": (frame(WINDOW, 0, 0, bytes(3)), ErrorCode.FRAME_SIZE_ERROR),
    "6.9.1 the connection's window beyond its limit": (window(2**31 - 1), ErrorCode.FLOW_CONTROL_ERROR),
    "6.9.2 a stream's window beyond its limit by SETTINGS": (
        window(2**31 - 1 - 65535, 1) + setting(4, 65536),
        ErrorCode.FLOW_CONTROL_ERROR,
    ),
    "6.10 CONTINUATION without a stream": (
        frame(HEADERS, 0, 3, REQUEST) + frame(CONTINUATION, 4, 0, b""),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "6.10 CONTINUATION for another stream": (
        frame(HEADERS, 0, 3, REQUEST) + frame(CONTINUATION, 4, 1, b""),
        ErrorCode.PROTOCOL_ERROR,
    ),
    "6.10 CONTINUATION after the end": (HALF_CLOSED + frame(CONTINUATION, 4, 3, b""), ErrorCode.PROTOCOL_ERROR),
    "HPACK 6.1 index 0": (frame(HEADERS, 5, 3, b"\x80"), ErrorCode.COMPRESSION_ERROR),
    "HPACK 2.3.3 an index beyond the tables": (frame(HEADERS, 5, 3, b"\xff\x7f"), ErrorCode.COMPRESSION_ERROR),
    "HPACK 4.2 a size update at the end": (frame(HEADERS, 5, 3, REQUEST + b"\x20"), ErrorCode.COMPRESSION_ERROR),
    "HPACK 6.3 a table beyond its limit": (frame(HEADERS, 5, 3, b"\x3f\xff\xff\x03"), ErrorCode.COMPRESSION_ERROR),
    "HPACK 5.2 Huffman padding of zeros": (
        frame(HEADERS, 5, 3, b"\x83\x86\x84\x41\x81\x9c"[:5] + b"\x18"),
        ErrorCode.COMPRESSION_ERROR,
    ),
}

STREAM: dict[str, tuple[bytes, int, ErrorCode]] = {
    "5.1 DATA for a stream half closed": (HALF_CLOSED + frame(DATA, 0, 3, b"a"), 3, ErrorCode.STREAM_CLOSED),
    "5.1 DATA for a stream that the client has reset": (CLOSED + frame(DATA, 0, 3, b"a"), 3, ErrorCode.STREAM_CLOSED),
    "5.1 HEADERS for a stream half closed": (HALF_CLOSED + frame(HEADERS, 5, 3, REQUEST), 3, ErrorCode.STREAM_CLOSED),
    "6.3 PRIORITY of the wrong size": (frame(PRIORITY, 0, 1, bytes(6)), 1, ErrorCode.FRAME_SIZE_ERROR),
    "6.9 a stream's window opened by nothing": (window(0, 1), 1, ErrorCode.PROTOCOL_ERROR),
    "6.9.1 a stream's window beyond its limit": (window(2**31 - 1, 1), 1, ErrorCode.FLOW_CONTROL_ERROR),
    "8.1 a second head that does not end": (frame(HEADERS, 4, 1, REQUEST), 1, ErrorCode.PROTOCOL_ERROR),
    "8.1 trailers with a pseudo-header": (frame(HEADERS, 5, 1, b"\x84"), 1, ErrorCode.PROTOCOL_ERROR),
}

HARMLESS: dict[str, bytes] = {
    "4.1 unknown frames and flags": frame(99, 255, 1, b"abc") + frame(PING, 254, 0, bytes(8)),
    "5.1 frames for a stream that is closed": CLOSED + frame(WINDOW, 0, 3, b"\0\0\0\1") + frame(RESET, 0, 3, bytes(4)),
    "5.3 PRIORITY": frame(PRIORITY, 0, 1, bytes(5)),
    "6.5 an acknowledgement": frame(SETTINGS, ACK),
    "6.5.2 an unknown setting": setting(0x99, 1),
    "6.7 an answer to no PING": frame(PING, ACK, 0, bytes(8)),
    "6.10 blocks in pieces": frame(HEADERS, 1, 3, REQUEST[:2])
    + frame(CONTINUATION, 0, 3, REQUEST[2:])
    + frame(CONTINUATION, 4, 3, b""),
    "6.1 padding": frame(DATA, PADDED, 1, b"\x03abc\0\0\0"),
}


def converse(tail: bytes) -> tuple[list[tuple[int, int, bytes]], bool]:
    """The frames that the server sends, and whether it ends the connection."""
    stage = Stage()
    wire = stage.client(PREFACE + frame(SETTINGS) + frame(HEADERS, END_HEADERS, 1, REQUEST))
    wire.feed(tail)
    sent, frames = wire.take(), []
    while sent:
        size = int.from_bytes(sent[:3], "big")
        frames.append((sent[3], int.from_bytes(sent[5:9], "big"), sent[9 : 9 + size]))
        sent = sent[9 + size :]
    return frames, wire.closed


@pytest.mark.parametrize("case", CONNECTION)
def test_connection_errors(case: str) -> None:
    tail, code = CONNECTION[case]
    frames, closed = converse(tail)
    assert [payload[4:8] for kind, _, payload in frames if kind == GOAWAY] == [code.to_bytes(4, "big")]
    assert closed


@pytest.mark.parametrize("case", STREAM)
def test_stream_errors(case: str) -> None:
    tail, stream, code = STREAM[case]
    frames, closed = converse(tail)
    assert [(at, payload) for kind, at, payload in frames if kind == RESET] == [(stream, code.to_bytes(4, "big"))]
    assert not closed


@pytest.mark.parametrize("case", HARMLESS)
def test_what_must_be_borne(case: str) -> None:
    frames, closed = converse(HARMLESS[case] + frame(PING, 0, 0, b"stillup!"))
    assert not closed
    assert (PING, 0, b"stillup!") in frames


def test_what_was_on_its_way_when_a_stream_was_reset_from_here_is_borne() -> None:
    stage = Stage()
    wire = stage.client(PREFACE + frame(SETTINGS) + frame(HEADERS, END_HEADERS, 1, REQUEST))
    bad = frame(HEADERS, END_HEADERS, 3, REQUEST + b"\x84")  # a path twice: reset from here
    late = frame(DATA, 0, 3, b"a") + frame(HEADERS, 5, 3, b"\x00\x01a\x01b") + frame(WINDOW, 0, 3, b"\0\0\0\1")
    wire.feed(bad + late + frame(PING, 0, 0, b"stillup!"))
    assert not wire.closed
    assert wire.take().endswith(frame(PING, ACK, 0, b"stillup!"))


def test_the_first_frame_must_be_settings() -> None:
    stage = Stage()
    wire = stage.client(PREFACE + frame(PING, 0, 0, bytes(8)))
    assert wire.closed
