"""``python3 asker.py``: makes the requests it is told to, one JSON object per line, and prints what came back.

A request: ``address``, ``port``, ``path``, ``method``, ``host``, ``headers`` (pairs), ``count`` on one connection; or
``grpc: true``, with ``path`` the full method. An answer: ``status``, ``headers`` (pairs), ``body``; or ``error``.
"""

from __future__ import annotations

import http.client
import json
import sys
from typing import Any

import grpc


def ask(request: dict[str, Any]) -> list[dict[str, Any]]:
    """Make one request, or several."""
    if request.get("grpc"):
        return ask_grpc(request)
    connection = http.client.HTTPConnection(request["address"], request["port"], timeout=15)
    answers: list[dict[str, Any]] = []
    for _ in range(request.get("count", 1)):
        try:
            connection.putrequest(request["method"], request["path"], skip_host=True, skip_accept_encoding=True)
            connection.putheader("Host", request["host"])
            for name, value in request["headers"]:
                connection.putheader(name, value)
            connection.endheaders()
            answer = connection.getresponse()
            body = answer.read().decode(errors="replace")
            answers.append({"status": answer.status, "headers": answer.getheaders(), "body": body})
        except (OSError, http.client.HTTPException) as error:
            answers.append({"error": repr(error)})
            connection.close()
    connection.close()
    return answers


def ask_grpc(request: dict[str, Any]) -> list[dict[str, Any]]:
    """Make unary calls."""
    answers: list[dict[str, Any]] = []
    with grpc.insecure_channel(
        f"{request['address']}:{request['port']}", options=[("grpc.default_authority", request["host"])]
    ) as channel:
        for _ in range(request.get("count", 1)):
            call = channel.unary_unary(request["path"])
            try:
                body, done = call.with_call(b"", timeout=5, metadata=[tuple(pair) for pair in request["headers"]])
                metadata = [list(pair) for pair in done.initial_metadata() or ()]
                answers.append({"status": 0, "headers": metadata, "body": body.decode()})
            except grpc.RpcError as error:
                answers.append({"status": error.code().value[0], "headers": [], "body": error.details()})
    return answers


if __name__ == "__main__":
    for line in sys.stdin:
        sys.stdout.write(json.dumps(ask(json.loads(line))) + "\n")
        sys.stdout.flush()
