"""What one request and one small DATA frame cost in h2 and in our HBONE machine, both ends in one process.

``.venv/bin/python docs/measurements/http2_machines.py`` prints microseconds. ARCHITECTURE.md quotes the result.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import h2.config
import h2.connection
import h2.events

from mesh.hbone.codec import ErrorCode, encode_connect, encode_response
from mesh.hbone.contract import HboneStream, Role
from mesh.hbone.machine import HboneMachine

TARGET = "10.0.0.1:80"
FORWARDED = 'for="10.0.0.2:4444"'
PAYLOAD = memoryview(b"x" * 100)


class End:
    """One end of an HBONE connection, with the application that takes everything at once."""

    def __init__(self, role: Role) -> None:
        self.stream: HboneStream
        self.machine = HboneMachine(role, self)

    def stream_requested(self, stream: HboneStream, headers: list[tuple[str, str]]) -> None:
        """Take the request."""
        self.stream = stream
        stream.owner = self

    def stream_data(self, payload: memoryview) -> None:
        """Take the data."""
        self.machine.consumed(self.stream, len(payload))

    def stream_answered(self, headers: list[tuple[str, str]]) -> None:
        """Nothing to do."""

    def stream_ended(self) -> None:
        """Nothing to do."""

    def stream_reset(self, code: int) -> None:
        """Nothing to do."""

    def stream_writable(self) -> None:
        """Nothing to do."""

    def going_away(self, last_stream: int, code: int) -> None:
        """Nothing to do."""

    def ping_answered(self, payload: bytes) -> None:
        """Nothing to do."""

    def output_ready(self) -> None:
        """Nothing to do."""


def move(source: HboneMachine, target: HboneMachine) -> None:
    """Carry what one machine has to say to the other."""
    data = bytes(source.outgoing)
    source.outgoing.clear()
    if data:
        target.receive(memoryview(data), len(data))


def hbone() -> tuple[Callable[[], None], Callable[[], None]]:
    """A whole request (asked, answered, reset), and a DATA frame of 100 bytes."""
    near, far = End(Role.CLIENT), End(Role.SERVER)
    client, server = near.machine, far.machine

    def ask() -> HboneStream:
        stream = client.open_stream(encode_connect(TARGET, forwarded=FORWARDED), near)
        move(client, server)
        server.respond(far.stream, encode_response(200))
        move(server, client)
        return stream

    def request() -> None:
        client.reset_stream(ask(), ErrorCode.CANCEL)
        move(client, server)
        server.refill_budget()

    for _ in range(3):
        move(client, server)
        move(server, client)
    bulk = ask()
    kept = far.stream

    def data() -> None:
        far.stream = kept
        client.send_data(bulk, PAYLOAD, len(PAYLOAD))
        move(client, server)
        move(server, client)

    return request, data


def reference() -> tuple[Callable[[], None], Callable[[], None]]:
    """The same with h2."""
    client = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding=None))
    server = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding=None))
    headers = [(":method", "CONNECT"), (":authority", TARGET), ("forwarded", FORWARDED)]
    client.initiate_connection()
    server.initiate_connection()
    for _ in range(3):
        server.receive_data(client.data_to_send())
        client.receive_data(server.data_to_send())

    def ask() -> int:
        stream = client.get_next_available_stream_id()
        client.send_headers(stream, headers)
        server.receive_data(client.data_to_send())
        server.send_headers(stream, [(":status", "200")])
        client.receive_data(server.data_to_send())
        return stream

    def request() -> None:
        client.reset_stream(ask())
        server.receive_data(client.data_to_send())

    bulk = ask()

    def data() -> None:
        client.send_data(bulk, bytes(PAYLOAD))
        for event in server.receive_data(client.data_to_send()):
            if isinstance(event, h2.events.DataReceived):
                server.acknowledge_received_data(event.flow_controlled_length, bulk)
        client.receive_data(server.data_to_send())

    return request, data


def cost(call: Callable[[], None], times: int = 5000) -> float:
    """Microseconds per call: the best of five rounds."""
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        for _ in range(times):
            call()
        best = min(best, time.perf_counter() - started)
    return best / times * 1e6


if __name__ == "__main__":
    for name, calls in (("h2", reference()), ("mesh.hbone.machine", hbone())):
        request, data = map(cost, calls)
        sys.stdout.write(f"{name:20} request {request:6.1f} us, DATA frame {data:5.1f} us\n")
