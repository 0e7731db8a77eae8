"""Header blocks: however they are cut, padded or coded they decode alike; what has no end is refused."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hpack import Decoder, Encoder
from hypothesis import example, given
from hypothesis import strategies as st

from mesh.hbone.codec import PADDED, PRIORITY_FLAG, ErrorCode, encode_connect, encode_response
from mesh.hbone.contract import Http2Violation
from mesh.hbone.header_codec import HeaderAssembler, read_plain_block

FIELDS = [(":method", "CONNECT"), (":authority", "10.0.0.1:80"), ("baggage", "k8s.namespace.name=demo")]
MAX_SIZE = 4096


def refused(assembler: HeaderAssembler, flags: int, *payloads: bytes) -> ErrorCode:
    with pytest.raises(Http2Violation) as caught:
        assemble(assembler, flags, payloads)
    return caught.value.code


def assemble(assembler: HeaderAssembler, flags: int, payloads: Sequence[bytes]) -> list[tuple[str, str]]:
    assembler.start(1, flags, payloads[0])
    for payload in payloads[1:]:
        assembler.go_on(payload)
    return assembler.finish()


@given(
    st.lists(st.integers(0, 200), max_size=10),
    st.booleans(),
    st.none() | st.binary(max_size=255),
    st.none() | st.binary(min_size=5, max_size=5),
)
def test_cuts_padding_priority_and_huffman_make_no_difference(
    cuts: list[int], huffman: bool, padding: bytes | None, priority: bytes | None
) -> None:
    block = Encoder().encode(FIELDS, huffman=huffman)
    edges = [0, *sorted(min(cut, len(block)) for cut in cuts), len(block)]
    parts = [block[start:end] for start, end in pairwise(edges)]
    flags = 0
    if priority is not None:
        flags |= PRIORITY_FLAG
        parts[0] = priority + parts[0]
    if padding is not None:
        flags |= PADDED
        parts[0] = bytes((len(padding),)) + parts[0] + padding
    assembler = HeaderAssembler(MAX_SIZE)
    assembler.start(5, flags, parts[0])
    assert assembler.stream_id == 5
    for part in parts[1:]:
        assembler.go_on(part)
    assert assembler.finish() == FIELDS
    assert assembler.stream_id == 0


def test_the_dynamic_table_lasts_from_block_to_block() -> None:
    encoder, assembler = Encoder(), HeaderAssembler(MAX_SIZE)
    sizes = []
    for stream_id in (1, 3, 5):
        block = encoder.encode(FIELDS)
        sizes.append(len(block))
        assembler.start(stream_id, 0, block)
        assert assembler.finish() == FIELDS
    assert sizes[2] < sizes[0] / 3


@pytest.mark.parametrize("payload", [b"", b"\x01", b"\x05abcd", b"\xff" + bytes(200)])
def test_padding_longer_than_the_frame(payload: bytes) -> None:
    assert refused(HeaderAssembler(MAX_SIZE), PADDED, payload) is ErrorCode.PROTOCOL_ERROR


def test_padding_may_fill_the_frame() -> None:
    assembler = HeaderAssembler(MAX_SIZE)
    assembler.start(1, PADDED, b"\x03" + bytes(3))
    assert assembler.finish() == []


def test_priority_cut_short() -> None:
    assert refused(HeaderAssembler(MAX_SIZE), PRIORITY_FLAG, b"\x00\x00\x00\x00") is ErrorCode.FRAME_SIZE_ERROR


def test_stream_zero_and_continuation_without_headers() -> None:
    with pytest.raises(Http2Violation, match="stream 0"):
        HeaderAssembler(MAX_SIZE).start(0, 0, b"")
    with pytest.raises(Http2Violation, match="without HEADERS"):
        HeaderAssembler(MAX_SIZE).go_on(b"")


def test_continuation_flood_of_empty_and_of_full_frames() -> None:
    assert refused(HeaderAssembler(MAX_SIZE), 0, *[b""] * 100) is ErrorCode.ENHANCE_YOUR_CALM
    assert refused(HeaderAssembler(MAX_SIZE), 0, *[b"\x00" * 1000] * 6) is ErrorCode.ENHANCE_YOUR_CALM


def test_a_small_block_that_unfolds_into_a_large_list() -> None:
    bomb = b"\x40\x01a\x7f\x81\x0f" + b"v" * 2048 + b"\xbe" * 1000  # one entry of 2 KiB, then a thousand uses of it
    assert refused(HeaderAssembler(MAX_SIZE), 0, bomb) is ErrorCode.COMPRESSION_ERROR


def test_integers_without_end() -> None:
    assert refused(HeaderAssembler(65536), 0, b"\x7f" + b"\xff" * 60000) is ErrorCode.COMPRESSION_ERROR


def test_text_that_is_no_utf8() -> None:
    assert refused(HeaderAssembler(MAX_SIZE), 0, b"\x00\x01a\x01\xff") is ErrorCode.COMPRESSION_ERROR


@given(st.lists(st.binary(max_size=60), min_size=1, max_size=5), st.integers(0, 255))
def test_any_bytes_decode_or_are_a_violation(parts: list[bytes], flags: int) -> None:
    assembler = HeaderAssembler(MAX_SIZE)
    try:
        fields = assemble(assembler, flags, parts)
    except Http2Violation:
        return
    assert sum(len(name) + len(value) + 32 for name, value in fields) <= MAX_SIZE


def same_as_hpack(block: bytes) -> None:
    plain = read_plain_block(block)
    if plain is not None:
        assert plain == [(str(name), str(value)) for name, value in Decoder().decode(block)]


@given(st.binary(max_size=80))
@example(b"\x01\x7f\xff\xff" + bytes(40000))
@example(b"\x01\x7f\x80\x00" + b"a" * 127)
@example(b"\x00\x7f\x00" + b"a" * 127 + b"\x00")
def test_whatever_is_read_without_hpack_is_read_as_hpack_does(block: bytes) -> None:
    same_as_hpack(block)


@given(st.lists(st.sampled_from([b"\x88", b"\x01", b"\x02", b"\x08", b"\x00", b"\x01a", b"\x7f", b"\x00\x02ab", b"a"])))
def test_likely_blocks_are_read_as_hpack_does(parts: list[bytes]) -> None:
    same_as_hpack(b"".join(parts))


@pytest.mark.parametrize("size", [0, 1, 126, 127, 128, 254, 255, 256, 16510])
def test_our_own_blocks_are_read_without_hpack(size: int) -> None:
    block = encode_connect("10.0.0.1:80", baggage="b" * size, traceparent="t")
    assert read_plain_block(block) == [(str(name), str(value)) for name, value in Decoder().decode(block)]
    assert read_plain_block(encode_response(200, baggage="é")) == [(":status", "200"), ("baggage", "é")]
    assert read_plain_block(encode_response(503)) == [(":status", "503")]


def test_many_tiny_fields_count_as_hpack_counts_them() -> None:
    assert refused(HeaderAssembler(MAX_SIZE), 0, b"\x00\x00\x00" * 200) is ErrorCode.COMPRESSION_ERROR
