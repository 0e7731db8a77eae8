"""The codec against hpack and hyperframe, and the CONNECT requests HBONE refuses."""

from __future__ import annotations

import re
import string

import pytest
from hpack import Decoder
from hyperframe.frame import DataFrame, Frame, SettingsFrame, WindowUpdateFrame
from hypothesis import example, given
from hypothesis import strategies as st

from mesh.addresses import SocketAddress, parse_ip
from mesh.errors import BadConnectRequest
from mesh.hbone import codec
from mesh.hbone.codec import Baggage, FrameType, Setting, decode_connect, encode_connect, encode_response

VALUES = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=300)
NAMES = st.text(string.ascii_lowercase + string.digits + "-.", min_size=1, max_size=40)


def decoded(block: bytes) -> list[tuple[str, str]]:
    return [(str(name), str(value)) for name, value in Decoder().decode(block)]


@given(VALUES, VALUES, VALUES, VALUES)
def test_request_block_is_what_hpack_reads(authority: str, forwarded: str, baggage: str, traceparent: str) -> None:
    block = encode_connect(authority, forwarded=forwarded, baggage=baggage, traceparent=traceparent)
    expected = [(":method", "CONNECT"), (":authority", authority)]
    optional = [("forwarded", forwarded), ("baggage", baggage), ("traceparent", traceparent)]
    assert decoded(block) == expected + [(name, value) for name, value in optional if value]


@pytest.mark.parametrize("size", [1, 126, 127, 128, 254, 255, 16510, 16511, 60000])
def test_long_strings_have_their_length_encoded_as_hpack_does(size: int) -> None:
    assert decoded(encode_response(503, baggage="b" * size)) == [(":status", "503"), ("baggage", "b" * size)]


@pytest.mark.parametrize("status", [200, 400, 401, 503])
def test_response_block_is_what_hpack_reads(status: int) -> None:
    fields = decoded(encode_response(status))
    assert fields == [(":status", str(status))]
    assert codec.response_status(fields) == status


@pytest.mark.parametrize("text", ["", "20", "2000", "2x0", "²²²", "-20", "٢٠٠"])
def test_a_status_that_is_no_number_is_none(text: str) -> None:
    assert codec.response_status([(":status", text)]) is None


def test_a_response_without_status_has_none() -> None:
    assert codec.response_status([("baggage", "x=y")]) is None


@given(st.integers(0, 2**31 - 1), st.binary(max_size=300))
def test_frames_are_what_hyperframe_reads(stream_id: int, payload: bytes) -> None:
    raw = codec.frame(FrameType.DATA, codec.END_STREAM, stream_id | 1, payload)
    parsed, size = Frame.parse_frame_header(memoryview(raw[:9]))
    parsed.parse_body(memoryview(raw[9:]))
    assert isinstance(parsed, DataFrame)
    assert (parsed.stream_id, size, parsed.data) == (stream_id | 1, len(payload), payload)
    assert set(parsed.flags) == {"END_STREAM"}


def test_settings_and_window_updates_are_what_hyperframe_reads() -> None:
    raw = codec.settings_frame([(Setting.INITIAL_WINDOW_SIZE, 70000), (Setting.ENABLE_PUSH, 0)])
    parsed, _ = Frame.parse_frame_header(memoryview(raw[:9]))
    parsed.parse_body(memoryview(raw[9:]))
    assert isinstance(parsed, SettingsFrame)
    assert dict(parsed.settings) == {4: 70000, 2: 0}
    raw = codec.window_update_frame(7, 12345)
    parsed, _ = Frame.parse_frame_header(memoryview(raw[:9]))
    parsed.parse_body(memoryview(raw[9:]))
    assert isinstance(parsed, WindowUpdateFrame)
    assert (parsed.stream_id, parsed.window_increment) == (7, 12345)


def connect(authority: str = "10.0.0.1:80", **headers: str) -> list[tuple[str, str]]:
    extra = [(name.replace("_", "-"), value) for name, value in headers.items()]
    return [(":method", "CONNECT"), (":authority", authority), *extra]


def test_a_full_request_is_read() -> None:
    request = decode_connect(
        connect(
            "[fd00::1]:8080",
            forwarded='for="10.0.0.9:4711";host=echo.demo.svc.cluster.local',
            baggage="k8s.namespace.name=demo",
            traceparent="00-1-2-00",
            x_forwarded_network="east",
            x_istio_source="waypoint",
        )
    )
    assert request.target == SocketAddress(parse_ip("fd00::1"), 8080)
    assert (request.hostname, request.port) == ("", 8080)
    assert request.forwarded_for == SocketAddress(parse_ip("10.0.0.9"), 4711)
    assert request.forwarded_host == "echo.demo.svc.cluster.local"
    assert (request.baggage, request.traceparent) == ("k8s.namespace.name=demo", "00-1-2-00")
    assert request.forwarded_network == "east"


def test_a_host_is_kept_as_a_name() -> None:
    request = decode_connect(connect("echo.demo.svc.cluster.local:80"))
    assert (request.target, request.hostname, request.port) == (None, "echo.demo.svc.cluster.local", 80)


def test_a_forwarded_field_that_cannot_be_read_is_ignored() -> None:
    request = decode_connect(connect(forwarded="for=unknown;host"))
    assert (request.forwarded_for, request.forwarded_host) == (None, "")


@pytest.mark.parametrize("method", ["", "GET", "POST", "connect", "CONNECT ", "PRI"])
def test_only_connect_is_taken(method: str) -> None:
    with pytest.raises(BadConnectRequest, match="method") as caught:
        decode_connect([(":method", method), (":authority", "10.0.0.1:80")])
    assert caught.value.http_status == 400


@pytest.mark.parametrize(
    "authority",
    [
        *("", ":", "10.0.0.1", "10.0.0.1:", ":80", "10.0.0.1:0", "10.0.0.1:65536", "10.0.0.1:-1", "10.0.0.1:8O"),
        *("10.0.0.1:0000801234", "10.0.0.1:²", "host:²", "host:٨٠", "host:0000801234", "host:" + "9" * 5000),
        *("10.0.0:80", "10.0.0.0.1:80", "1:80", "256.0.0.1:80", "fd00::1:80", "[fd00::1]", "[fd00::1:80"),
        *("[::1%lo]:80", "user@host:80", "ho st:80", "host/path:80", "hôte:80", "\0:80", "10.0.0.1\0:80"),
        *("host:80:80", "host", "h" * 254 + ":80"),
    ],
)
def test_bad_authorities_are_refused(authority: str) -> None:
    with pytest.raises(BadConnectRequest):
        decode_connect(connect(authority))


@pytest.mark.parametrize("name", [":path", ":scheme", ":protocol", ":method", ":authority"])
def test_other_and_doubled_pseudo_fields_are_refused(name: str) -> None:
    with pytest.raises(BadConnectRequest):
        decode_connect([*connect(), (name, "CONNECT")])


@given(st.lists(st.tuples(st.text(max_size=20), st.text(max_size=60)), max_size=6), st.text(max_size=60))
@example([], "\0:80")
@example([("forwarded", 'for="\0:1"')], "10.0.0.1:80")
def test_no_request_raises_anything_else(fields: list[tuple[str, str]], authority: str) -> None:
    try:
        decode_connect([*connect(authority), *fields])
    except BadConnectRequest:
        pass


@given(
    st.builds(
        Baggage,
        cluster=NAMES,
        namespace=NAMES,
        workload_type=st.sampled_from(["deployment", "cronjob", "pod", "job"]),
        workload_name=NAMES,
        service_name=NAMES,
        revision=NAMES,
        region=NAMES,
        zone=NAMES,
    )
)
def test_baggage_comes_back(baggage: Baggage) -> None:
    assert Baggage.decode(baggage.encode()) == baggage


def test_baggage_leaves_out_what_is_empty_and_keeps_the_order() -> None:
    baggage = Baggage(cluster="Kubernetes", workload_type="deployment", workload_name="echo", zone="z1")
    assert baggage.encode() == "k8s.cluster.name=Kubernetes,k8s.deployment.name=echo,cloud.availability_zone=z1"
    assert Baggage().encode() == ""


@given(st.text(max_size=200))
@example("k8s.cluster.name=,=,k8s.name,k8s..name=x")
def test_any_baggage_can_be_read(text: str) -> None:
    Baggage.decode(text)


def test_traceparents_have_their_form_and_differ() -> None:
    first, second = codec.new_traceparent(), codec.new_traceparent()
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-00", first)
    assert first != second
