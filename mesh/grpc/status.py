"""How a call ends."""

from __future__ import annotations

import enum

from mesh.errors import Fault, MeshError


class StatusCode(enum.IntEnum):
    """The codes of the gRPC protocol."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class GrpcError(MeshError):
    """A call ended with a status other than OK, said by the other side or found here."""

    fault = Fault.PEER

    def __init__(self, status: StatusCode, message: str) -> None:
        super().__init__(f"{status.name}: {message}")
        self.status = status
        self.message = message


_FROM_HTTP = {
    400: StatusCode.INTERNAL,
    401: StatusCode.UNAUTHENTICATED,
    403: StatusCode.PERMISSION_DENIED,
    404: StatusCode.UNIMPLEMENTED,
    429: StatusCode.UNAVAILABLE,
    502: StatusCode.UNAVAILABLE,
    503: StatusCode.UNAVAILABLE,
    504: StatusCode.UNAVAILABLE,
}

# HTTP/2 error codes (RFC 9113 section 7) of a stream the other side reset.
_FROM_RESET = {
    0x7: StatusCode.UNAVAILABLE,
    0x8: StatusCode.CANCELLED,
    0xB: StatusCode.RESOURCE_EXHAUSTED,
    0xC: StatusCode.PERMISSION_DENIED,
}


def status_of_http(http_status: int) -> StatusCode:
    """What an HTTP status means when the answer is not gRPC at all, as from a proxy in between."""
    return _FROM_HTTP.get(http_status, StatusCode.UNKNOWN)


def status_of_reset(error_code: int) -> StatusCode:
    """What an HTTP/2 stream error means for the call."""
    return _FROM_RESET.get(error_code, StatusCode.INTERNAL)


def status_of_text(text: str) -> StatusCode:
    """The ``grpc-status`` trailer; what is not a known code reads as UNKNOWN."""
    try:
        return StatusCode(int(text[:4]))
    except ValueError:
        return StatusCode.UNKNOWN
