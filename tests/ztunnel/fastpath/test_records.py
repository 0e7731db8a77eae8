"""One record per connection and side, and counters that agree with them."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from mesh.addresses import SocketAddress, parse_ip
from mesh.errors import ConnectFailed
from mesh.identity import SpiffeId
from mesh.telemetry.access_log import AccessLog
from mesh.telemetry.metrics import L4Metrics, ServiceLabels, new_registry
from mesh.testing.model import make_workload
from ztunnel.fastpath.records import Ends, FastConnectionRecords


class Lines:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def write(self, line: bytes) -> None:
        self.lines.append(line.decode())


class Book:
    def __init__(self) -> None:
        output: Any = Lines()
        self.output: Lines = output
        self.registry = new_registry("test", "1")
        self.metrics = L4Metrics(self.registry, monotonic=lambda: 0.0)
        service = ServiceLabels("echo.demo.svc.cluster.local", "demo", "echo")

        def pod(name: str) -> Any:
            return SimpleNamespace(workload=make_workload(name), identity=SpiffeId("cluster.local", "demo", name))

        self.ends = Ends(pod("client"), pod("server"), service)
        self.records = FastConnectionRecords(self.metrics, AccessLog("text", output=output), lambda _: self.ends)

    def total(self, family: str, reporter: str) -> float:
        return sum(
            sample.value
            for metric in self.registry.collect()
            for sample in metric.samples
            if sample.name == family and sample.labels.get("reporter") == reporter
        )


@pytest.fixture
def book() -> Book:
    return Book()


def test_seen_alive_or_not_the_sums_are_the_same(book: Book, connection: Any) -> None:
    book.records.seen(connection(1, sent=10, received=20))
    book.records.seen(connection(1, sent=15, received=25))
    assert len(book.records) == 1
    book.records.ended(connection(1, sent=16, received=30, closed_at=3_000_000_000), None)
    book.records.ended(connection(3, sent=4, received=5, closed_at=3_000_000_000), None)
    assert len(book.records) == 0
    for reporter in ("source", "destination"):
        assert book.total("istio_tcp_connections_opened_total", reporter) == 2
        assert book.total("istio_tcp_connections_closed_total", reporter) == 2
        assert book.total("istio_tcp_received_bytes_total", reporter) == 20
        assert book.total("istio_tcp_sent_bytes_total", reporter) == 35
        assert book.total("istio_tcp_sockets_open", reporter) == 0
    assert len(book.output.lines) == 4


def test_told_together_or_one_by_one_the_records_are_the_same(book: Book, connection: Any) -> None:
    other = SocketAddress(parse_ip("10.244.1.3"), 9000)
    over: list[tuple[Any, Any]] = [
        (connection(number, sent=number, received=2 * number, closed_at=2_000_000_000 + number), None)
        for number in range(1, 20, 2)
    ]
    over[3] = (replace(over[3][0], source=SocketAddress(parse_ip("10.244.1.2"), 40001)), None)
    over[5] = (replace(over[5][0], destination=other, dialled=other), None)
    over[7] = (over[7][0], ConnectFailed("refused"))
    single = Book()
    for each in (book, single):
        each.records.seen(over[0][0])
    book.records.ended_all(over)
    for ended, error in over:
        single.records.ended(ended, error)

    def lines(of: Book) -> list[str]:
        return [line.partition(" ")[2] for line in of.output.lines]  # but for the time

    assert lines(book) == lines(single)
    assert len(book.records) == 0
    for name in ("connections_opened", "connections_closed", "received_bytes", "sent_bytes", "connections_failed"):
        for reporter in ("source", "destination"):
            family = f"istio_tcp_{name}_total"
            assert book.total(family, reporter) == single.total(family, reporter) > 0
    assert book.total("istio_tcp_sockets_open", "source") == 0


def test_both_sides_tell_their_own_bytes(book: Book, connection: Any) -> None:
    book.records.ended(connection(1, sent=7, received=9, closed_at=1_250_000_000), None)
    outbound, inbound = book.output.lines
    flags = 'no_mtls="fast_path" fast_path=true'
    assert f'direction="outbound" {flags} bytes_sent=7 bytes_recv=9 duration="250ms"' in outbound
    assert f'direction="inbound" {flags} bytes_sent=9 bytes_recv=7' in inbound
    assert 'dst.service="echo.demo.svc.cluster.local"' in outbound
    assert "dst.service" not in inbound
    assert 'src.identity="spiffe://cluster.local/ns/demo/sa/client"' in inbound


def test_a_failure_is_counted_and_told(book: Book, connection: Any) -> None:
    book.records.ended(connection(1, failed=True), ConnectFailed("refused"))
    assert all(" error " in line and 'error="refused"' in line for line in book.output.lines)
    assert book.total("istio_tcp_connections_failed_total", "source") == 1


def test_what_left_no_record_is_closed_after_a_second_look(book: Book, connection: Any) -> None:
    book.records.seen(connection(1))
    book.records.end_lost({1})
    book.records.end_lost(set())
    assert len(book.records) == 1
    book.records.end_lost(set())
    assert len(book.records) == 0
    assert book.total("istio_tcp_sockets_open", "source") == 0


def test_ends_that_nobody_knows_any_more_are_recorded_by_address(book: Book, connection: Any) -> None:
    book.ends = Ends(None, None, ServiceLabels())
    book.records.ended(connection(1), None)
    assert "src.addr=10.244.1.2:40000 dst.addr=10.244.1.3:8080" in book.output.lines[0]
