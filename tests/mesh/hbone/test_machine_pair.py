"""Two machines talking to one another deliver what was sent, whatever the order of events."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.hbone.codec import encode_connect
from mesh.hbone.contract import HboneSettings
from mesh.testing.hbone import Endpoint, RecordingStream, connected_pair, exchange

BLOCK = encode_connect("10.0.0.1:80")


def pattern(size: int) -> bytes:
    return (bytes(range(251)) * (size // 251 + 1))[:size]


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["open", "client", "server", "c2s", "s2c", "consume", "ping"]),
        st.integers(0, 5),
        st.sampled_from([1, 100, 16384, 65535, 100_000, 300_000]),
        st.booleans(),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(ACTIONS)
def test_two_machines_under_any_interleaving_deliver_what_was_sent(
    actions: list[tuple[str, int, int, bool]],
) -> None:
    limits = HboneSettings(initial_stream_window=70_000, max_stream_window=200_000, connection_window=400_000)
    client, server = connected_pair(limits, limits, consume=False)
    streams: list[RecordingStream] = [client.open(BLOCK) for _ in range(3)]
    exchange(client, server)
    sent: dict[int, bytearray] = {}
    finished: set[int] = set()
    wire = {client: bytearray(), server: bytearray()}

    def send(record: RecordingStream, size: int, end: bool) -> None:
        if id(record) not in finished:
            payload = pattern(size)[len(sent.setdefault(id(record), bytearray())) % 7 :]
            sent[id(record)] += payload
            record.send(payload, end=end)
            if end:
                finished.add(id(record))

    def carry(source: Endpoint, target: Endpoint, size: int) -> None:
        wire[source] += source.take()
        target.feed(bytes(wire[source][:size]))
        del wire[source][:size]

    for action, number, size, flag in actions:
        if action == "open" and len(streams) < 6:
            streams.append(client.open(BLOCK))
        elif action == "client" and streams:
            send(streams[number % len(streams)], size, flag)
        elif action == "server" and server.requests:
            send(server.requests[number % len(server.requests)], size, flag)
        elif action == "c2s":
            carry(client, server, size)
        elif action == "s2c":
            carry(server, client, size)
        elif action == "consume":
            for record in [*streams, *server.requests]:
                record.give_back(size)
        elif action == "ping":
            (client if flag else server).machine.ping(b"12345678")
        for record in [*streams, *server.requests]:
            assert record.unconsumed <= 200_000

    quiet = False
    while not quiet:
        carry(client, server, 10**9)
        carry(server, client, 10**9)
        for record in [*streams, *server.requests]:
            record.give_back()
            send(record, 10, True)
        quiet = not any((client.machine.outgoing, server.machine.outgoing, *wire.values()))
    for stream, request in zip(streams, server.requests, strict=True):
        assert request.received == sent[id(stream)]
        assert stream.received == sent[id(request)]
        assert stream.ended
        assert request.ended
        assert stream.events_when_over == request.events_when_over == 0
    assert not client.machine.streams
    assert not server.machine.streams
    exchange(client, server)
