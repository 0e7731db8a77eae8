"""Settings, windows, resets, pings and going away: what they change, and what they may not be."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from mesh.errors import ConfigurationError
from mesh.hbone.codec import (
    ACK,
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
from mesh.hbone.contract import MAX_WINDOW, HboneSettings, Http2Violation, Role
from mesh.testing.hbone import Endpoint, RecordingStream, connected_pair, exchange

BLOCK = encode_connect("10.0.0.1:80")
EMPTY_SETTINGS = settings_frame([])


def greeted(role: Role, *, accept: bool = True) -> Endpoint:
    """An endpoint that has the peer's preface and SETTINGS, and nothing left to send."""
    endpoint = Endpoint(role) if accept else Endpoint(role, on_request=lambda _: None)
    endpoint.feed((PREFACE if role is Role.SERVER else b"") + EMPTY_SETTINGS)
    endpoint.take()
    return endpoint


def request_frame(stream_id: int, flags: int = 0x4) -> bytes:
    return frame(FrameType.HEADERS, flags, stream_id, BLOCK)


def reset_frame(stream_id: int, code: int = 8) -> bytes:
    return frame(FrameType.RST_STREAM, 0, stream_id, struct.pack(">I", code))


def opened(settings: bytes = EMPTY_SETTINGS) -> tuple[Endpoint, RecordingStream]:
    """A client whose peer sent these SETTINGS and has accepted one stream."""
    client = Endpoint(Role.CLIENT)
    client.feed(settings)
    stream = client.open(BLOCK)
    client.feed(frame(FrameType.HEADERS, 0x4, 1, encode_response(200)))
    client.take()
    return client, stream


# -- settings ----------------------------------------------------------------------------------------------------------


def test_settings_are_acknowledged_and_applied() -> None:
    client = Endpoint(Role.CLIENT)
    client.take()
    assert client.machine.free_streams == 100
    client.feed(settings_frame([(Setting.MAX_CONCURRENT_STREAMS, 7), (Setting.MAX_FRAME_SIZE, 65536)]))
    assert client.take() == frame(FrameType.SETTINGS, ACK, 0)
    assert client.machine.free_streams == 7
    assert client.machine.peer_max_frame == 65536
    client.feed(settings_frame([(Setting.MAX_CONCURRENT_STREAMS, 0)]))
    assert client.machine.free_streams == 0


def test_a_larger_initial_window_lets_waiting_streams_go_on() -> None:
    client, stream = opened(settings_frame([(Setting.INITIAL_WINDOW_SIZE, 10)]))
    stream.send(b"x" * 25)
    assert stream.unsent == 15
    client.feed(settings_frame([(Setting.INITIAL_WINDOW_SIZE, 20)]))
    assert stream.unsent == 5
    client.feed(window_update_frame(1, 5))
    assert stream.unsent == 0


def test_settings_are_acknowledged_before_streams_go_on_under_them() -> None:
    """Who waits for the acknowledgement takes what comes first for sent under the settings before."""
    client, stream = opened(settings_frame([(Setting.INITIAL_WINDOW_SIZE, 0)]))
    stream.send(b"abcdef")
    assert client.take() == b""
    client.feed(settings_frame([(Setting.INITIAL_WINDOW_SIZE, 1)]))
    assert client.take() == frame(FrameType.SETTINGS, ACK, 0) + frame(FrameType.DATA, 0, 1, b"a")


def test_streams_go_on_when_all_settings_of_a_frame_are_in_force() -> None:
    client, stream = opened(settings_frame([(Setting.INITIAL_WINDOW_SIZE, 0)]))
    stream.send(b"x" * 30000)
    client.feed(settings_frame([(Setting.INITIAL_WINDOW_SIZE, 30000), (Setting.MAX_FRAME_SIZE, 30000)]))
    assert client.take() == frame(FrameType.SETTINGS, ACK, 0) + frame(FrameType.DATA, 0, 1, b"x" * 30000)


def test_a_window_that_one_frame_opens_and_closes_lets_nothing_through() -> None:
    client, stream = opened(settings_frame([(Setting.INITIAL_WINDOW_SIZE, 0)]))
    stream.send(b"abcdef")
    client.feed(settings_frame([(Setting.INITIAL_WINDOW_SIZE, 3), (Setting.INITIAL_WINDOW_SIZE, 0)]))
    assert client.take() == frame(FrameType.SETTINGS, ACK, 0)
    client.feed(window_update_frame(1, 2))
    assert client.take() == frame(FrameType.DATA, 0, 1, b"ab")


def test_a_bad_setting_after_a_larger_window_lets_nothing_through() -> None:
    client, stream = opened(settings_frame([(Setting.INITIAL_WINDOW_SIZE, 0)]))
    stream.send(b"abcdef")
    with pytest.raises(Http2Violation):
        client.feed(settings_frame([(Setting.INITIAL_WINDOW_SIZE, 3), (Setting.MAX_FRAME_SIZE, 1)]))
    assert client.take() == b""


def test_a_smaller_initial_window_may_make_windows_negative() -> None:
    client, stream = opened(settings_frame([(Setting.INITIAL_WINDOW_SIZE, 100)]))
    stream.send(b"x" * 90)
    client.feed(settings_frame([(Setting.INITIAL_WINDOW_SIZE, 0)]))
    assert stream.stream.send_window == -90
    stream.send(b"y" * 10)
    client.feed(window_update_frame(1, 90))
    assert stream.unsent == 10
    client.feed(window_update_frame(1, 4))
    assert stream.unsent == 6


@pytest.mark.parametrize(
    ("role", "setting", "value", "code"),
    [
        (Role.CLIENT, Setting.INITIAL_WINDOW_SIZE, 2**31, ErrorCode.FLOW_CONTROL_ERROR),
        (Role.CLIENT, Setting.MAX_FRAME_SIZE, 16383, ErrorCode.PROTOCOL_ERROR),
        (Role.CLIENT, Setting.MAX_FRAME_SIZE, 2**24, ErrorCode.PROTOCOL_ERROR),
        (Role.CLIENT, Setting.ENABLE_PUSH, 1, ErrorCode.PROTOCOL_ERROR),
        (Role.SERVER, Setting.ENABLE_PUSH, 2, ErrorCode.PROTOCOL_ERROR),
    ],
)
def test_settings_out_of_range(role: Role, setting: Setting, value: int, code: ErrorCode) -> None:
    with pytest.raises(Http2Violation) as caught:
        greeted(role).feed(settings_frame([(setting, value)]))
    assert caught.value.code is code


def test_an_initial_window_that_overflows_a_stream() -> None:
    client, _ = opened(settings_frame([(Setting.INITIAL_WINDOW_SIZE, 0)]))
    client.feed(window_update_frame(1, MAX_WINDOW))
    with pytest.raises(Http2Violation) as caught:
        client.feed(settings_frame([(Setting.INITIAL_WINDOW_SIZE, 1)]))
    assert caught.value.code is ErrorCode.FLOW_CONTROL_ERROR


def test_unknown_settings_are_ignored() -> None:
    endpoint = greeted(Role.SERVER)
    endpoint.feed(frame(FrameType.SETTINGS, 0, 0, struct.pack(">HI", 0xFFFF, 1)))
    assert endpoint.take() == frame(FrameType.SETTINGS, ACK, 0)


@pytest.mark.parametrize(
    "build",
    [
        lambda: HboneSettings(initial_stream_window=65535),
        lambda: HboneSettings(connection_window=2**31),
        lambda: HboneSettings(max_frame=100),
        lambda: HboneSettings(max_frame=2**24),
    ],
)
def test_our_own_settings_are_checked(build: Callable[[], HboneSettings]) -> None:
    with pytest.raises(ConfigurationError):
        build()


# -- malformed control frames ------------------------------------------------------------------------------------------

PROTOCOL, SIZE, FLOW = ErrorCode.PROTOCOL_ERROR, ErrorCode.FRAME_SIZE_ERROR, ErrorCode.FLOW_CONTROL_ERROR


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (frame(FrameType.SETTINGS, 0, 1), PROTOCOL),
        (frame(FrameType.SETTINGS, 0, 0, bytes(5)), SIZE),
        (frame(FrameType.SETTINGS, ACK, 0, bytes(6)), SIZE),
        (frame(FrameType.SETTINGS, 0, 0, bytes(16386)), SIZE),
        (frame(FrameType.PING, 0, 0, bytes(7)), SIZE),
        (frame(FrameType.PING, 0, 1, bytes(8)), PROTOCOL),
        (frame(FrameType.GOAWAY, 0, 0, bytes(7)), SIZE),
        (frame(FrameType.GOAWAY, 0, 1, bytes(8)), PROTOCOL),
        (frame(FrameType.WINDOW_UPDATE, 0, 0, bytes(3)), SIZE),
        (frame(FrameType.WINDOW_UPDATE, 0, 1, bytes(5)), SIZE),
        (window_update_frame(0, 0), PROTOCOL),
        (window_update_frame(0, MAX_WINDOW), FLOW),
        (window_update_frame(9, 1), PROTOCOL),
        (frame(FrameType.RST_STREAM, 0, 1, bytes(3)), SIZE),
        (reset_frame(0), PROTOCOL),
        (reset_frame(2), PROTOCOL),
        (reset_frame(9), PROTOCOL),
        (frame(FrameType.PUSH_PROMISE, 0x4, 1, bytes(4) + BLOCK), PROTOCOL),
        (frame(FrameType.PUSH_PROMISE, 0x4, 1, b"")[:3] + b"\x05\x04\x00\x00\x00\x01", PROTOCOL),
    ],
)
@pytest.mark.parametrize("role", list(Role))
def test_malformed_control_frames(role: Role, raw: bytes, code: ErrorCode) -> None:
    endpoint = greeted(role)
    if role is Role.CLIENT:
        endpoint.open(BLOCK)
    else:
        endpoint.feed(request_frame(1))
    with pytest.raises(Http2Violation) as caught:
        endpoint.feed(raw)
    assert caught.value.code is code


@pytest.mark.parametrize(("increment", "code"), [(0, PROTOCOL), (MAX_WINDOW, FLOW)])
def test_a_bad_stream_window_update_costs_only_the_stream(increment: int, code: ErrorCode) -> None:
    client, stream = opened()
    other = client.open(BLOCK)
    client.take()
    client.feed(window_update_frame(1, increment))
    assert client.take() == reset_frame(1, code)
    assert stream.resets == [code]
    assert list(client.machine.streams) == [other.stream.id]


# -- resets, pings, going away -----------------------------------------------------------------------------------------


def test_a_reset_is_told_and_frames_under_way_are_ignored() -> None:
    client, server = connected_pair()
    stream = client.open(BLOCK)
    exchange(client, server)
    request = server.requests[0]
    request.send(b"late data")
    client.machine.reset_stream(stream.stream, ErrorCode.CANCEL)
    exchange(client, server)
    assert request.resets == [ErrorCode.CANCEL]
    assert (bytes(stream.received), stream.resets) == (b"", [])
    assert not client.machine.streams
    assert not server.machine.streams
    client.feed(window_update_frame(1, 10) + reset_frame(1))
    client.machine.reset_stream(stream.stream, ErrorCode.CANCEL)
    client.machine.end_stream(stream.stream)
    assert client.take() == b""


def test_a_stream_that_is_gone_waits_for_no_window() -> None:
    client, stream = opened(settings_frame([(Setting.INITIAL_WINDOW_SIZE, 0)]))
    client.machine.reset_stream(stream.stream, ErrorCode.CANCEL)
    stream.send(b"too late")
    assert not client.machine._waiting
    client.feed(settings_frame([(Setting.INITIAL_WINDOW_SIZE, 10)]))
    assert stream.unsent == 8


def test_a_stream_reset_amid_a_frame_hears_no_more_of_it() -> None:
    client, stream = opened()
    data = frame(FrameType.DATA, 1, 1, b"x" * 1000)
    client.feed(data[:500])
    client.machine.reset_stream(stream.stream, ErrorCode.CANCEL)
    client.feed(data[500:])
    assert (len(stream.received), stream.ended) == (491, False)
    assert not client.machine.streams


@pytest.mark.parametrize(
    "end",
    [
        lambda client: client.feed(reset_frame(1)),
        lambda client: client.feed(frame(FrameType.GOAWAY, 0, 0, struct.pack(">II", 0, 0))),
        lambda client: client.feed(window_update_frame(1, 0)),
        lambda client: client.machine.reset_stream(client.machine.streams[1], ErrorCode.CANCEL),
        lambda client: [client.machine.end_stream(client.machine.streams[1]), client.feed(frame(FrameType.DATA, 1, 1))],
        lambda client: [client.feed(frame(FrameType.DATA, 1, 1)), client.machine.end_stream(client.machine.streams[1])],
    ],
    ids=["reset by the peer", "refused", "failed", "reset", "ended", "ended by the peer first"],
)
def test_a_stream_that_is_over_lets_go_of_its_owner(end: Callable[[Endpoint], object]) -> None:
    client, stream = opened()
    assert stream.stream.owner is stream
    end(client)
    assert not client.machine.streams
    assert stream.stream.owner is None


def test_pings_are_answered_and_answers_told() -> None:
    client, server = connected_pair()
    client.machine.ping(b"12345678")
    exchange(client, server)
    assert client.pings == [b"12345678"]
    assert server.pings == []


def test_streams_above_the_last_one_of_a_goaway_are_refused() -> None:
    client = greeted(Role.CLIENT)
    streams = [client.open(BLOCK) for _ in range(4)]
    client.feed(frame(FrameType.GOAWAY, 0, 0, struct.pack(">II", 3, 0) + b"maintenance"))
    assert client.going_aways == [(3, 0)]
    assert client.machine.free_streams == 0
    assert [stream.resets for stream in streams] == [[], [], [ErrorCode.REFUSED_STREAM], [ErrorCode.REFUSED_STREAM]]
    assert list(client.machine.streams) == [1, 3]


def test_a_draining_server_keeps_open_streams_and_refuses_new_ones() -> None:
    client, server = connected_pair()
    first = client.open(BLOCK)
    exchange(client, server)
    server.machine.go_away()
    second = client.open(BLOCK)
    exchange(client, server)
    assert second.resets == [ErrorCode.REFUSED_STREAM]
    assert client.going_aways == [(1, ErrorCode.NO_ERROR)]
    first.send(b"still here", end=True)
    server.requests[0].send(b"yes", end=True)
    exchange(client, server)
    assert (bytes(first.received), bytes(server.requests[0].received)) == (b"yes", b"still here")
    assert not client.machine.streams
    assert not server.machine.streams


def test_a_server_that_announces_its_going_takes_what_crosses_the_announcement() -> None:
    client, server = connected_pair()
    server.machine.announce_going_away()
    crossing = client.open(BLOCK)
    exchange(client, server)
    assert client.going_aways == [(2**31 - 1, ErrorCode.NO_ERROR)]
    assert client.machine.free_streams == 0
    assert crossing.resets == []
    assert len(server.requests) == 1
    server.machine.go_away()
    exchange(client, server)
    assert client.going_aways[1:] == [(1, ErrorCode.NO_ERROR)]
    assert crossing.resets == []


def test_the_connection_window_goes_round() -> None:
    """A stream that can use little of a window leaves it to the next one, and nobody is woken for nothing."""
    client = Endpoint(Role.CLIENT)
    client.feed(settings_frame([(Setting.INITIAL_WINDOW_SIZE, 65535)]))
    streams = [client.open(BLOCK) for _ in range(4)]
    for stream in streams:
        stream.send(b"x" * 60000)
    assert [stream.unsent for stream in streams] == [0, 54465, 60000, 60000]
    client.feed(window_update_frame(0, 1000))
    assert [stream.unsent for stream in streams] == [0, 53465, 60000, 60000]
    client.feed(window_update_frame(0, 1000))
    assert [stream.unsent for stream in streams] == [0, 53465, 59000, 60000]


# -- floods ------------------------------------------------------------------------------------------------------------


def flood(endpoint: Endpoint, raw: bytes, count: int) -> ErrorCode:
    with pytest.raises(Http2Violation) as caught:
        endpoint.feed(raw * count)
    assert len(endpoint.machine.outgoing) < 64 * 1024
    return caught.value.code


@pytest.mark.parametrize(
    ("raw", "count"),
    [
        (frame(FrameType.PING, 0, 0, bytes(8)), 500),
        (frame(FrameType.PING, ACK, 0, bytes(8)), 5000),
        (EMPTY_SETTINGS, 500),
        (frame(FrameType.SETTINGS, ACK, 0), 5000),
        (settings_frame([(Setting.INITIAL_WINDOW_SIZE, 70000)] * 2000), 3),
        (frame(FrameType.GOAWAY, 0, 0, bytes(8)), 500),
        (frame(FrameType.PRIORITY, 0, 1, bytes(5)), 5000),
        (frame(0xEE, 0, 0, b"?"), 5000),
    ],
)
@pytest.mark.parametrize("role", list(Role))
def test_floods_of_control_frames(role: Role, raw: bytes, count: int) -> None:
    assert flood(greeted(role), raw, count) is ErrorCode.ENHANCE_YOUR_CALM


def test_rapid_reset() -> None:
    endpoint = greeted(Role.SERVER, accept=False)
    raw = [request_frame(number) + reset_frame(number) for number in range(1, 4001, 2)]
    assert flood(endpoint, b"".join(raw), 1) is ErrorCode.ENHANCE_YOUR_CALM
    assert len(endpoint.requests) == 1001
    assert not endpoint.machine.streams


def test_resets_that_a_peer_provokes_are_bounded_too() -> None:
    endpoint = greeted(Role.SERVER)
    raw = [request_frame(number) + window_update_frame(number, 0) for number in range(1, 4001, 2)]
    assert flood(endpoint, b"".join(raw), 1) is ErrorCode.ENHANCE_YOUR_CALM
    assert len(endpoint.requests) == 1001


def test_the_budget_is_refilled() -> None:
    endpoint = greeted(Role.SERVER)
    for _ in range(10):
        endpoint.feed(frame(FrameType.PING, 0, 0, bytes(8)) * 390)
        endpoint.take()
        endpoint.machine.refill_budget()
