"""What each decision about one request costs, by itself.

``.venv/bin/python docs/measurements/request_decisions.py`` prints microseconds: the median of interleaved rounds and,
in brackets, the least and the greatest. The request has ten headers; the route matches by prefix and header and splits
by weight; two policies look at method, path and identity; the service has ten endpoints.
"""

from __future__ import annotations

import gc
import os
import random
import statistics
import sys
import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry

from mesh.addresses import PeerAddress, SocketAddress, parse_ip
from mesh.identity import SpiffeId
from mesh.model.http_route import (
    Backend,
    HttpRoute,
    NamedMatch,
    PathMatch,
    PathMatchKind,
    RateLimit,
    RequestMatch,
    TextMatch,
    TextMatchKind,
)
from mesh.model.request_policy import Attribute, Condition, RequestAction, RequestClause, RequestPolicy, RequestRule
from mesh.model.service import LoadBalancing
from mesh.model.upstream_policy import Algorithm, Balancing, TrafficPolicy
from mesh.model.waypoint import DestinationPort, LogFormat, Telemetry
from mesh.state.service_index import route_to
from mesh.telemetry.output import LineOutput
from mesh.testing.model import make_workload
from waypoint.client import Client
from waypoint.http.message import RequestHead
from waypoint.routing.path import normalised
from waypoint.routing.port import PortRoutes
from waypoint.security.authorization import PolicyTable
from waypoint.security.rate_limit_machine import CompiledLimit, TokenBuckets
from waypoint.security.subject import Peer, Subject
from waypoint.telemetry.record import HttpVersion, RequestRecord
from waypoint.telemetry.request_log import RequestLog
from waypoint.telemetry.request_metrics import MetricsPlan, RequestMetrics
from waypoint.telemetry.tracing import Tracer
from waypoint.upstream.cluster import Cluster

ROUNDS = 15
REQUESTS = 10_000
CLIENT = Client(
    identity=SpiffeId("cluster.local", "demo", "client"),
    address=PeerAddress(SocketAddress(parse_ip("10.0.0.1"), 40000)),
    destination=SocketAddress(parse_ip("10.96.0.10"), 80),
    workload=make_workload("client", "10.0.0.1"),
)


def exact(value: str) -> TextMatch:
    """An exact comparison."""
    return TextMatch(TextMatchKind.EXACT, value)


def head() -> RequestHead:
    """The request."""
    headers = [(f"x-header-{index}".encode(), b"some value") for index in range(9)]
    return RequestHead(
        method=b"GET", path=b"/shop/cart?q=1", authority=b"shop", headers=[*headers, (b"x-version", b"v2")]
    )


def routing() -> Callable[[], object]:
    """Path, route, backend."""
    match = RequestMatch(
        path=PathMatch(PathMatchKind.PREFIX, "/shop"), headers=(NamedMatch("x-version", exact("v2")),)
    )
    backends = (Backend(service="demo/a", port=80, weight=90), Backend(service="demo/b", port=80, weight=10))
    route = HttpRoute(name="r", matches=(match,), backends=backends)
    routes = PortRoutes("demo/shop", DestinationPort(number=80, routes=(route,)), b"k" * 16)
    request, draw = head(), random.Random(1).random

    def work() -> object:
        assert normalised(request.path) is not None
        found = routes.select(request, CLIENT)
        assert found is not None
        return found.route.pick_backend(draw)

    return work


def authorization() -> Callable[[], object]:
    """A DENY that does not match, an ALLOW that does."""

    def policy(action: RequestAction, *conditions: Condition) -> RequestPolicy:
        rules = (RequestRule(((RequestClause(conditions=conditions),),)),)
        return RequestPolicy(key=f"demo/{action}", action=action, rules=rules)

    prefix = TextMatch(TextMatchKind.PREFIX, "/shop")
    table = PolicyTable(
        [
            policy(RequestAction.DENY, Condition(attribute=Attribute.METHOD, values=(exact("DELETE"), exact("PUT")))),
            policy(
                RequestAction.ALLOW,
                Condition(attribute=Attribute.PRINCIPAL, values=(exact("cluster.local/ns/demo/sa/client"),)),
                Condition(attribute=Attribute.METHOD, values=(exact("GET"),)),
                Condition(attribute=Attribute.PATH, values=(prefix,)),
            ),
        ]
    )
    peer, request = Peer(CLIENT), head()
    return lambda: table.decide(Subject(peer, request))


def balancing(algorithm: Algorithm) -> Callable[[], object]:
    """An endpoint out of ten."""
    cluster = Cluster(
        TrafficPolicy(balancing=Balancing(algorithm=algorithm)), make_workload("w", "10.9.9.9"), random.Random(1).random
    )
    workloads = [make_workload(f"pod-{number}", f"10.0.1.{number}") for number in range(10)]
    cluster.update([route_to(one, one.addresses[0], 80) for one in workloads], LoadBalancing(), 0.0)
    return lambda: cluster.pick(1.0)


def rate_limit() -> Callable[[], object]:
    """A bucket for each identity."""
    limit = CompiledLimit(RateLimit(name="l", tokens=10**9, interval_seconds=1.0, by_identity=True), "r")
    buckets, request = TokenBuckets(limit), head()
    return lambda: buckets.take(limit.key(request, CLIENT), 0.0)


def record() -> RequestRecord:
    """A finished request."""
    made = RequestRecord(CLIENT, "demo/shop.demo.svc", head(), HttpVersion.HTTP_1_1, 100.0, 1_800_000_000.25)
    made.status, made.details, made.ended, made.request_id = 200, "via_upstream", 100.02, b"id"
    made.forwarded, made.first_answered, made.response_bytes = 100.001, 100.015, 100
    made.route, made.upstream_service, made.endpoint = "demo/r/0", "demo/shop.demo.svc", CLIENT.workload
    made.upstream_address = SocketAddress(parse_ip("10.0.1.1"), 8080)
    return made


def metrics() -> Callable[[], object]:
    """Counted."""
    counting, finished = RequestMetrics(CollectorRegistry(), monotonic=time.monotonic), record()
    plan = MetricsPlan(Telemetry())
    return lambda: counting.count(finished, plan)


def log(log_format: LogFormat) -> Callable[[], object]:
    """Written to nowhere, in batches as always."""
    output = LineOutput(os.open(os.devnull, os.O_WRONLY))
    writing, finished = RequestLog(Telemetry(log_format=log_format), output), record()
    return lambda: writing.write(finished)


def tracing() -> Callable[[], object]:
    """Not recorded."""
    tracer, request = Tracer(Telemetry(), random.Random(1).random, random.getrandbits), head()
    return lambda: tracer.begin(request)


def per_request(work: Callable[[], object]) -> float:
    """Microseconds."""
    start = time.perf_counter()
    for _ in range(REQUESTS):
        work()
    return (time.perf_counter() - start) / REQUESTS * 1e6


def main() -> None:
    """Measure and print."""
    works = {
        "path, route, weight": routing(),
        "authorization": authorization(),
        "rate limit by identity": rate_limit(),
        "least request": balancing(Algorithm.LEAST_REQUEST),
        "round robin": balancing(Algorithm.ROUND_ROBIN),
        "maglev": balancing(Algorithm.MAGLEV),
        "trace, not recorded": tracing(),
        "record made and filled": record,
        "metrics": metrics(),
        "log line, text": log(LogFormat.TEXT),
        "log line, JSON": log(LogFormat.JSON),
    }
    gc.freeze()
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(ROUNDS):
        for name, work in works.items():
            times[name].append(per_request(work))
    for name, taken in times.items():
        sys.stdout.write(f"{name:24} {statistics.median(taken):6.2f} ({min(taken):.2f} to {max(taken):.2f})\n")


if __name__ == "__main__":
    main()
