"""``python3 -m ambimesh.apps.http_client URL``: asks again and again on one connection, counts who answered what."""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import time
from collections import Counter
from urllib.parse import urlsplit


def ask(url: str, count: int, headers: dict[str, str], method: str = "GET", *, new: bool = False) -> dict[str, object]:
    """Make ``count`` requests; what came back, by status and by the ``pod`` of an echo's report.

    ``new``: each on a connection of its own.
    """
    parts = urlsplit(url)
    assert parts.hostname is not None
    connection = http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=10)
    statuses: Counter[int] = Counter()
    pods: Counter[str] = Counter()
    failures: Counter[str] = Counter()
    started = time.perf_counter()
    for _ in range(count):
        try:
            connection.request(method, parts.path or "/", headers=headers)
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException) as error:
            failures[type(error).__name__] += 1
            connection.close()
            continue
        statuses[answer.status] += 1
        if new:
            connection.close()
        try:
            pods[str(json.loads(body)["pod"])] += 1
        except (ValueError, KeyError, TypeError):
            pass  # not the echo's report: an answer of the mesh's own
    seconds = time.perf_counter() - started
    connection.close()
    return {"statuses": statuses, "pods": pods, "failures": failures, "seconds": round(seconds, 3)}


def main() -> None:
    """Ask, and print one line of JSON."""
    parser = argparse.ArgumentParser(prog="http_client")
    parser.add_argument("url")
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--method", default="GET")
    parser.add_argument("--header", action="append", default=[], metavar="NAME: VALUE")
    parser.add_argument("--new", action="store_true", help="a connection for each request")
    arguments = parser.parse_args()
    headers = {name.strip(): value.strip() for name, _, value in (each.partition(":") for each in arguments.header)}
    json.dump(ask(arguments.url, arguments.count, headers, arguments.method, new=arguments.new), sys.stdout)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
