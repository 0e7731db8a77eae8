"""Connections of bytes, as metrics and the access log tell of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from mesh.addresses import PeerAddress, SocketAddress, parse_ip
from mesh.errors import ConnectFailed, PolicyDenied
from mesh.identity import SpiffeId
from mesh.model.waypoint import LogFormat, Metric, Telemetry
from mesh.model.workload import TunnelProtocol
from mesh.state.service_index import route_to
from mesh.telemetry.metrics import L4Metrics
from mesh.telemetry.output import LineOutput
from mesh.testing.model import make_workload
from waypoint.client import Client
from waypoint.telemetry import flags
from waypoint.telemetry.request_log import RequestLog
from waypoint.telemetry.streams import OF_STREAMS, StreamNotes, StreamObserver
from waypoint.upstream.endpoint import Endpoint

KEY = "demo/db.demo.svc"
CLIENT = Client(
    identity=SpiffeId("cluster.local", "demo", "client"),
    address=PeerAddress(SocketAddress(parse_ip("10.0.0.1"), 40000)),
    destination=SocketAddress(parse_ip("10.96.0.10"), 5432),
    workload=make_workload("client", "10.0.0.1", namespace="demo", workload_name="client"),
)
WORKLOAD = make_workload(
    "db-1", "10.0.0.2", namespace="demo", workload_name="db", tunnel_protocol=TunnelProtocol.HBONE
)
ENDPOINT = Endpoint(route_to(WORKLOAD, WORKLOAD.addresses[0], 5432, KEY), 0.0)

Observe = Callable[..., StreamObserver]


class Stage:
    """An observer, and what is seen of what it was told."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.descriptor = os.open(file, os.O_WRONLY | os.O_CREAT)
        self._output = LineOutput(self.descriptor)
        self.registry = CollectorRegistry()
        self.metrics = L4Metrics(self.registry, monotonic=lambda: 0.0)

    def observer(self, **telemetry: object) -> StreamObserver:
        told = Telemetry(**telemetry)  # type: ignore[arg-type]
        return StreamObserver(KEY, told, self.metrics, RequestLog(told, self._output), lambda: 1_800_000_000.0)

    @property
    def lines(self) -> list[str]:
        self._output.flush()
        return self._file.read_text().splitlines()

    def counted(self, name: str) -> dict[tuple[str, str, str], float]:
        """By client, endpoint and flag."""
        return {
            (sample.labels["source_workload"], sample.labels["destination_workload"], sample.labels["response_flags"]):
            sample.value
            for family in self.registry.collect()
            for sample in family.samples
            if sample.name == f"istio_tcp_{name}_total" and sample.labels["reporter"] == "waypoint"
        }  # fmt: skip


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path / "log")
    yield made
    os.close(made.descriptor)


def test_a_connection_is_counted_while_it_lives_and_logged_once(stage: Stage) -> None:
    notes = StreamNotes(stage.observer(), CLIENT, "db.example", 100.0)
    notes.chosen(KEY, ENDPOINT)
    notes.moved(10, 2000)
    assert stage.counted("received_bytes") == {("client", "db", "-"): 10}
    assert stage.counted("sent_bytes") == {("client", "db", "-"): 2000}
    assert stage.counted("connections_closed") == {("client", "db", "-"): 0}
    notes.over(100.5, 10, 2000)
    notes.over(101.0, 10, 2000, flag=flags.DURATION_TIMEOUT)
    assert stage.counted("connections_opened") == stage.counted("connections_closed") == {("client", "db", "-"): 1}
    assert stage.counted("connections_failed") == {}
    [line] = stage.lines
    assert '"- - -" 0 - - - "-" 10 2000 500 ' in line
    assert f'"10.0.0.2:5432" {KEY} - 10.96.0.10:5432 10.0.0.1:40000 db.example -' in line


@pytest.mark.parametrize(
    ("reason", "error", "flag", "counted", "shown"),
    [
        ("denied by x", PolicyDenied("denied by x"), 0, "DENY", '0 - - denied_by_x "-"'),
        ("no healthy endpoint", None, flags.NO_HEALTHY_UPSTREAM, "CONNECT", '0 UH - - "no healthy endpoint"'),
        ("", ConnectFailed("refused"), flags.UPSTREAM_CONNECTION_FAILURE, "CONNECT", '0 UF - - "refused"'),
    ],
)
def test_one_that_goes_nowhere_is_a_failure(
    stage: Stage, reason: str, error: PolicyDenied | None, flag: int, counted: str, shown: str
) -> None:
    StreamNotes(stage.observer(), CLIENT, None, 100.0).over(100.0, 0, 0, flag=flag, reason=reason, error=error)
    assert stage.counted("connections_failed") == {("client", "unknown", counted): 1}
    assert stage.counted("connections_opened") == {("client", "unknown", "-"): 1}
    assert shown in stage.lines[0]


def test_json_has_the_same(stage: Stage) -> None:
    error = PolicyDenied("no")
    notes = StreamNotes(stage.observer(log_format=LogFormat.JSON), CLIENT, "db.example", 100.0)
    notes.over(100.0, 1, 0, reason="no", error=error)
    told = msgspec.json.decode(stage.lines[0])
    assert (told["requested_server_name"], told["connection_termination_details"]) == ("db.example", "no")
    assert (told["method"], told["protocol"], told["response_code"]) == (None, "-", 0)


def test_telemetry_switches_off_what_it_says(stage: Stage) -> None:
    quiet = stage.observer(metrics_off=tuple(Metric), log_failures_only=True)
    well = StreamNotes(quiet, CLIENT, None, 100.0)
    well.chosen(KEY, ENDPOINT)
    well.over(101.0, 1, 1)
    assert (stage.lines, stage.counted("connections_opened")) == ([], {})
    StreamNotes(quiet, CLIENT, None, 100.0).over(100.0, 0, 0, reason="no", error=PolicyDenied("no"))
    assert len(stage.lines) == 1
    some = stage.observer(metrics_off=tuple(OF_STREAMS - {Metric.TCP_SENT_BYTES}))
    StreamNotes(some, CLIENT, None, 100.0).over(100.0, 0, 0)
    assert stage.counted("connections_opened") == {("client", "unknown", "-"): 1}
