"""Header blocks: hpack reads what is written, and what hpack writes is read, again and again, as the table changes."""

from __future__ import annotations

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.hbone.codec import END_HEADERS, ErrorCode
from mesh.hbone.contract import Http2Violation
from waypoint.http.h2_header_codec import BlockReader, MalformedMessage, encode_fields, read_fields

Fields = list[tuple[bytes, bytes]]

_name = st.sampled_from([b":path", b":status", b":method", b"x-a", b"cookie", b"authorization"]) | st.binary(
    min_size=1, max_size=200
)
_value = st.sampled_from([b"200", b"/", b"GET", b""]) | st.binary(max_size=400)
_fields = st.lists(st.tuples(_name, _value), max_size=8)


def read(reader: BlockReader, block: bytes) -> Fields:
    reader.start(1, END_HEADERS, block)
    return list(reader.finish_fields())


@given(lists=st.lists(_fields, max_size=4))
def test_hpack_reads_what_is_written(lists: list[Fields]) -> None:
    decoder = hpack.Decoder()
    for fields in lists:
        decoded = decoder.decode(encode_fields(fields), raw=True)
        assert [(bytes(name), bytes(value)) for name, value in decoded] == fields
    assert len(decoder.header_table.dynamic_entries) == 0, "no table is needed to read it"


@given(lists=st.lists(_fields, min_size=1, max_size=4), order=st.lists(st.integers(0, 3), max_size=12))
def test_what_hpack_writes_is_read_whatever_came_before(lists: list[Fields], order: list[int]) -> None:
    encoder, reader = hpack.Encoder(), BlockReader(1_000_000)
    for index in order:
        fields = lists[index % len(lists)]
        assert read(reader, encoder.encode(fields)) == fields


def test_a_kept_block_is_forgotten_when_the_table_changes() -> None:
    encoder, reader = hpack.Encoder(), BlockReader(10_000)
    first = [(b"x-a", b"1")]
    assert read(reader, encoder.encode(first)) == first
    short = encoder.encode(first)
    assert (len(short), read(reader, short), read(reader, short)) == (1, first, first)
    second = [(b"x-b", b"2")]
    assert read(reader, encoder.encode(second)) == second
    assert read(reader, short) == second, "the same byte means the newest entry now"
    encoder.header_table_size = 0
    assert read(reader, encoder.encode(first)) == first


def test_secrets_are_marked_as_never_to_be_indexed() -> None:
    assert encode_fields([(b"authorization", b"x")])[0] == 0x10
    assert encode_fields([(b"x-a", b"x")])[0] == 0


@pytest.mark.parametrize(
    ("block", "code"),
    [
        (b"\xff\xff\xff\xff\xff\xff", ErrorCode.COMPRESSION_ERROR),
        (b"\xbe", ErrorCode.COMPRESSION_ERROR),
        (b"\x00\x05ab", ErrorCode.COMPRESSION_ERROR),
        (b"\x82" * 200, ErrorCode.ENHANCE_YOUR_CALM),
    ],
)
def test_blocks_that_cannot_be_read(block: bytes, code: ErrorCode) -> None:
    with pytest.raises(Http2Violation) as caught:
        read(BlockReader(1000), block)
    assert caught.value.code is code


@given(fields=_fields)
def test_what_passes_can_be_put_on_a_line(fields: Fields) -> None:
    try:
        control, headers = read_fields(fields, frozenset({b":path", b":method"}))
    except MalformedMessage:
        return
    for name, value in [*control.items(), *headers]:
        assert not set(name + value) & set(b"\r\n\0")
        assert name == name.lower()
