"""The client that counts who answered what."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from ambimesh.apps.http_client import ask


class Answers(BaseHTTPRequestHandler):
    """As the echo does; ``/bare`` without a report."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = b"no report" if self.path == "/bare" else json.dumps({"pod": self.headers["x-pod"]}).encode()
        self.send_response(403 if self.path == "/bare" else 200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def port() -> Iterator[int]:
    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_answers_are_counted_by_status_and_pod(port: int) -> None:
    found = ask(f"http://127.0.0.1:{port}/", 3, {"x-pod": "echo-1"})
    assert (found["statuses"], found["pods"], found["failures"]) == ({200: 3}, {"echo-1": 3}, {})
    assert ask(f"http://127.0.0.1:{port}/bare", 2, {})["pods"] == {}


def test_failures_are_counted_by_kind(port: int) -> None:
    with HTTPServer(("127.0.0.1", 0), Answers) as gone:
        nobody = gone.server_port
    found = ask(f"http://127.0.0.1:{nobody}/", 2, {})
    assert (found["failures"], found["statuses"]) == ({"ConnectionRefusedError": 2}, {})
