"""A client for pods of tests: asks a URL steadily and counts what failed.

It prints its totals as JSON every second and, once the file ``/tmp/stop`` is there or its time is up, a last time with
``"done": true``. Each kind of failure is told once. A request that fails is not tried again: each counts. Connections
are used for some requests and then made anew, so both new and long ones are under load.
"""

from __future__ import annotations

import argparse
import http.client
import json
import time
import urllib.parse
from pathlib import Path

STOP = Path("/tmp/stop")
_PAUSE_SECONDS = 0.02
_REQUEST_SECONDS = 10.0
_REQUESTS_OF_A_CONNECTION = 20
_REPORT_SECONDS = 1.0


class Load:
    """The requests so far."""

    def __init__(self, url: str, requests_of_a_connection: int = _REQUESTS_OF_A_CONNECTION) -> None:
        self._requests_of_a_connection = requests_of_a_connection
        parts = urllib.parse.urlsplit(url)
        assert parts.hostname is not None
        self._host, self._port, self._path = parts.hostname, parts.port or 80, parts.path or "/"
        self._connection: http.client.HTTPConnection | None = None
        self._used = 0
        self.requests = 0
        self.failed = 0
        self.answered_by: dict[str, int] = {}
        self.failures: dict[str, int] = {}

    def ask(self) -> None:
        """Make one request."""
        self.requests += 1
        try:
            if self._connection is None:
                self._connection = http.client.HTTPConnection(self._host, self._port, timeout=_REQUEST_SECONDS)
                self._used = 0
            self._connection.request("GET", self._path)
            answer = self._connection.getresponse()
            body = answer.read()
            if answer.status != http.HTTPStatus.OK:
                self._fail(f"status {answer.status}")
                return
            pod = json.loads(body)["pod"]
            self.answered_by[pod] = self.answered_by.get(pod, 0) + 1
            self._used += 1
            if answer.will_close or self._used == self._requests_of_a_connection:
                self.close()
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._fail(f"{type(error).__name__}: {error}")

    def _fail(self, why: str) -> None:
        self.failed += 1
        self.failures[why] = self.failures.get(why, 0) + 1
        self.close()

    def close(self) -> None:
        """Close its connection, if it has one; the next request makes another."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def report(self, *, done: bool) -> str:
        """The totals."""
        return json.dumps(
            {
                "requests": self.requests,
                "failed": self.failed,
                "answered_by": self.answered_by,
                "failures": self.failures,
                "done": done,
            }
        )


def main() -> None:
    """Ask until told to stop."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--of-a-connection", type=int, default=_REQUESTS_OF_A_CONNECTION, help="requests of each")
    arguments = parser.parse_args()
    load = Load(arguments.url, arguments.of_a_connection)
    end = time.monotonic() + arguments.seconds
    report = time.monotonic()
    while not STOP.exists() and time.monotonic() < end:
        load.ask()
        if time.monotonic() - report > _REPORT_SECONDS:
            report = time.monotonic()
            print(load.report(done=False), flush=True)
        time.sleep(_PAUSE_SECONDS)
    print(load.report(done=True), flush=True)
    # The pod stays until the test has read this.
    while True:
        time.sleep(_REQUEST_SECONDS)


if __name__ == "__main__":
    main()
