"""Bounds of connections and calls: one value, the same for both ends."""

from __future__ import annotations

from dataclasses import dataclass

_KIB = 1024
_MIB = 1024 * _KIB


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpcLimits:
    """Sizes in bytes, times in seconds."""

    request_bytes: int = 4 * _MIB
    """Largest message a server takes; a handler may have a limit of its own."""
    response_bytes: int = 200 * _MIB
    """Largest message a client takes: a full xDS push of a large mesh."""
    connection_buffer_bytes: int = 64 * _MIB
    """Of one connection, all unfinished and untaken messages together; never less than one message."""
    header_bytes: int = 16 * _KIB
    """Of one header list, as HTTP/2 counts them. A service account token is some 1.5 KiB."""
    concurrent_calls: int = 100
    """Of one connection."""
    connections: int = 1024
    """That a server serves at a time; more are closed at once."""
    stream_window_bytes: int = 1 * _MIB
    """How much of a call may be under way towards us before we take it."""
    connection_window_bytes: int = 16 * _MIB
    """The same for the connection; more than a stream's, so that one untaken call does not stop the others."""
    send_buffer_bytes: int = 256 * _KIB
    """Written by calls but not yet by the socket, per connection."""
    connect_seconds: float = 10.0
    handshake_seconds: float = 10.0
    """TLS, then the first HTTP/2 settings: each may take that long."""
    keepalive_interval_seconds: float = 10.0
    """Between PINGs. Some servers (grpc-go by default) object to PINGs more frequent than they allow and say
    ``too_many_pings``: raise this for them."""
    keepalive_timeout_seconds: float = 20.0
    """Without a byte received after a PING the connection is dead."""
    write_seconds: float = 20.0
    """For one send buffer; a peer that does not read for so long is cut off."""
    unary_seconds: float = 60.0
    """A server's patience with a unary call that names no deadline of its own."""
    drain_seconds: float = 5.0
    """How long calls may go on after a server was told to drain."""
