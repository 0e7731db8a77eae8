"""``python3 -m ambimesh.apps.http_echo --port 8080``: answers every request with what it saw of it, as JSON.

Paths that begin with ``/flaky`` are answered 503 every second time, those with ``/slow`` after two seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from ambimesh.apps.listening import make_dual_stack, peer_text

_MAX_BODY = 1 << 20
_SLOW_SECONDS = 2.0


_seen: Counter[str] = Counter()
"""Requests by path, without the query."""
_counting = threading.Lock()


def count(path: str) -> int:
    """Count a request; how many of its path there were before it."""
    with _counting:
        before = _seen[path]
        if before or len(_seen) < 1000:
            _seen[path] += 1
        return before


class EchoHandler(BaseHTTPRequestHandler):
    """Tells the client who it is to this server, and what it sent."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes: the second would wait for an acknowledgement
    timeout = 60

    def answer(self) -> None:
        """Read the request's body and report."""
        length = int(self.headers.get("Content-Length") or 0)
        if not 0 <= length <= _MAX_BODY:
            self.send_error(413)
            return
        body = self.rfile.read(length)
        before = count(self.path.partition("?")[0])
        if self.path.startswith("/slow"):
            time.sleep(_SLOW_SECONDS)
        headers: dict[str, str] = {}
        for name, value in self.headers.items():
            headers[name] = f"{headers[name]},{value}" if name in headers else value
        report = {
            "pod": os.environ.get("HOSTNAME", socket.gethostname()),
            "peer": peer_text(self.client_address),
            "local": peer_text(self.connection.getsockname()),
            "method": self.command,
            "path": self.path,
            "before": before,
            "headers": headers,
            "body": body.decode(errors="replace"),
        }
        content = json.dumps(report, indent=2).encode() + b"\n"
        self.send_response(503 if self.path.startswith("/flaky") and before % 2 == 0 else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_DELETE = answer  # noqa: N815 -- the names the base class looks for


class EchoServer(ThreadingHTTPServer):
    """A thread per connection, both address families on one socket."""

    address_family = socket.AF_INET6
    daemon_threads = True
    request_queue_size = 256

    def server_bind(self) -> None:
        """Bind for both families."""
        make_dual_stack(self.socket)
        super().server_bind()


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8080)
    arguments = parser.parse_args()
    EchoServer(("::", arguments.port), EchoHandler).serve_forever()


if __name__ == "__main__":
    main()
