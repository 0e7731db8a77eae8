"""What the HBONE machine and its callers agree on: roles, settings, streams, owners, and the peer's violations."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final, Protocol

from mesh.errors import ConfigurationError, ProtocolViolation
from mesh.hbone.codec import ErrorCode

DEFAULT_WINDOW: Final = 65535
MAX_WINDOW: Final = 2**31 - 1
MAX_STREAM_ID: Final = 2**31 - 1


class Http2Violation(ProtocolViolation):
    """The peer broke HTTP/2; ``code`` goes into our GOAWAY."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(f"{message} ({code.name})")
        self.code = code


class Role(enum.Enum):
    """Which end this is."""

    CLIENT = "client"
    SERVER = "server"


@dataclass(frozen=True, slots=True, kw_only=True)
class HboneSettings:
    """What this end allows its peer; sizes in bytes."""

    initial_stream_window: int = 256 * 1024
    """What a stream may pile up before its application has taken anything."""
    max_stream_window: int = 4 * 1024 * 1024
    """What a stream's window may grow to while its application keeps up."""
    connection_window: int = 16 * 1024 * 1024
    max_frame: int = 1024 * 1024
    max_header_list: int = 64 * 1024
    max_streams: int = 200

    def __post_init__(self) -> None:
        windows = (self.initial_stream_window, self.max_stream_window, self.connection_window)
        if not all(DEFAULT_WINDOW < window <= MAX_WINDOW for window in windows):
            # The peer starts with that much before it has read our SETTINGS, and it cannot be taken back.
            raise ConfigurationError(f"HBONE windows must be above {DEFAULT_WINDOW} and below 2 GiB, not {windows}")
        if not 16384 <= self.max_frame < 2**24:
            raise ConfigurationError(f"HBONE frames are limited to 16 KiB at least and 16 MiB, not {self.max_frame}")


class StreamOwner(Protocol):
    """Who is told about one stream. Calls come from inside :meth:`HboneMachine.receive`."""

    def stream_answered(self, headers: list[tuple[str, str]]) -> None:
        """The response's header list (client only)."""

    def stream_data(self, payload: memoryview) -> None:
        """Payload, valid only during the call. Answer with :meth:`HboneMachine.consumed` when the application took
        it.
        """

    def stream_ended(self) -> None:
        """The peer sends no more (half close)."""

    def stream_reset(self, code: int) -> None:
        """The peer gave the stream up; it is gone."""

    def stream_writable(self) -> None:
        """A window that was empty has opened."""


class ConnectionOwner(Protocol):
    """Who is told about the connection."""

    def stream_requested(self, stream: HboneStream, headers: list[tuple[str, str]]) -> None:
        """A request (server only): set ``stream.owner`` before returning, or reset the stream."""

    def going_away(self, last_stream: int, code: int) -> None:
        """The peer takes no new streams."""

    def ping_answered(self, payload: bytes) -> None:
        """Our PING came back."""

    def output_ready(self) -> None:
        """Something was put into ``outgoing``."""

    def output_can_wait(self) -> None:
        """Something was put into ``outgoing`` that nobody waits for: it may go with whatever is sent next, soon."""


class HboneStream:
    """One CONNECT stream. Fields are the machine's, except ``owner``."""

    __slots__ = (
        "answered",
        "backlog",
        "credit",
        "id",
        "local_ended",
        "owner",
        "receive_window",
        "remote_ended",
        "send_window",
        "window",
    )

    def __init__(self, stream_id: int, owner: StreamOwner | None, send_window: int, window: int) -> None:
        self.id = stream_id
        self.owner = owner
        self.send_window = send_window
        self.window = window
        """The size we mean to keep offering."""
        self.receive_window = window
        """What the peer may still send."""
        self.credit = 0
        """Consumed, not yet given back."""
        self.backlog = 0
        """Received, not yet consumed."""
        self.local_ended = False
        self.remote_ended = False
        self.answered = False
