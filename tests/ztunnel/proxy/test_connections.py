from __future__ import annotations

import time
from typing import Any

from mesh.addresses import parse_socket_address
from mesh.errors import ConnectFailed, Draining, InternalError, MeshError
from mesh.relay.failures import unexpected
from mesh.telemetry.metrics import ServiceLabels
from ztunnel.proxy.connections import Connection

CLIENT, SERVER = parse_socket_address("127.0.0.3:4711"), parse_socket_address("127.0.0.2:80")


class End:
    """What the relay has moved so far."""

    def __init__(self) -> None:
        self.sent = self.received = 0
        self.cuts: list[MeshError] = []

    def cut(self, error: MeshError) -> None:
        self.cuts.append(error)


def begun(kit: Any, direction: Any = "outbound") -> tuple[Connection, End]:
    connection = kit.table.begin(kit.client, direction, CLIENT, SERVER)
    connection.end = end = End()
    return connection, end


async def test_it_leaves_the_table_once(kit: Any) -> None:
    connection, end = begun(kit)
    kit.table.described(connection, ServiceLabels())
    kit.table.described(connection, ServiceLabels("again"))
    end.sent, end.received = 3, 5
    kit.table.finished(connection, None)
    kit.table.finished(connection, ConnectFailed("too late"))
    assert len(kit.log.lines) == 1
    assert "error" not in kit.log.lines[0]
    assert connection.end is None
    assert kit.metric("istio_tcp_connections_opened_total") == kit.metric("istio_tcp_connections_closed_total") == 1
    assert kit.metric("istio_tcp_connections_failed_total") == 0
    assert kit.metric("istio_tcp_sockets_open") == 0


async def test_who_wants_to_know_is_told_how_long_dialled_ones_lived(kit: Any) -> None:
    told: list[tuple[float, float]] = []
    kit.table.when_dialled_over(lambda now, lived: told.append((now, lived)))
    before = time.monotonic()
    inbound, _ = begun(kit, "inbound")
    kit.table.finished(inbound, None)
    assert told == []
    outbound, _ = begun(kit)
    outbound.started -= 10
    kit.table.finished(outbound, None)
    ((now, lived),) = told
    assert before <= now <= time.monotonic()
    assert 10 <= lived <= 10 + now - before
    assert kit.table.begun == 2


async def test_bytes_are_counted_once_however_often_they_are_read(kit: Any) -> None:
    for direction, swapped, sent, received in (
        ("outbound", False, 5, 3),  # metrics: the response is what is sent
        ("inbound", False, 3, 5),
        ("inbound", True, 5, 3),
    ):
        connection, end = begun(kit, direction)
        connection.swapped = swapped
        kit.table.described(connection, ServiceLabels())
        before = kit.metric("istio_tcp_sent_bytes_total"), kit.metric("istio_tcp_received_bytes_total")
        end.sent = 1
        kit.table.count_all()
        kit.table.count_all()
        end.sent, end.received = 3, 5
        kit.table.count_all()
        kit.table.finished(connection, None)
        kit.table.count_all()
        after = kit.metric("istio_tcp_sent_bytes_total"), kit.metric("istio_tcp_received_bytes_total")
        assert (after[0] - before[0], after[1] - before[1]) == (sent, received)
        wanted = "bytes_sent=5 bytes_recv=3" if swapped else "bytes_sent=3 bytes_recv=5"
        assert wanted in kit.log.lines[-1]


async def test_what_failed_before_it_was_described_is_counted_too(kit: Any) -> None:
    connection = kit.table.begin(kit.client, "outbound", CLIENT, SERVER)
    kit.table.finished(connection, ConnectFailed("nobody there"))
    assert kit.metric("istio_tcp_connections_opened_total") == kit.metric("istio_tcp_connections_closed_total") == 1
    assert kit.metric("istio_tcp_connections_failed_total", response_flags="CONNECT") == 1


async def test_those_of_a_pod_and_those_of_all(kit: Any) -> None:
    first, end = begun(kit)
    second = kit.table.begin(kit.server, "inbound", CLIENT, SERVER)
    assert kit.table.of_pod(kit.client) == [first]
    assert set(kit.table) == {first, second}
    kit.table.cut_all(Draining("over"))
    assert [str(error) for error in end.cuts] == ["over"]
    empty: list[int] = []
    kit.table.when_empty(lambda: empty.append(len(kit.table)))
    kit.table.finished(first, None)
    assert not empty
    kit.table.finished(second, None)
    assert empty == [0]


def test_a_bug_becomes_an_error() -> None:
    error = unexpected(ValueError("what"))
    assert isinstance(error, InternalError)
    assert "what" in str(error)
