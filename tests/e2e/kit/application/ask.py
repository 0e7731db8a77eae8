"""A client for pods of tests: asks a URL some times, each time on a connection of its own, and prints what came back.

JSON, a list: of each request the status, the answer's body (decoded where it is JSON), or why there was none.
"""

from __future__ import annotations

import argparse
import http.client
import json
import urllib.parse
from collections.abc import Mapping
from typing import Any

_SECONDS = 10.0


def ask(url: str, headers: Mapping[str, str]) -> dict[str, Any]:
    """One request: ``status``, ``body`` and ``error``."""
    parts = urllib.parse.urlsplit(url)
    assert parts.hostname is not None
    connection = http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=_SECONDS)
    try:
        connection.request("GET", parts.path or "/", headers=dict(headers))
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        return {"status": 0, "body": None, "error": f"{type(error).__name__}: {error}"}
    finally:
        connection.close()
    try:
        body = json.loads(text)
    except ValueError:
        body = text
    return {"status": answer.status, "body": body, "error": ""}


def main() -> None:
    """Ask as the arguments say."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--times", type=int, default=1)
    parser.add_argument("--header", action="append", default=[], metavar="NAME=VALUE")
    arguments = parser.parse_args()
    headers = dict(each.split("=", 1) for each in arguments.header)
    print(json.dumps([ask(arguments.url, headers) for _ in range(arguments.times)]))


if __name__ == "__main__":
    main()
