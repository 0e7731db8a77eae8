"""Answers that are made here, in the form the client understands: HTTP, or gRPC with its status in the head."""

from __future__ import annotations

from typing import Final
from urllib.parse import quote_from_bytes

from waypoint.http.message import Headers, RequestHead, first

_GRPC_OF_HTTP: Final = {400: 13, 401: 16, 403: 7, 404: 12, 429: 14, 502: 14, 503: 14, 504: 14}
"""gRPC's own table ("HTTP to gRPC status code mapping"); others are UNKNOWN."""

FLAG_OF_STATUS: Final = {408: "DPE", 504: "UT"}


def is_grpc(head: RequestHead) -> bool:
    """Whether the client speaks gRPC (not gRPC-Web, whose clients read HTTP statuses)."""
    kind = first(head.headers, b"content-type")
    return kind is not None and (
        kind == b"application/grpc" or kind.startswith((b"application/grpc+", b"application/grpc;"))
    )


def local_answer(grpc: bool, status: int, headers: Headers, body: bytes) -> tuple[int, Headers, bytes]:
    """Status, headers and body to send."""
    if grpc and (status < 200 or status >= 300):
        code = _GRPC_OF_HTTP.get(status, 2)
        message = quote_from_bytes(body, safe=b" !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~").encode()
        return (
            200,
            [(b"content-type", b"application/grpc"), (b"grpc-status", b"%d" % code), (b"grpc-message", message)],
            b"",
        )
    if body and first(headers, b"content-type") is None:
        headers = [*headers, (b"content-type", b"text/plain")]
    return status, [*headers, (b"content-length", b"%d" % len(body))], body
