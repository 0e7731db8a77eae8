"""Counting the messages in a body of gRPC: five bytes (flags, length) stand before each, wherever data is cut."""

from __future__ import annotations

from typing import Final

from waypoint.wire.contract import Buffer

_PREFIX: Final = 5


class MessageCount:
    """One direction of one call."""

    __slots__ = ("_left", "_prefix", "count")

    def __init__(self) -> None:
        self.count = 0
        """Messages whose prefix has come."""
        self._prefix = bytearray()
        self._left = 0
        """Bytes of the message under way that are still to come."""

    def take(self, data: Buffer) -> None:
        """The next bytes of the body."""
        position, end = 0, len(data)
        while position < end:
            if self._left:
                passed = min(self._left, end - position)
                self._left -= passed
                position += passed
                continue
            missing = _PREFIX - len(self._prefix)
            self._prefix += data[position : position + missing]
            position += missing
            if len(self._prefix) == _PREFIX:
                self.count += 1
                self._left = int.from_bytes(self._prefix[1:], "big")
                self._prefix.clear()


class GrpcMessages:
    """Both directions."""

    __slots__ = ("request", "response")

    def __init__(self) -> None:
        self.request = MessageCount()
        self.response = MessageCount()
