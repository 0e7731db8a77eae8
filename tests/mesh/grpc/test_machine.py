"""Both machines joined by a pipe of bytes: no socket, no clock."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.errors import ProtocolViolation
from mesh.grpc.client_machine import CallEnded, ClientEvent, ClientMachine
from mesh.grpc.codec import message_prefix
from mesh.grpc.limits import GrpcLimits
from mesh.grpc.machine import GoAwayReceived
from mesh.grpc.server_machine import CallCancelled, CallFailed, CallStarted, ServerEvent, ServerMachine
from mesh.grpc.status import GrpcError, StatusCode

METHOD = "/test.Echo/Call"


class Pair:
    def __init__(self, limits: GrpcLimits = GrpcLimits()) -> None:
        self.client = ClientMachine(limits)
        self.server = ServerMachine(limits)
        self.at_client: list[ClientEvent] = []
        self.at_server: list[ServerEvent] = []
        self.exchange()

    def exchange(self) -> None:
        for _ in range(20):
            up, down = self.client.data_to_send(), self.server.data_to_send()
            if not up and not down:
                return
            self.at_server += self.server.receive(up, 0.0)
            self.at_client += self.client.receive(down, 0.0)
        raise AssertionError("the machines keep talking")

    def start(self) -> int:
        stream_id = self.client.start(METHOD, "server:1", "https", [("authorization", "Bearer x")], 1.5)
        self.exchange()
        return stream_id

    def end(self) -> CallEnded:
        [ended] = [event for event in self.at_client if isinstance(event, CallEnded)]
        return ended


def send(machine: ClientMachine | ServerMachine, stream_id: int, message: bytes, *, end: bool = False) -> None:
    machine.send_data(stream_id, message_prefix(len(message)) + message, end=end)


def test_a_call_carries_its_method_metadata_and_timeout() -> None:
    pair = Pair()
    stream_id = pair.start()
    [started] = [event for event in pair.at_server if isinstance(event, CallStarted)]
    assert (started.stream_id, started.method, started.timeout) == (stream_id, METHOD, 1.5)
    assert started.metadata["authorization"] == "Bearer x"


def test_request_response_and_trailers() -> None:
    pair = Pair()
    stream_id = pair.start()
    send(pair.client, stream_id, b"ping", end=True)
    pair.exchange()
    assert pair.server.take(stream_id) == b"ping"
    assert pair.server.half_closed(stream_id)
    pair.server.answer(stream_id)
    send(pair.server, stream_id, b"pong")
    pair.server.finish(stream_id, StatusCode.OK, "", [("cost", "3")])
    pair.exchange()
    assert pair.client.take(stream_id) == b"pong"
    assert pair.end() == CallEnded(stream_id, StatusCode.OK, "", {"cost": "3"})
    assert pair.server.calls == 0


def test_an_error_before_any_message_is_one_header_block_with_any_text() -> None:
    pair = Pair()
    stream_id = pair.start()
    pair.server.finish(stream_id, StatusCode.PERMISSION_DENIED, "no: 100% verböten\n")
    pair.exchange()
    assert pair.end() == CallEnded(stream_id, StatusCode.PERMISSION_DENIED, "no: 100% verböten\n", {})


def test_a_second_message_is_not_credited_until_the_first_is_taken() -> None:
    pair = Pair(GrpcLimits(stream_window_bytes=1000, connection_window_bytes=100_000))
    stream_id = pair.start()
    sent = 0
    while (room := pair.client.sendable(stream_id)) and sent < 100:
        send(pair.client, stream_id, bytes(min(room - 5, 495)))
        sent += 1
        pair.exchange()
    assert sent == 2  # two of 500 bytes fill the window, and nothing is given back
    assert pair.server.take(stream_id) is not None
    assert pair.server.take(stream_id) is not None
    pair.exchange()
    assert pair.client.sendable(stream_id) == 1000


def test_a_message_larger_than_the_window_arrives() -> None:
    pair = Pair(GrpcLimits(stream_window_bytes=1000))
    stream_id = pair.start()
    wire = message_prefix(10_000) + bytes(10_000)
    while wire:
        room = pair.client.sendable(stream_id)
        assert room
        pair.client.send_data(stream_id, wire[:room])
        wire = wire[room:]
        pair.exchange()
    assert pair.server.take(stream_id) == bytes(10_000)


def test_a_message_over_the_limit_fails_its_call_and_no_other() -> None:
    pair = Pair(GrpcLimits(request_bytes=100))
    bad, good = pair.start(), pair.start()
    send(pair.client, bad, bytes(101))
    send(pair.client, good, bytes(100))
    pair.exchange()
    [failed] = [event for event in pair.at_server if isinstance(event, CallFailed)]
    assert (failed.stream_id, failed.error.status) == (bad, StatusCode.RESOURCE_EXHAUSTED)
    pair.server.finish(bad, failed.error.status, failed.error.message)
    pair.exchange()
    assert pair.end().status is StatusCode.RESOURCE_EXHAUSTED
    assert pair.server.take(good) == bytes(100)


def test_a_method_may_have_a_limit_of_its_own() -> None:
    client, server = ClientMachine(GrpcLimits()), ServerMachine(GrpcLimits(request_bytes=10), {METHOD: 1000})
    stream_id = client.start(METHOD, "s", "http", (), None)
    send(client, stream_id, bytes(1000))
    server.receive(client.data_to_send(), 0.0)
    assert server.take(stream_id) == bytes(1000)


def test_a_connections_memory_is_bounded_over_all_its_calls() -> None:
    mib = 1024 * 1024
    limits = GrpcLimits(request_bytes=2 * mib, connection_buffer_bytes=3 * mib, connection_window_bytes=mib)
    pair = Pair(limits)
    failed: list[CallFailed] = []
    for _ in range(4):
        stream_id = pair.start()
        wire = message_prefix(2 * mib) + bytes(mib)  # half a message, four times
        while wire and not failed:
            room = pair.client.sendable(stream_id)
            pair.client.send_data(stream_id, wire[:room])
            wire = wire[room:]
            pair.exchange()
            failed = [event for event in pair.at_server if isinstance(event, CallFailed)]
    assert [event.error.status for event in failed] == [StatusCode.RESOURCE_EXHAUSTED]


def test_cancelling_tells_the_server_and_frees_the_slot() -> None:
    pair = Pair(GrpcLimits(concurrent_calls=1))
    stream_id = pair.start()
    assert pair.client.capacity() == 0
    pair.client.cancel(stream_id)
    pair.exchange()
    assert CallCancelled(stream_id) in pair.at_server
    assert pair.client.capacity() == 1
    with pytest.raises(GrpcError):
        pair.server.answer(stream_id)
    pair.server.finish(stream_id, StatusCode.OK, "")  # too late, but harmless


def test_draining_lets_calls_end_and_takes_no_new_ones() -> None:
    pair = Pair()
    stream_id = pair.start()
    pair.server.drain()
    pair.exchange()
    assert any(isinstance(event, GoAwayReceived) for event in pair.at_client)
    with pytest.raises(GrpcError, match="closing"):
        pair.client.start(METHOD, "s", "http", (), None)
    send(pair.client, stream_id, b"still", end=True)
    pair.exchange()
    assert pair.server.take(stream_id) == b"still"
    pair.server.finish(stream_id, StatusCode.OK, "")
    pair.exchange()
    assert pair.end().status is StatusCode.OK


def test_a_call_that_crossed_the_goaway_on_the_wire_is_refused_as_unprocessed() -> None:
    pair = Pair()
    pair.server.drain()
    stream_id = pair.client.start(METHOD, "s", "http", (), None)
    pair.exchange()
    assert pair.end().stream_id == stream_id
    assert pair.end().status is StatusCode.UNAVAILABLE
    assert not any(isinstance(event, CallStarted) for event in pair.at_server)


def test_the_windows_of_a_connection_survive_calls_that_nobody_read() -> None:
    pair = Pair(GrpcLimits(stream_window_bytes=65535, connection_window_bytes=65535))
    for _ in range(10):
        stream_id = pair.start()
        for _ in range(3):
            send(pair.client, stream_id, bytes(10_000))
        pair.exchange()
        pair.client.cancel(stream_id)
        pair.exchange()
    stream_id = pair.start()
    assert pair.client.sendable(stream_id) == 16384  # one frame; the window itself is larger


def test_a_plain_http_request_gets_a_plain_http_answer() -> None:
    client, server = ClientMachine(GrpcLimits()), ServerMachine(GrpcLimits())
    client._h2.send_headers(
        1, [(":method", "GET"), (":path", "/"), (":scheme", "http"), (":authority", "a")], end_stream=True
    )
    assert not [event for event in server.receive(client.data_to_send(), 0.0) if isinstance(event, CallStarted)]
    answer = client._h2.receive_data(server.data_to_send())
    assert any(b"405" in dict(getattr(event, "headers", None) or ()).values() for event in answer)


def test_headers_beyond_the_limit_end_the_connection() -> None:
    pair = Pair(GrpcLimits(header_bytes=2000))
    pair.client.start(METHOD, "s", "http", [("token", "x" * 4000)], None)
    with pytest.raises(ProtocolViolation):
        pair.server.receive(pair.client.data_to_send(), 0.0)


@settings(max_examples=200, deadline=None)
@given(st.binary(min_size=1, max_size=300), st.booleans())
def test_garbage_is_a_protocol_violation_or_waits_for_more(garbage: bytes, after_settings: bool) -> None:
    server = ServerMachine(GrpcLimits())
    data = ClientMachine(GrpcLimits()).data_to_send() if after_settings else b""
    try:
        server.receive(data + garbage, 0.0)
    except ProtocolViolation:
        assert server.data_to_send()  # a GOAWAY at least
