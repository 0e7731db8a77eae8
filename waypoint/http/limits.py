"""What a peer may make us hold, and for how long."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLimits:
    """Bounds of one HTTP connection."""

    head_bytes: int = 64 * 1024
    """Of a request or response line with its headers, and of trailers."""
    headers: int = 100
    target_bytes: int = 32 * 1024
    """Of the request's target; a longer one is answered 414."""
    chunk_overhead_bytes: int = 16 * 1024
    """What chunk extensions and tiny chunks may add to a body beyond twice its size."""
    head_seconds: float = 15.0
    """From the first byte of a head to its last; then 408."""
    detect_seconds: float = 1.0
    """How long a client may be silent on a port whose protocol is not known, before it is taken to wait for the other
    side to speak first."""
    idle_seconds: float = 3600.0
    """A connection without a request is closed after this time."""
    stall_seconds: float = 300.0
    """A request in which nothing moves is ended after this time, to within a factor of two."""
    linger_seconds: float = 1.0
    """How long input is still read and dropped on a connection that was ended from here: closing it at once would
    take the answer back from the client."""
    farewell_seconds: float = 3.0
    """While the waypoint drains: how long a connection that is kept alive may still bring a request. Its answer says
    that it was the last one; closing at once would meet requests that are on their way."""
    streams: int = 100
    """HTTP/2: requests at a time on one connection."""
