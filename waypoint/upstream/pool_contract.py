"""What a pool is to those who use it."""

from __future__ import annotations

from dataclasses import dataclass

from waypoint.http.contract import Call, Failure, ResponseSink


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolLimits:
    """Bounds of what goes to one endpoint."""

    connections: int = 1024
    pending: int = 1024
    """Requests that wait for a connection."""
    requests_per_connection: int = 0
    """0: any number."""
    idle_seconds: float = 3600.0
    connect_seconds: float = 10.0


class EndpointPool:
    """The connections to one endpoint, of one version of HTTP."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name
        """The endpoint's address, for logs."""

    @property
    def active(self) -> int:
        """Requests under way or waiting, for balancing."""
        raise NotImplementedError

    @property
    def idle(self) -> int:
        """Connections without a request."""
        raise NotImplementedError

    def open(self, sink: ResponseSink, *, fresh: bool = False) -> Call | Failure | None:
        """Take a connection for one request.

        Args:
            sink: who is told of the answer.
            fresh: not one that was kept alive, where the version has such.

        Returns:
            the call; or why there is none; or None, and then ``sink.call_ready`` or ``sink.call_failed`` is told,
            maybe before this returns.
        """
        raise NotImplementedError

    def forget(self, sink: ResponseSink) -> None:
        """The one who waits for a connection does not want it any more."""
        raise NotImplementedError

    def drain(self) -> None:
        """Close what is idle, and the rest as its requests end."""
        raise NotImplementedError


class Unavailable:
    """No endpoint can be had."""

    __slots__ = ("flag", "status", "text")

    def __init__(self, flag: str, text: str, status: int = 503) -> None:
        """``flag``: ``UH`` (none is healthy), ``UO`` (too many requests), ``NC`` (no such service)."""
        self.flag = flag
        self.text = text
        self.status = status
