"""A finished request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mesh.addresses import PeerAddress, SocketAddress, parse_ip
from mesh.identity import SpiffeId
from mesh.testing.model import make_workload
from waypoint.client import Client
from waypoint.http.message import RequestHead
from waypoint.telemetry.record import HttpVersion, RequestRecord

CLIENT = Client(
    identity=SpiffeId("cluster.local", "demo", "client"),
    address=PeerAddress(SocketAddress(parse_ip("10.0.0.1"), 40000)),
    destination=SocketAddress(parse_ip("10.96.0.10"), 80),
    workload=make_workload("client", "10.0.0.1", namespace="demo", workload_name="client"),
)
ENDPOINT = make_workload("echo-1", "10.0.0.2", namespace="demo", workload_name="echo", canonical_name="echo")


@pytest.fixture
def finished() -> Callable[..., RequestRecord]:
    def make(path: bytes = b"/a?b", client: Client = CLIENT, **fields: Any) -> RequestRecord:
        head = RequestHead(method=b"GET", path=path, authority=b"echo", headers=[(b"user-agent", b"curl")])
        record = RequestRecord(client, "demo/echo.demo.svc", head, HttpVersion.HTTP_1_1, 100.0, 1_800_000_000.25)
        record.status, record.details, record.ended = 200, "via_upstream", 100.02
        record.forwarded, record.first_answered = 100.001, 100.015
        record.request_bytes, record.response_bytes, record.attempts = 10, 2000, 1
        record.route, record.upstream_service = "demo/route/0", "demo/echo.demo.svc"
        record.endpoint, record.upstream_address = ENDPOINT, SocketAddress(ENDPOINT.addresses[0], 8080)
        record.peer_identity = ENDPOINT.identity
        for name, value in fields.items():
            setattr(record, name, value)
        return record

    return make
