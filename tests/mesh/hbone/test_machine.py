"""The machine against ``h2`` in both roles: what is delivered is what was sent."""

from __future__ import annotations

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
from h2.settings import SettingCodes
from hypothesis import given
from hypothesis import strategies as st

from mesh.hbone.codec import ErrorCode, encode_connect, encode_response
from mesh.hbone.contract import HboneSettings, Role
from mesh.testing.hbone import Endpoint, RecordingStream

BLOCK = encode_connect("10.0.0.1:80", baggage="k8s.namespace.name=demo")
REQUEST = [(":method", "CONNECT"), (":authority", "10.0.0.1:80"), ("baggage", "k8s.namespace.name=demo")]
SIZES = [0, 1, 100, 16384, 16385, 65535, 65536, 1_000_000, 6_000_000]


class Oracle:
    """An ``h2`` connection that consumes what it receives, unless told not to."""

    def __init__(self, role: Role, initial: dict[SettingCodes, int] | None = None, *, consume: bool = True) -> None:
        self.connection = h2.connection.H2Connection(
            h2.config.H2Configuration(
                client_side=role is Role.CLIENT,
                header_encoding="utf-8",
                # h2 knows no plain CONNECT: it wants :scheme and :path.
                validate_inbound_headers=False,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self.connection.local_settings = h2.settings.Settings(
            client=role is Role.CLIENT, initial_values={SettingCodes.MAX_CONCURRENT_STREAMS: 100, **(initial or {})}
        )
        self.consume = consume
        self.events: list[h2.events.Event] = []
        self.received: dict[int, bytearray] = {}
        self.queues: dict[int, bytearray] = {}
        self.finish: set[int] = set()
        self.connection.initiate_connection()

    def feed(self, data: bytes) -> None:
        for event in self.connection.receive_data(data):
            self.events.append(event)
            if isinstance(event, h2.events.DataReceived):
                assert event.stream_id is not None
                self.received.setdefault(event.stream_id, bytearray()).extend(event.data or b"")
                if self.consume and event.flow_controlled_length:
                    self.connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        for stream_id in list(self.queues):
            self.pump(stream_id)

    def take(self) -> bytes:
        return self.connection.data_to_send()

    def send(self, stream_id: int, data: bytes, *, end: bool = False) -> None:
        self.queues.setdefault(stream_id, bytearray()).extend(data)
        if end:
            self.finish.add(stream_id)
        self.pump(stream_id)

    def pump(self, stream_id: int) -> None:
        queue = self.queues[stream_id]
        while queue:
            window = self.connection.local_flow_control_window(stream_id)
            size = min(len(queue), window, self.connection.max_outbound_frame_size)
            if size <= 0:
                return
            self.connection.send_data(stream_id, bytes(queue[:size]))
            del queue[:size]
        del self.queues[stream_id]
        if stream_id in self.finish:
            self.connection.end_stream(stream_id)

    def seen(self, kind: type[h2.events.Event]) -> list[h2.events.Event]:
        return [event for event in self.events if isinstance(event, kind)]


def run(endpoint: Endpoint, oracle: Oracle) -> None:
    quiet = False
    while not quiet:
        ours, theirs = endpoint.take(), oracle.take()
        oracle.feed(ours)
        endpoint.feed(theirs)
        quiet = not ours and not theirs


def client_and_oracle(initial: dict[SettingCodes, int] | None = None) -> tuple[Endpoint, Oracle, RecordingStream]:
    """Our client, an ``h2`` server, and a stream it has accepted."""
    client, oracle = Endpoint(Role.CLIENT), Oracle(Role.SERVER, initial)
    run(client, oracle)
    stream = client.open(BLOCK)
    run(client, oracle)
    oracle.connection.send_headers(stream.stream.id, [(":status", "200"), ("baggage", "x")])
    run(client, oracle)
    return client, oracle, stream


def server_and_oracle(initial: dict[SettingCodes, int] | None = None) -> tuple[Endpoint, Oracle, RecordingStream]:
    """Our server, an ``h2`` client, and a stream it has requested."""
    server, oracle = Endpoint(Role.SERVER), Oracle(Role.CLIENT, initial)
    run(server, oracle)
    oracle.connection.send_headers(1, REQUEST)
    run(server, oracle)
    return server, oracle, server.requests[0]


PAIRS = [client_and_oracle, server_and_oracle]


def pattern(size: int) -> bytes:
    return (bytes(range(251)) * (size // 251 + 1))[:size]


# -- requests and answers ----------------------------------------------------------------------------------------------


def test_h2_reads_our_request_and_we_its_answer() -> None:
    _, oracle, stream = client_and_oracle()
    (request,) = oracle.seen(h2.events.RequestReceived)
    assert isinstance(request, h2.events.RequestReceived)
    assert [(str(name), str(value)) for name, value in request.headers or []] == REQUEST
    assert stream.headers == [(":status", "200"), ("baggage", "x")]


def test_we_read_h2s_request_and_it_our_answer() -> None:
    _, oracle, request = server_and_oracle()
    assert request.headers == REQUEST
    (response,) = oracle.seen(h2.events.ResponseReceived)
    assert isinstance(response, h2.events.ResponseReceived)
    assert [(str(name), str(value)) for name, value in response.headers or []] == [(":status", "200")]


def test_a_refusal_ends_the_stream() -> None:
    refuse = lambda record: record.machine.respond(record.stream, encode_response(401), end=True)  # noqa: E731
    server, oracle = Endpoint(Role.SERVER, on_request=refuse), Oracle(Role.CLIENT)
    oracle.connection.send_headers(1, REQUEST, end_stream=True)
    run(server, oracle)
    assert oracle.seen(h2.events.ResponseReceived)
    assert oracle.seen(h2.events.StreamEnded)
    assert not server.machine.streams


def test_interim_responses_are_passed_over() -> None:
    client, oracle = Endpoint(Role.CLIENT), Oracle(Role.SERVER)
    stream = client.open(BLOCK)
    run(client, oracle)
    oracle.connection.send_headers(1, [(":status", "100")])
    oracle.connection.send_headers(1, [(":status", "103"), ("link", "x")])
    run(client, oracle)
    assert stream.headers is None
    oracle.connection.send_headers(1, [(":status", "503")], end_stream=True)
    run(client, oracle)
    assert stream.headers == [(":status", "503")]
    assert stream.ended


def test_continuation_and_padding_and_priority_from_h2() -> None:
    server, oracle = Endpoint(Role.SERVER), Oracle(Role.CLIENT)
    long = [*REQUEST, ("traceparent", "~é" * 6000)]
    oracle.connection.send_headers(1, long)
    oracle.connection.prioritize(1, weight=9)
    oracle.connection.send_data(1, b"padded", pad_length=200)
    oracle.connection.send_data(1, b"", pad_length=255)
    oracle.connection.send_data(1, b"end", pad_length=0, end_stream=True)
    oracle.connection.send_headers(3, REQUEST, priority_weight=7, priority_depends_on=1)
    run(server, oracle)
    request, second = server.requests
    assert request.headers == long
    assert second.headers == REQUEST
    assert (bytes(request.received), request.ended) == (b"paddedend", True)
    assert not request.stream.backlog


def test_trailers_end_the_stream() -> None:
    client, oracle, stream = client_and_oracle()
    oracle.send(1, b"body")
    oracle.connection.send_headers(1, [("grpc-status", "0")], end_stream=True)
    run(client, oracle)
    assert (bytes(stream.received), stream.ended) == (b"body", True)
    assert stream.headers == [(":status", "200"), ("baggage", "x")]


# -- data --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("size", SIZES)
def test_data_both_ways(pair: object, size: int) -> None:
    endpoint, oracle, stream = client_and_oracle() if pair is client_and_oracle else server_and_oracle()
    stream.send(pattern(size), end=True)
    oracle.send(1, pattern(size)[::-1], end=True)
    run(endpoint, oracle)
    assert bytes(stream.received) == pattern(size)[::-1]
    assert bytes(oracle.received.get(1, b"")) == pattern(size)
    assert stream.ended
    assert len(oracle.seen(h2.events.StreamEnded)) == 1
    assert not endpoint.machine.streams


@pytest.mark.parametrize("ours_first", [True, False])
@pytest.mark.parametrize("pair", PAIRS)
def test_half_close_in_each_order(pair: object, ours_first: bool) -> None:
    endpoint, oracle, stream = client_and_oracle() if pair is client_and_oracle else server_and_oracle()
    if ours_first:
        stream.send(b"", end=True)
    else:
        oracle.send(1, b"", end=True)
    run(endpoint, oracle)
    assert len(endpoint.machine.streams) == 1
    if ours_first:
        oracle.send(1, pattern(100_000), end=True)
    else:
        stream.send(pattern(100_000), end=True)
    run(endpoint, oracle)
    assert bytes(stream.received if ours_first else oracle.received[1]) == pattern(100_000)
    assert not endpoint.machine.streams


def test_our_sender_stops_at_h2s_windows_and_goes_on() -> None:
    client, oracle, stream = client_and_oracle({SettingCodes.INITIAL_WINDOW_SIZE: 1000})
    oracle.consume = False
    stream.send(pattern(70_000))
    run(client, oracle)
    assert len(oracle.received[1]) == 1000
    oracle.connection.increment_flow_control_window(100_000, 1)
    run(client, oracle)
    assert len(oracle.received[1]) == 65535
    oracle.connection.increment_flow_control_window(4465)
    run(client, oracle)
    assert bytes(oracle.received[1]) == pattern(70_000)


def test_a_reader_that_takes_nothing_bounds_what_is_held_and_a_keen_one_gets_a_larger_window() -> None:
    settings_ = HboneSettings(initial_stream_window=100_000, max_stream_window=1_000_000)
    server, oracle = Endpoint(Role.SERVER, settings_, consume=False), Oracle(Role.CLIENT)
    oracle.connection.send_headers(1, REQUEST)
    run(server, oracle)
    oracle.send(1, pattern(10_000_000))
    run(server, oracle)
    (request,) = server.requests
    assert request.unconsumed == 100_000
    for _ in range(8):
        request.give_back()
        run(server, oracle)
    assert request.unconsumed == request.stream.window == 1_000_000
    request.give_back(400_000)
    run(server, oracle)
    assert request.unconsumed == 600_000
    request.consume = True
    request.give_back()
    run(server, oracle)
    assert bytes(request.received) == pattern(10_000_000)


def test_stream_windows_together_stay_within_the_connections() -> None:
    limits = HboneSettings(connection_window=1_000_000)
    server, oracle = Endpoint(Role.SERVER, limits), Oracle(Role.CLIENT)
    run(server, oracle)
    for stream_id in (1, 3):
        oracle.connection.send_headers(stream_id, REQUEST)
        oracle.send(stream_id, pattern(3_000_000))
    run(server, oracle)
    assert sorted(request.stream.window for request in server.requests) == [262_144, 524_288]
    assert all(bytes(request.received) == pattern(3_000_000) for request in server.requests)


def test_h2_changes_its_initial_window_amid_a_transfer() -> None:
    client, oracle, stream = client_and_oracle()
    oracle.consume = False
    stream.send(pattern(60_000))
    for window in (10, 70_000, 0, 131_072):
        oracle.connection.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: window})
        run(client, oracle)
    oracle.consume = True
    oracle.connection.acknowledge_received_data(60_000, 1)
    stream.send(pattern(300_000), end=True)
    run(client, oracle)
    assert bytes(oracle.received[1]) == pattern(60_000) + pattern(300_000)


# -- the connection ----------------------------------------------------------------------------------------------------


def test_resets_pings_and_goaway_with_h2() -> None:
    client, oracle, stream = client_and_oracle()
    oracle.connection.reset_stream(1, 8)
    oracle.connection.ping(b"abcdefgh")
    client.machine.ping(b"ABCDEFGH")
    second = client.open(BLOCK)
    client.machine.reset_stream(second.stream, ErrorCode.REFUSED_STREAM)
    run(client, oracle)
    client.machine.go_away()
    oracle.feed(client.take())
    assert stream.resets == [8]
    assert client.pings == [b"ABCDEFGH"]
    assert len(oracle.seen(h2.events.PingAckReceived)) == 1
    (reset,) = oracle.seen(h2.events.StreamReset)
    assert isinstance(reset, h2.events.StreamReset)
    assert reset.error_code == ErrorCode.REFUSED_STREAM
    assert oracle.seen(h2.events.ConnectionTerminated)
    assert not client.machine.streams


def test_h2s_limit_of_streams_is_kept_and_ours_enforced() -> None:
    client, _, _ = client_and_oracle({SettingCodes.MAX_CONCURRENT_STREAMS: 3})
    assert client.machine.free_streams == 2
    server = Endpoint(Role.SERVER, HboneSettings(max_streams=3))
    oracle = Oracle(Role.CLIENT)
    for stream_id in (1, 3, 5, 7):  # before it has read our SETTINGS
        oracle.connection.send_headers(stream_id, REQUEST)
    run(server, oracle)
    (reset,) = oracle.seen(h2.events.StreamReset)
    assert isinstance(reset, h2.events.StreamReset)
    assert (reset.stream_id, reset.error_code) == (7, ErrorCode.REFUSED_STREAM)
    assert len(server.requests) == len(server.machine.streams) == 3


# -- invariants --------------------------------------------------------------------------------------------------------


def conversation() -> bytes:
    """What an ``h2`` client sends in a lively connection, as one byte string."""
    oracle = Oracle(Role.CLIENT)
    for stream_id in (1, 3, 5):
        oracle.connection.send_headers(stream_id, [*REQUEST, ("forwarded", "~" * 17000)])
        oracle.connection.send_data(stream_id, pattern(3000), pad_length=50)
        oracle.connection.send_data(stream_id, pattern(500))
    oracle.connection.ping(b"12345678")
    oracle.connection.reset_stream(3)
    oracle.connection.send_data(1, b"", end_stream=True)
    oracle.connection.send_headers(5, [("x", "trailer")], end_stream=True)
    return oracle.take()


CONVERSATION = conversation()


@given(st.lists(st.integers(0, len(CONVERSATION)), max_size=30))
def test_how_the_bytes_are_cut_makes_no_difference(cuts: list[int]) -> None:
    server = Endpoint(Role.SERVER)
    edges = [0, *sorted(cuts), len(CONVERSATION)]
    for start, end in zip(edges, edges[1:], strict=False):  # noqa: RUF007
        server.feed(CONVERSATION[start:end])
    assert [bytes(request.received) for request in server.requests] == [pattern(3000) + pattern(500)] * 3
    assert [request.ended for request in server.requests] == [True, False, True]
    assert [request.resets for request in server.requests] == [[], [0], []]
    assert server.largest_rest <= 16384 + 9


def test_byte_by_byte() -> None:
    server = Endpoint(Role.SERVER)
    for position in range(len(CONVERSATION)):
        server.feed(CONVERSATION[position : position + 1])
    assert [bytes(request.received) for request in server.requests] == [pattern(3000) + pattern(500)] * 3
