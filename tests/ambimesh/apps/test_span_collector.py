"""The lab's collector of spans."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator

import pytest

from ambimesh.apps.http_echo import EchoServer
from ambimesh.apps.span_collector import CollectorHandler, shown
from waypoint.telemetry.otlp_driver import encode
from waypoint.telemetry.spans import FinishedSpan

SPAN = FinishedSpan("GET r", b"1" * 32, b"2" * 16, b"3" * 16, 1.0, 1.5, {"a": 1}, served=True, failed=True)


@pytest.fixture
def port() -> Iterator[int]:
    with EchoServer(("::", 0), CollectorHandler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def ask(port: int, method: str, body: bytes | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, "/v1/traces", body)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, content


def test_what_a_waypoint_sends_is_shown(port: int) -> None:
    assert ask(port, "POST", encode([SPAN], {"service.name": "w", "service.namespace": "demo"})) == (200, b"")
    assert ask(port, "POST", b"\xff\xff")[0] == 400
    status, content = ask(port, "GET")
    assert status == 200
    [span] = json.loads(content)["spans"]
    assert span == {
        "service": "demo/w",
        "name": "GET r",
        "kind": "SERVER",
        "traceId": "1" * 32,
        "spanId": "2" * 16,
        "parentSpanId": "3" * 16,
        "milliseconds": 500.0,
        "status": "ERROR",
        "attributes": {"a": 1},
    }


def test_what_is_no_export_is_refused() -> None:
    with pytest.raises(ValueError, match="ExportTraceServiceRequest"):
        list(shown(b"\xff\xff"))
