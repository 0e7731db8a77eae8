"""Whatever a hostile or broken peer sends ends in a violation of the right code or a stream reset, never more."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.hbone.codec import (
    END_HEADERS,
    END_STREAM,
    PADDED,
    PREFACE,
    ErrorCode,
    FrameType,
    Setting,
    encode_connect,
    encode_response,
    frame,
    settings_frame,
    window_update_frame,
)
from mesh.hbone.contract import HboneSettings, Http2Violation, Role
from mesh.testing.hbone import Endpoint, RecordingStream

BLOCK = encode_connect("10.0.0.1:80")
HELLO = settings_frame([(Setting.INITIAL_WINDOW_SIZE, 100_000)])
REQUEST = frame(FrameType.HEADERS, END_HEADERS, 1, BLOCK)
LIMITS = HboneSettings(initial_stream_window=70_000, connection_window=140_000, max_frame=65_536, max_streams=5)
SERVER_START = PREFACE + HELLO


def data(stream_id: int, payload: bytes, flags: int = 0) -> bytes:
    return frame(FrameType.DATA, flags, stream_id, payload)


def reset(stream_id: int, code: ErrorCode) -> bytes:
    return frame(FrameType.RST_STREAM, 0, stream_id, struct.pack(">I", code))


def server(*, consume: bool = False) -> Endpoint:
    """A server with the stream 1 open."""
    endpoint = Endpoint(Role.SERVER, LIMITS, consume=consume)
    endpoint.feed(SERVER_START + REQUEST)
    endpoint.take()
    return endpoint


def client(*, answered: bool = True) -> tuple[Endpoint, RecordingStream]:
    """A client with the stream 1 open."""
    endpoint = Endpoint(Role.CLIENT, LIMITS, consume=False)
    endpoint.feed(HELLO)
    stream = endpoint.open(BLOCK)
    if answered:
        endpoint.feed(frame(FrameType.HEADERS, END_HEADERS, 1, encode_response(200)))
    endpoint.take()
    return endpoint, stream


def violation(endpoint: Endpoint, raw: bytes) -> ErrorCode:
    with pytest.raises(Http2Violation) as caught:
        endpoint.feed(raw)
    return caught.value.code


# -- the beginning -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT 10.0.0.1:80 HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\rX",
        b"\x16\x03\x01\x02\x00",
        bytes(100),
        HELLO,
    ],
)
def test_what_is_not_the_preface(raw: bytes) -> None:
    assert violation(Endpoint(Role.SERVER), raw) is ErrorCode.PROTOCOL_ERROR


@pytest.mark.parametrize(
    "raw", [REQUEST, data(1, b"x"), frame(FrameType.PING, 0, 0, bytes(8)), frame(0xEE, 0, 0), data(1, b"\0", PADDED)]
)
def test_the_first_frame_must_be_settings(raw: bytes) -> None:
    assert violation(Endpoint(Role.SERVER), PREFACE + raw) is ErrorCode.PROTOCOL_ERROR
    assert violation(Endpoint(Role.CLIENT), raw) is ErrorCode.PROTOCOL_ERROR


# -- streams that are not there ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream_id", [0, 2, 3, 4, 2**31 - 1])
@pytest.mark.parametrize("flags", [0, END_STREAM, PADDED])
def test_data_for_a_stream_that_never_was(stream_id: int, flags: int) -> None:
    raw = data(stream_id, b"\0x", flags)
    assert violation(server(), raw) is ErrorCode.PROTOCOL_ERROR
    assert violation(client()[0], raw) is ErrorCode.PROTOCOL_ERROR


@pytest.mark.parametrize("stream_id", [0, 2, 4])
def test_requests_with_an_even_id_and_on_stream_zero(stream_id: int) -> None:
    raw = frame(FrameType.HEADERS, END_HEADERS, stream_id, BLOCK)
    assert violation(server(), raw) is ErrorCode.PROTOCOL_ERROR


def test_a_server_opens_no_streams() -> None:
    for stream_id in (2, 3):
        raw = frame(FrameType.HEADERS, END_HEADERS, stream_id, encode_response(200))
        assert violation(client()[0], raw) is ErrorCode.PROTOCOL_ERROR


def test_the_reserved_bit_is_ignored() -> None:
    endpoint = server()
    endpoint.feed(data(2**31 + 1, b"abc"))
    assert bytes(endpoint.requests[0].received) == b"abc"


@pytest.mark.parametrize(
    "raw",
    [
        data(1, b""),
        data(1, b"", END_STREAM),
        frame(FrameType.HEADERS, END_HEADERS, 1, BLOCK),
        reset(1, ErrorCode.CANCEL),
        window_update_frame(1, 0),
    ],
)
def test_floods_for_a_stream_that_is_gone(raw: bytes) -> None:
    endpoint = server()
    endpoint.feed(reset(1, ErrorCode.CANCEL))
    assert violation(endpoint, raw * 5000) is ErrorCode.ENHANCE_YOUR_CALM
    assert not endpoint.machine.streams


# -- data --------------------------------------------------------------------------------------------------------------


def test_empty_data_flood() -> None:
    assert violation(server(), data(1, b"") * 5000) is ErrorCode.ENHANCE_YOUR_CALM
    assert violation(server(consume=True), data(1, b"\xff" + bytes(255), PADDED) * 5000) is ErrorCode.ENHANCE_YOUR_CALM


def test_more_than_the_streams_window_resets_the_stream() -> None:
    endpoint = server()
    endpoint.feed(data(1, bytes(60_000)) + data(1, bytes(10_001)))
    assert endpoint.requests[0].resets == [ErrorCode.FLOW_CONTROL_ERROR]
    assert endpoint.take().endswith(reset(1, ErrorCode.FLOW_CONTROL_ERROR))
    assert len(endpoint.requests[0].received) == 60_000


def test_more_than_the_connections_window_ends_the_connection() -> None:
    endpoint = server(consume=True)
    endpoint.machine._receive_window = 50_000  # as if the rest had been used and not given back
    assert violation(endpoint, data(1, bytes(50_001))) is ErrorCode.FLOW_CONTROL_ERROR


def test_the_connections_window_is_given_back_even_for_streams_that_are_gone() -> None:
    endpoint = server()
    endpoint.feed(reset(1, ErrorCode.CANCEL))
    for _ in range(100):
        endpoint.feed(data(1, bytes(60_000)))
    assert endpoint.take().count(b"\x00\x00\x04\x08\x00\x00\x00\x00\x00") == 100


def test_frames_above_our_limit() -> None:
    for kind in (FrameType.DATA, FrameType.HEADERS, 0xEE):
        raw = frame(kind, 0, 1, bytes(65_537))[:9]
        assert violation(server(), raw) is ErrorCode.FRAME_SIZE_ERROR


def test_data_after_the_end() -> None:
    endpoint = server()
    endpoint.feed(data(1, b"last", END_STREAM) + data(1, b"more"))
    assert (bytes(endpoint.requests[0].received), endpoint.requests[0].resets) == (b"last", [ErrorCode.STREAM_CLOSED])


@pytest.mark.parametrize("payload", [b"", b"\x01", b"\x03ab", b"\xff" + bytes(254)])
def test_padding_longer_than_its_frame(payload: bytes) -> None:
    assert violation(server(), data(1, payload, PADDED)) is ErrorCode.PROTOCOL_ERROR


@pytest.mark.parametrize("raw", [data(1, b"early"), data(1, b"", END_STREAM), data(1, b"\0early", PADDED)])
def test_data_before_the_answer(raw: bytes) -> None:
    endpoint, stream = client(answered=False)
    endpoint.feed(raw)
    assert (stream.resets, bytes(stream.received), stream.ended) == ([ErrorCode.PROTOCOL_ERROR], b"", False)
    assert endpoint.take() == reset(1, ErrorCode.PROTOCOL_ERROR)


# -- header blocks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw",
    [
        data(1, b"x"),
        data(1, b"\0x", PADDED),
        frame(FrameType.PING, 0, 0, bytes(8)),
        frame(FrameType.PRIORITY, 0, 1, bytes(5)),
        frame(0xEE, 0, 3),
        frame(FrameType.HEADERS, END_HEADERS, 3, BLOCK),
        frame(FrameType.CONTINUATION, END_HEADERS, 1, BLOCK),
    ],
)
def test_nothing_may_come_into_a_header_block(raw: bytes) -> None:
    endpoint = server()
    endpoint.feed(frame(FrameType.HEADERS, 0, 3, BLOCK[:5]))
    assert violation(endpoint, raw) is ErrorCode.PROTOCOL_ERROR


def test_continuation_flood() -> None:
    raw = frame(FrameType.HEADERS, 0, 3, BLOCK) + frame(FrameType.CONTINUATION, 0, 3, b"") * 1000
    assert violation(server(), raw) is ErrorCode.ENHANCE_YOUR_CALM


def test_header_bombs() -> None:
    limits = HboneSettings(max_header_list=4096)
    endpoint = Endpoint(Role.SERVER, limits)
    endpoint.feed(SERVER_START)
    assert violation(endpoint, frame(FrameType.HEADERS, 0, 1, bytes(5000))[:9]) is ErrorCode.ENHANCE_YOUR_CALM
    bomb = b"\x40\x01a\x7f\x81\x0f" + b"v" * 2048 + b"\xbe" * 1000
    assert violation(endpoint, frame(FrameType.HEADERS, END_HEADERS, 1, bomb)) is ErrorCode.COMPRESSION_ERROR


def test_header_blocks_on_an_open_stream_that_do_not_end_it() -> None:
    endpoint = server()
    endpoint.feed(REQUEST)
    assert endpoint.requests[0].resets == [ErrorCode.PROTOCOL_ERROR]
    endpoint, stream = client()
    endpoint.feed(frame(FrameType.HEADERS, END_HEADERS, 1, encode_response(200)))
    assert stream.resets == [ErrorCode.PROTOCOL_ERROR]


def test_trailers_after_the_end() -> None:
    endpoint, stream = client()
    endpoint.feed(data(1, b"x", END_STREAM))
    endpoint.feed(frame(FrameType.HEADERS, END_HEADERS | END_STREAM, 1, b""))
    assert stream.resets == [ErrorCode.STREAM_CLOSED]


def test_interim_responses_without_end_and_with_one() -> None:
    interim = encode_response(103)
    endpoint, stream = client(answered=False)
    endpoint.feed(frame(FrameType.HEADERS, END_HEADERS | END_STREAM, 1, interim))
    assert (stream.resets, stream.ended) == ([ErrorCode.PROTOCOL_ERROR], False)
    endpoint, _ = client(answered=False)
    assert violation(endpoint, frame(FrameType.HEADERS, END_HEADERS, 1, interim) * 5000) is ErrorCode.ENHANCE_YOUR_CALM


def test_streams_beyond_the_limit_are_refused_and_a_flood_of_them_ends() -> None:
    endpoint = server()
    raw = [frame(FrameType.HEADERS, END_HEADERS, stream_id, BLOCK) for stream_id in range(3, 4001, 2)]
    assert violation(endpoint, b"".join(raw)) is ErrorCode.ENHANCE_YOUR_CALM
    assert len(endpoint.requests) == len(endpoint.machine.streams) == 5
    assert len(endpoint.machine.outgoing) < 20_000


# -- anything at all ---------------------------------------------------------------------------------------------------

STREAM_IDS = st.sampled_from([0, 1, 2, 3, 5, 7, 2**31 - 1, 2**31 + 1])
ANY_FRAME = st.builds(
    frame,
    st.integers(0, 10),
    st.integers(0, 255),
    STREAM_IDS,
    st.binary(max_size=40) | st.sampled_from([BLOCK, bytes(4), bytes(8), b"\0\0\0\1", b"\x88", bytes(70_000)]),
)
SIZES = st.sampled_from([0, 1, 300, 60_000])
LIKELY_FRAME = st.one_of(
    st.builds(lambda i, flags: frame(FrameType.HEADERS, flags, i, BLOCK), STREAM_IDS, st.sampled_from([0, 1, 4, 5])),
    st.builds(lambda i, flags, size: data(i, bytes(size), flags), STREAM_IDS, st.sampled_from([0, 1, 8, 9]), SIZES),
    st.builds(lambda i, code: reset(i, ErrorCode(code)), STREAM_IDS, st.integers(0, 11)),
    st.builds(window_update_frame, STREAM_IDS, st.sampled_from([0, 1, 70_000, 2**31 - 1])),
    st.builds(lambda size: settings_frame([(Setting.INITIAL_WINDOW_SIZE, size)]), st.sampled_from([0, 70_000, 2**31])),
)
CHUNKS = st.lists(st.one_of(LIKELY_FRAME, LIKELY_FRAME, ANY_FRAME, st.binary(max_size=30)), max_size=30)


@settings(max_examples=300, deadline=None)
@given(CHUNKS, st.sampled_from(list(Role)), st.booleans())
def test_anything_is_taken_or_a_violation(chunks: list[bytes], role: Role, send: bool) -> None:
    endpoint = server() if role is Role.SERVER else client()[0]
    try:
        for chunk in chunks:
            endpoint.feed(chunk)
            for record in endpoint.requests if send else []:
                record.send(b"x" * 1000)
    except Http2Violation:
        pass
    assert endpoint.largest_rest <= 65_536 + 9
    assert len(endpoint.machine.streams) <= 5
    for record in endpoint.requests:
        assert record.unconsumed <= 70_000
        assert record.events_when_over == 0
        assert len(record.resets) <= 1
