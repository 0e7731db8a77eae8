"""The Redis protocol, version 2 (RESP2): commands out, replies in; as little of it as a shared counter needs.

Written out rather than taken from a client library: those bring connection pools, threads or an event loop of their
own, and a reply is five kinds of line. A reply's size and depth are bounded.
"""

from __future__ import annotations

from typing import Final, TypeAlias

from mesh.errors import InvalidMessage

MAX_REPLY_BYTES: Final = 64 << 10
MAX_DEPTH: Final = 4

Reply: TypeAlias = "bytes | int | ReplyError | list[Reply] | None"


class ReplyError:
    """The server refuses a command; its first word tells the kind."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return f"ReplyError({self.text!r})"


def encode_command(*parts: bytes) -> bytes:
    """A command with its arguments, as an array of bulk strings."""
    return b"*%d\r\n" % len(parts) + b"".join([b"$%d\r\n%b\r\n" % (len(part), part) for part in parts])


class ReplyReader:
    """Bytes in, replies out."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def receive(self, data: bytes) -> list[Reply]:
        """Take bytes from the server; the replies that are complete with them.

        Raises:
            InvalidMessage: no reply, or one too large.
        """
        self._buffer += data
        replies: list[Reply] = []
        while self._buffer:
            found = _reply(self._buffer, 0, 0)
            if found is None:
                if len(self._buffer) > MAX_REPLY_BYTES:
                    raise InvalidMessage(f"a reply of the store has more than {MAX_REPLY_BYTES} bytes")
                break
            reply, end = found
            del self._buffer[:end]
            replies.append(reply)
        return replies


def _reply(buffer: bytearray, start: int, depth: int) -> tuple[Reply, int] | None:
    end = buffer.find(b"\r\n", start)
    if end < 0:
        return None
    kind, line, after = buffer[start : start + 1], bytes(buffer[start + 1 : end]), end + 2
    if kind == b"+":
        return line, after
    if kind == b"-":
        return ReplyError(line.decode(errors="replace")), after
    if kind == b":":
        return _number(line), after
    if kind == b"$":
        length = _number(line)
        if length == -1:
            return (None, after)
        if not 0 <= length <= MAX_REPLY_BYTES:
            raise InvalidMessage(f"the store announces a text of {length} bytes")
        if len(buffer) < after + length + 2:
            return None
        if buffer[after + length : after + length + 2] != b"\r\n":
            raise InvalidMessage("a text of the store does not end where it said")
        return bytes(buffer[after : after + length]), after + length + 2
    if kind == b"*":
        return _array(buffer, after, _number(line), depth)
    raise InvalidMessage(f"{bytes(kind)!r} begins no reply: is this a Redis server?")


def _array(buffer: bytearray, start: int, count: int, depth: int) -> tuple[Reply, int] | None:
    if count == -1:
        return (None, start)
    if not 0 <= count <= MAX_REPLY_BYTES or depth >= MAX_DEPTH:
        raise InvalidMessage("a list of the store is too long or too deep")
    items: list[Reply] = []
    for _ in range(count):
        found = _reply(buffer, start, depth + 1)
        if found is None:
            return None
        item, start = found
        items.append(item)
    return items, start


def _number(line: bytes) -> int:
    digits = line.removeprefix(b"-")
    if not digits.isdigit() or len(digits) > 18:
        raise InvalidMessage(f"{line[:32]!r} is no number")
    return int(line)

