"""Response flags: why a request was answered as it was, in the short names that Envoy's access log made common.

Several may be true of one request, so they are bits of an integer: zero for almost every request, and set with ``|=``.
Plain integers and not an ``enum.IntFlag``, whose operators cost a microsecond each.
"""

from __future__ import annotations

from functools import lru_cache
from types import MappingProxyType
from typing import Final

NO_HEALTHY_UPSTREAM: Final = 1 << 0
"""``UH``: the service has no endpoint that may be used."""
UPSTREAM_CONNECTION_FAILURE: Final = 1 << 1
"""``UF``: no connection to the endpoint could be made."""
UPSTREAM_OVERFLOW: Final = 1 << 2
"""``UO``: a limit of the connection pool was reached (circuit breaking)."""
NO_ROUTE: Final = 1 << 3
"""``NR``: no route matches."""
RETRY_LIMIT_EXCEEDED: Final = 1 << 4
"""``URX``: the last permitted attempt failed too."""
NO_CLUSTER: Final = 1 << 5
"""``NC``: the route's backend is not known, or may not be used."""
DURATION_TIMEOUT: Final = 1 << 6
"""``DT``: the request or connection was alive longer than is permitted."""
DOWNSTREAM_CONNECTION_TERMINATION: Final = 1 << 7
"""``DC``: the client went away."""
UPSTREAM_REQUEST_TIMEOUT: Final = 1 << 8
"""``UT``: no answer in time."""
LOCAL_RESET: Final = 1 << 9
"""``LR``: this proxy reset the stream."""
UPSTREAM_REMOTE_RESET: Final = 1 << 10
"""``UR``: the endpoint reset the stream."""
UPSTREAM_CONNECTION_TERMINATION: Final = 1 << 11
"""``UC``: the endpoint closed the connection."""
DELAY_INJECTED: Final = 1 << 12
"""``DI``: a fault of the route delayed the request."""
FAULT_INJECTED: Final = 1 << 13
"""``FI``: a fault of the route answered it."""
RATE_LIMITED: Final = 1 << 14
"""``RL``: a rate limit answered it with 429."""
UNAUTHORIZED_EXTERNAL_SERVICE: Final = 1 << 15
"""``UAEX``: the external authorizer said no."""
RATE_LIMIT_SERVICE_ERROR: Final = 1 << 16
"""``RLSE``: the store of shared limits did not answer."""
STREAM_IDLE_TIMEOUT: Final = 1 << 17
"""``SI``: nothing moved for too long."""
DOWNSTREAM_PROTOCOL_ERROR: Final = 1 << 18
"""``DPE``: the client broke the protocol."""
UPSTREAM_PROTOCOL_ERROR: Final = 1 << 19
"""``UPE``: the endpoint broke the protocol."""
UPSTREAM_MAX_STREAM_DURATION: Final = 1 << 20
"""``UMSDR``: one attempt lasted longer than is permitted."""
OVERLOAD: Final = 1 << 21
"""``OM``: this proxy protects itself."""
LOCAL_SHUTDOWN: Final = 1 << 22
"""``LH``: the endpoint failed its health checks while the request was under way."""

NAMES: Final = MappingProxyType(
    {
        NO_HEALTHY_UPSTREAM: "UH",
        UPSTREAM_CONNECTION_FAILURE: "UF",
        UPSTREAM_OVERFLOW: "UO",
        NO_ROUTE: "NR",
        RETRY_LIMIT_EXCEEDED: "URX",
        NO_CLUSTER: "NC",
        DURATION_TIMEOUT: "DT",
        DOWNSTREAM_CONNECTION_TERMINATION: "DC",
        UPSTREAM_REQUEST_TIMEOUT: "UT",
        LOCAL_RESET: "LR",
        UPSTREAM_REMOTE_RESET: "UR",
        UPSTREAM_CONNECTION_TERMINATION: "UC",
        DELAY_INJECTED: "DI",
        FAULT_INJECTED: "FI",
        RATE_LIMITED: "RL",
        UNAUTHORIZED_EXTERNAL_SERVICE: "UAEX",
        RATE_LIMIT_SERVICE_ERROR: "RLSE",
        STREAM_IDLE_TIMEOUT: "SI",
        DOWNSTREAM_PROTOCOL_ERROR: "DPE",
        UPSTREAM_PROTOCOL_ERROR: "UPE",
        UPSTREAM_MAX_STREAM_DURATION: "UMSDR",
        OVERLOAD: "OM",
        LOCAL_SHUTDOWN: "LH",
    }
)


@lru_cache(maxsize=1024)
def flags_text(flags: int) -> str:
    """``UF,URX`` for several, ``-`` for none."""
    return ",".join(name for bit, name in NAMES.items() if flags & bit) or "-"


_BITS: Final = MappingProxyType({name: bit for bit, name in NAMES.items()})


@lru_cache(maxsize=1024)
def flag_bits(text: str) -> int:
    """The other way round; names that are not known are left out."""
    bits = 0
    for name in text.split(","):
        bits |= _BITS.get(name, 0)
    return bits
