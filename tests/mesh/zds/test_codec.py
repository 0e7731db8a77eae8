import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import InvalidMessage
from mesh.wire import zds_pb2
from mesh.zds.codec import (
    MAXIMUM_PACKET,
    AddWorkload,
    DeleteWorkload,
    KeepWorkload,
    Request,
    SnapshotSent,
    WorkloadInfo,
    decode_acknowledgement,
    decode_hello,
    decode_request,
    encode_acknowledgement,
    encode_hello,
    encode_request,
)

names = st.text("abcdefghijklmnopqrstuvwxyz0123456789-.", min_size=1, max_size=63)
requests = st.one_of(
    st.builds(AddWorkload, names, st.builds(WorkloadInfo, names, names, names)),
    st.builds(KeepWorkload, names),
    st.builds(DeleteWorkload, names),
    st.just(SnapshotSent()),
)


@given(requests)
def test_a_request_comes_back_as_it_was(request: Request) -> None:
    descriptors = 1 if isinstance(request, AddWorkload) else 0
    assert decode_request(encode_request(request), descriptors) == request


@given(requests, st.integers(0, 4))
def test_only_add_has_a_descriptor_and_exactly_one(request: Request, descriptors: int) -> None:
    wanted = 1 if isinstance(request, AddWorkload) else 0
    if descriptors == wanted:
        decode_request(encode_request(request), descriptors)
    else:
        with pytest.raises(InvalidMessage, match="descriptors"):
            decode_request(encode_request(request), descriptors)


@given(st.binary(max_size=MAXIMUM_PACKET), st.integers(0, 2))
def test_garbage_is_a_request_or_an_invalid_message(packet: bytes, descriptors: int) -> None:
    try:
        decode_request(packet, descriptors)
    except InvalidMessage:
        return


@given(st.binary(max_size=MAXIMUM_PACKET))
def test_garbage_is_an_acknowledgement_or_an_invalid_message(packet: bytes) -> None:
    for decode in (decode_acknowledgement, decode_hello):
        try:
            decode(packet)
        except InvalidMessage:
            continue


@given(st.text(max_size=3000))
def test_an_acknowledgement_fits_a_packet_and_keeps_the_start_of_its_error(error: str) -> None:
    packet = encode_acknowledgement(error)
    assert len(packet) <= MAXIMUM_PACKET
    received = decode_acknowledgement(packet)
    assert error.encode("utf-8", "replace").decode().startswith(received)
    assert bool(received) == bool(error)


def test_hello_is_of_version_one() -> None:
    assert encode_hello() == b"\x08\x01"
    decode_hello(encode_hello())
    with pytest.raises(InvalidMessage, match="version 0"):
        decode_hello(b"")
    with pytest.raises(InvalidMessage, match="version 7"):
        decode_hello(b"\x08\x07")


def test_the_wire_is_istios() -> None:
    """Field numbers as in contracts 2.2, written out by hand."""
    info = b"\x0a\x01n\x12\x02ns\x1a\x02sa"
    body = b"\x0a\x01u\x12" + bytes([len(info)]) + info
    add = b"\x0a" + bytes([len(body)]) + body
    assert encode_request(AddWorkload("u", WorkloadInfo("n", "ns", "sa"))) == add
    assert encode_request(DeleteWorkload("u")) == b"\x12\x03\x12\x01u"
    assert encode_request(SnapshotSent()) == b"\x1a\x00"
    assert encode_request(KeepWorkload("u")) == b"\x2a\x03\x0a\x01u"
    assert encode_acknowledgement() == b"\x0a\x00"
    assert encode_acknowledgement("no") == b"\x0a\x04\x0a\x02no"


@pytest.mark.parametrize("missing", ["uid", "name", "namespace", "service_account"])
def test_an_incomplete_add_is_refused(missing: str) -> None:
    message = zds_pb2.WorkloadRequest()
    message.add.uid = "" if missing == "uid" else "u"
    for field in ("name", "namespace", "service_account"):
        setattr(message.add.workload_info, field, "" if field == missing else "x")
    with pytest.raises(InvalidMessage):
        decode_request(message.SerializeToString(), 1)


def test_a_request_that_does_not_fit_is_refused_before_it_is_sent() -> None:
    with pytest.raises(InvalidMessage, match="limit of 1024"):
        encode_request(AddWorkload("u" * 1000, WorkloadInfo("n" * 30, "ns", "sa")))
