"""Facts of a request, as metrics and the access log tell them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from mesh.addresses import PeerAddress, SocketAddress, parse_ip
from mesh.errors import DestinationMismatch
from mesh.identity import SpiffeId
from mesh.model.upstream_policy import TrafficPolicy
from mesh.model.waypoint import Destination, LogFormat, Metric, SpanCollector, Telemetry
from mesh.model.workload import TunnelProtocol
from mesh.state.service_index import route_to
from mesh.telemetry.output import LineOutput
from mesh.testing.model import make_workload
from waypoint.client import Client
from waypoint.exchange.facts import Facts
from waypoint.exchange.grpc_messages import GrpcMessages
from waypoint.http.limits import HttpLimits
from waypoint.http.message import RequestHead, ResponseHead
from waypoint.requests import Requests, record_of
from waypoint.telemetry.flags import flags_text
from waypoint.telemetry.otlp_driver import SpanQueues
from waypoint.telemetry.record import NOT_REACHED
from waypoint.testing.wires import ManualClock, MemoryConnector
from waypoint.upstream.backend import Chooser, ServiceBackend
from waypoint.upstream.cluster import Cluster
from waypoint.upstream.endpoint import Endpoint

KEY = "demo/echo.demo.svc.cluster.local"
CLIENT = Client(
    identity=SpiffeId("cluster.local", "demo", "client"),
    address=PeerAddress(SocketAddress(parse_ip("10.0.0.1"), 40000)),
    destination=SocketAddress(parse_ip("10.96.0.10"), 80),
    workload=make_workload("client", "10.0.0.1", namespace="demo", workload_name="client"),
)


def choice(**fields: object) -> Chooser:
    """One whose endpoint is known."""
    cluster = Cluster(TrafficPolicy(), make_workload("self"), lambda: 0.5)
    clock = ManualClock()
    made = Chooser(
        ServiceBackend(
            KEY, cluster, lambda cluster: [], lambda to: MemoryConnector(), clock.timers, HttpLimits(), http2=False
        )
    )
    workload = make_workload("echo-1", "10.0.0.2", namespace="demo", workload_name="echo", **fields)  # type: ignore[arg-type]
    made.chosen = Endpoint(route_to(workload, workload.addresses[0], 8080, KEY), 0.0)
    return made


def facts_of(path: bytes = b"/a?b", status: int = 200, chooser: Chooser | None = None, flags: str = "") -> Facts:
    head = RequestHead(method=b"GET", path=path, authority=b"echo")
    facts = Facts(head, CLIENT, "1.1", 100.0)
    head.path = b"/rewritten"
    facts.ended_at, facts.status, facts.flags, facts.chooser = 100.5, status, flags, chooser
    facts.received, facts.sent = 3, 4
    if chooser is not None:
        facts.attempts, facts.sent_at, facts.answered_at = 1, 100.1, 100.3
        facts.response = ResponseHead(status=status, headers=[(b"server", b"echo")])
    return facts


def requests_of(registry: CollectorRegistry, output: LineOutput) -> Requests:
    async def post(collector: SpanCollector, body: bytes) -> int:
        raise AssertionError("nothing is sent in these tests")

    return Requests(registry, output, SpanQueues({}, post, registry, lambda run: None))


@pytest.fixture
def written(tmp_path: Path) -> Iterator[tuple[LineOutput, Callable[[], list[str]]]]:
    file = tmp_path / "log"
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT)
    output = LineOutput(descriptor)

    def lines() -> list[str]:
        output.flush()
        return file.read_text().splitlines()

    yield output, lines
    os.close(descriptor)


def samples(registry: CollectorRegistry, name: str) -> list[tuple[dict[str, str], float]]:
    return [
        (sample.labels, sample.value)
        for family in registry.collect()
        for sample in family.samples
        if sample.name == name
    ]


def test_what_an_endpoint_answered() -> None:
    chosen = choice(tunnel_protocol=TunnelProtocol.HBONE)
    record = record_of(facts_of(chooser=chosen), KEY, 1000.0)
    assert chosen.chosen is not None
    workload = chosen.chosen.to.workload
    assert (record.path, record.status, record.details, record.flags) == (b"/a?b", 200, "via_upstream", 0)
    assert (record.started_wall, record.forwarded, record.first_answered) == (999.5, 100.1, 100.3)
    assert (record.request_bytes, record.response_bytes, record.attempts) == (3, 4, 1)
    assert (record.endpoint, record.peer_identity, record.upstream_service) == (workload, workload.identity, KEY)
    assert str(record.upstream_address) == "10.0.0.2:8080"
    assert record.response_headers == [(b"server", b"echo")]


def test_an_endpoint_outside_of_the_mesh_proves_nothing() -> None:
    record = record_of(facts_of(chooser=choice(tunnel_protocol=TunnelProtocol.NONE)), KEY, 1000.0)
    assert record.peer_identity is None
    assert record.endpoint is not None


def test_of_several_identities_the_one_that_was_proven_is_told() -> None:
    chosen = choice(tunnel_protocol=TunnelProtocol.HBONE)
    endpoint = chosen.chosen
    assert endpoint is not None
    other = SpiffeId("cluster.local", "other", "echo")
    endpoint.to = replace(endpoint.to, expected_identities=frozenset({endpoint.to.workload.identity, other}))
    facts = facts_of(chooser=chosen)
    assert record_of(facts, KEY, 1000.0).peer_identity is None
    endpoint.connector = MemoryConnector()
    endpoint.connector.peer_identity = other
    assert record_of(facts, KEY, 1000.0).peer_identity is other
    facts.sent_at = 0.0
    assert record_of(facts, KEY, 1000.0).peer_identity is None, "nothing was sent, so nothing was proven"


def test_whom_a_token_is_of_is_told() -> None:
    facts = facts_of()
    assert record_of(facts, KEY, 1000.0).request_principal == ""
    facts.request_principal = "https://issuer/alice"
    assert record_of(facts, KEY, 1000.0).request_principal == "https://issuer/alice"


def test_what_was_answered_here_went_nowhere() -> None:
    facts = facts_of(status=404, flags="NR")
    facts.details = "route_not_found"
    record = record_of(facts, KEY, 1000.0)
    assert (record.status, flags_text(record.flags), record.details) == (404, "NR", "route_not_found")
    assert (record.forwarded, record.first_answered, record.endpoint) == (NOT_REACHED, NOT_REACHED, None)


def test_an_earlier_attempts_answer_is_not_the_last_ones() -> None:
    facts = facts_of(status=504, chooser=choice(), flags="URX,UT")
    facts.sent_at, facts.details, facts.upstream_failure = 100.4, "attempt timeout", "reset"
    record = record_of(facts, KEY, 1000.0)
    assert record.first_answered == NOT_REACHED
    assert (record.details, record.transport_failure) == ("attempt_timeout", "reset")
    assert flags_text(record.flags) == "URX,UT"


def test_grpc_says_its_own_status() -> None:
    facts = facts_of(chooser=choice())
    facts.grpc = GrpcMessages()
    facts.grpc.response.take(bytes(5))
    facts.response_trailers = [(b"grpc-status", b"14")]
    record = record_of(facts, KEY, 1000.0)
    assert (record.grpc, record.grpc_status) == (True, 14)
    assert (record.request_messages, record.response_messages) == (0, 1)
    facts.response_trailers = [(b"grpc-status", b"nonsense")]
    assert record_of(facts, KEY, 1000.0).grpc_status == -1


async def test_one_line_and_one_count_per_request(written: tuple[LineOutput, Callable[[], list[str]]]) -> None:
    output, lines = written
    registry = CollectorRegistry()
    requests = requests_of(registry, output)
    observer = requests.of(Destination(key=KEY, waypoint="demo/waypoint"))
    observer.finished(facts_of(chooser=choice()))
    observer.finished(facts_of(status=503, chooser=choice(), flags="UF"))
    assert ['"GET /a?b HTTP/1.1" 200 - via_upstream' in lines()[0], " 503 UF " in lines()[1]] == [True, True]
    assert len(lines()) == 2
    found = {
        labels["response_code"]: labels for labels, value in samples(registry, "istio_requests_total") if value == 1
    }
    assert found["503"]["response_flags"] == "UF"
    assert found["200"]["reporter"] == "waypoint"
    assert (found["200"]["source_workload"], found["200"]["destination_workload"]) == ("client", "echo")
    assert found["200"]["destination_service"] == "echo.demo.svc.cluster.local"


async def test_telemetry_switches_off_what_it_says(written: tuple[LineOutput, Callable[[], list[str]]]) -> None:
    output, lines = written
    registry = CollectorRegistry()
    requests = requests_of(registry, output)
    quiet = Telemetry(log_format=LogFormat.OFF, metrics_off=tuple(Metric))
    requests.of(Destination(key=KEY, waypoint="demo/waypoint", telemetry=quiet)).finished(facts_of())
    assert (lines(), samples(registry, "istio_requests_total")) == ([], [])
    unreadable = Telemetry(log_format=LogFormat.TEMPLATE, log_template="%NO_SUCH%")
    observer = requests.of(Destination(key=KEY, waypoint="demo/waypoint", telemetry=unreadable))
    assert "NO_SUCH" in observer.problems[0]
    observer.finished(facts_of())
    assert '"GET /a?b HTTP/1.1" 200' in lines()[0]


async def test_refused_connections_are_counted_by_reason(written: tuple[LineOutput, Callable[[], list[str]]]) -> None:
    registry = CollectorRegistry()
    requests_of(registry, written[0]).refused(CLIENT.address, "10.0.0.9:80", DestinationMismatch("not bound"))
    name = "ambimesh_waypoint_refused_connections_total"
    assert samples(registry, name) == [({"reason": "DestinationMismatch"}, 1.0)]


def test_ids_are_given_before_anything_is_decided(written: tuple[LineOutput, Callable[[], list[str]]]) -> None:
    output, lines = written
    observer = requests_of(CollectorRegistry(), output).of(Destination(key=KEY, waypoint="demo/waypoint"))
    ids = []
    for client, given in ((CLIENT, b"chain"), (CLIENT, None), (replace(CLIENT, identity=None), b"chain")):
        head = RequestHead(method=b"GET", path=b"/a", authority=b"echo")
        if given is not None:
            head.headers.append((b"x-request-id", given))
        facts = Facts(head, client, "1.1", 100.0)
        observer.began(facts)
        assert facts.trace is None
        assert head.headers == [(b"x-request-id", facts.request_id)]
        facts.ended_at, facts.status = 100.5, 403
        observer.finished(facts)
        ids.append(facts.request_id)
    assert ids[0] == b"chain", "a client that has proven who it is names its requests"
    assert len({*ids, b"chain"}) == 3
    assert [f'"{one.decode()}"' in line for one, line in zip(ids, lines(), strict=True)] == [True] * 3


async def test_spans_of_recorded_requests_are_handed_on(written: tuple[LineOutput, Callable[[], list[str]]]) -> None:
    queues = requests_of(CollectorRegistry(), written[0])
    collector = SpanCollector(service="observe/c", port=4318)
    for sampled, reported, expected in ((100.0, True, 2), (100.0, False, 0), (0.0, True, 0)):
        telemetry = Telemetry(collector=collector, sampling_percent=sampled, report_spans=reported)
        observer = queues.of(Destination(key=KEY, waypoint="demo/waypoint", telemetry=telemetry))
        facts = facts_of(chooser=choice())
        observer.began(facts)
        assert (facts.trace is not None) is (sampled > 0)
        assert (b"traceparent" in dict(facts.head.headers)) is (sampled > 0)
        if facts.trace is not None:
            facts.trace.attempt(facts.head, "10.0.0.2:8080", 100.1)
        observer.finished(facts)
        waiting = queues._queues.to(collector)._waiting
        assert len(waiting) == expected
        waiting.clear()
