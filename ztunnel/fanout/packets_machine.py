"""Messages as packets: one that is longer than a packet is cut, and put together again.

A packet is a byte that says whether more follow, and a piece of a message. A descriptor travels with the last packet of
its message.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from mesh.errors import InvalidMessage
from ztunnel.fanout.messages_codec import MAX_MESSAGE_BYTES

PACKET_BYTES: Final = 60 << 10
"""Most that one packet holds: several fit a socket's buffer of any size that the kernel gives by default."""

_LAST: Final = b"\x00"
_MORE: Final = b"\x01"


def packets(message: bytes) -> Iterator[bytes]:
    """The packets of one message, at least one."""
    room = PACKET_BYTES - 1
    last = max(0, (len(message) - 1) // room * room)
    for start in range(0, last, room):
        yield _MORE + message[start : start + room]
    yield _LAST + message[last:]


class Assembler:
    """Puts messages together."""

    def __init__(self, limit: int = MAX_MESSAGE_BYTES) -> None:
        self._limit = limit
        self._pieces = bytearray()

    def receive(self, packet: bytes) -> bytes | bytearray | None:
        """One packet. A message if it was the last of it.

        Raises:
            InvalidMessage: no packet, or a message longer than the limit; nothing after it can be understood.
        """
        if not packet or packet[:1] not in (_LAST, _MORE):
            raise InvalidMessage("a packet that begins with neither of the two marks")
        if len(self._pieces) + len(packet) - 1 > self._limit:
            raise InvalidMessage(f"a message of more than {self._limit} bytes")
        last = packet[:1] == _LAST
        if last and not self._pieces:
            return packet[1:]
        self._pieces += memoryview(packet)[1:]
        if not last:
            return None
        message, self._pieces = self._pieces, bytearray()
        return message
