import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.grpc.codec import (
    MessageBuffer,
    decode_headers,
    decode_status_text,
    decode_timeout,
    encode_metadata,
    encode_status_text,
    encode_timeout,
    is_grpc,
    message_prefix,
    metadata_of,
)
from mesh.grpc.status import GrpcError, StatusCode, status_of_http, status_of_reset, status_of_text


@settings(deadline=None)
@given(st.lists(st.binary(max_size=50), max_size=6), st.integers(1, 20))
def test_messages_come_out_as_they_went_in_however_they_were_cut(messages: list[bytes], piece: int) -> None:
    wire = b"".join(message_prefix(len(message)) + message for message in messages)
    buffer = MessageBuffer(50)
    taken = []
    for start in range(0, len(wire), piece):
        buffer.feed(wire[start : start + piece])
        while (message := buffer.take()) is not None:
            taken.append(message)
    assert taken == messages
    assert len(buffer) == 0


def test_an_oversized_message_is_refused_from_its_prefix() -> None:
    buffer = MessageBuffer(100)
    with pytest.raises(GrpcError) as caught:
        buffer.feed(message_prefix(101))
    assert caught.value.status is StatusCode.RESOURCE_EXHAUSTED


def test_a_compressed_message_is_refused() -> None:
    with pytest.raises(GrpcError) as caught:
        MessageBuffer(100).feed(b"\x01\x00\x00\x00\x01x")
    assert caught.value.status is StatusCode.UNIMPLEMENTED


@settings(deadline=None)
@given(st.floats(1e-9, 1e8))
def test_timeouts_survive_within_their_precision(seconds: float) -> None:
    text = encode_timeout(seconds).decode()
    assert len(text) <= 9
    assert decode_timeout(text) == pytest.approx(seconds, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize(("text", "seconds"), [("1H", 3600), ("2M", 120), ("3S", 3), ("4m", 0.004), ("5u", 5e-6)])
def test_every_unit_of_a_timeout(text: str, seconds: float) -> None:
    assert decode_timeout(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "1", "S", "-1S", "1.5S", "123456789S", "1s", "1 S"])
def test_other_timeouts_are_refused(text: str) -> None:
    with pytest.raises(GrpcError):
        decode_timeout(text)


@settings(deadline=None)
@given(st.text(max_size=60))
def test_status_text_survives_as_printable_ascii(text: str) -> None:
    encoded = encode_status_text(text)
    assert all(0x20 <= byte <= 0x7E for byte in encoded)
    assert decode_status_text(encoded.decode()) == text.encode("utf-8", "replace").decode()


def test_broken_percent_encoding_is_kept_rather_than_lost() -> None:
    assert decode_status_text("50% done %zz %41") == "50% done %zz A"


@pytest.mark.parametrize(
    "pair", [("grpc-status", "0"), ("te", "x"), ("a b", "x"), (":path", "x"), ("k", "line\nbreak"), ("k", "é")]
)
def test_metadata_that_would_break_the_protocol_is_refused_without_showing_the_value(pair: tuple[str, str]) -> None:
    with pytest.raises(GrpcError) as caught:
        encode_metadata([pair])
    if len(pair[1]) > 1:
        assert pair[1] not in str(caught.value)


def test_metadata_of_a_request_is_what_the_application_set() -> None:
    protocol = [(b":path", b"/x"), (b"te", b"trailers"), (b"grpc-timeout", b"1S")]
    headers = decode_headers([*protocol, (b"a", b"1"), (b"a", b"2")])
    assert metadata_of(headers) == {"a": "1,2"}


def test_statuses_of_other_layers() -> None:
    assert status_of_http(503) is StatusCode.UNAVAILABLE
    assert status_of_http(418) is StatusCode.UNKNOWN
    assert status_of_reset(0x8) is StatusCode.CANCELLED
    assert status_of_reset(0x2) is StatusCode.INTERNAL
    assert status_of_text("16") is StatusCode.UNAUTHENTICATED
    assert status_of_text("99") is StatusCode.UNKNOWN
    assert status_of_text("no") is StatusCode.UNKNOWN


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("application/grpc", True),
        ("application/grpc+proto", True),
        ("application/grpc; charset=utf-8", True),
        ("application/grpc-web", False),
        ("text/html", False),
        ("", False),
    ],
)
def test_content_types(text: str, expected: bool) -> None:
    assert is_grpc(text) is expected
