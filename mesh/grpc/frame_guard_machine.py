"""A look at every inbound frame's header before h2 sees it.

h2 leaves three things to its user, and this is where they are done:

- **GOAWAY.** h2 closes its state machine on the first GOAWAY, but a graceful shutdown lets older streams finish, and
  may send GOAWAY twice. So GOAWAY is taken out of the byte stream and reported; h2 never learns of it.
- **Size.** h2 checks a frame's length once the frame is complete. The header already tells: an overlong one is refused
  before its body is buffered.
- **Floods.** PING, SETTINGS, RST_STREAM and the like cost the peer a few bytes and us an answer or a cancelled call
  ("rapid reset"). Each class draws on a budget that time refills.
"""

from __future__ import annotations

from dataclasses import dataclass

from mesh.errors import ProtocolViolation

_DATA, _HEADERS, _RST_STREAM, _PUSH_PROMISE, _GOAWAY, _WINDOW_UPDATE, _CONTINUATION = 0x0, 0x1, 0x3, 0x5, 0x7, 0x8, 0x9
_END_STREAM, _END_HEADERS = 0x1, 0x4
_HEADER_BYTES = 9
_PREFACE_BYTES = 24
_GOAWAY_BYTES = 4096


@dataclass(frozen=True, slots=True)
class GoAway:
    """The peer takes no new streams; those up to ``last_stream_id`` go on."""

    last_stream_id: int
    error_code: int
    debug: str


class Budget:
    """So many at once, so many per second over time."""

    def __init__(self, burst: int, per_second: float) -> None:
        self._burst = float(burst)
        self._per_second = per_second
        self._left = float(burst)
        self._at: float | None = None

    def spend(self, now: float) -> bool:
        """Take one; whether there was one left."""
        if self._at is not None:
            self._left = min(self._burst, self._left + (now - self._at) * self._per_second)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class FrameGuard:
    """One connection's inbound frames."""

    def __init__(self, *, max_frame_bytes: int, expect_preface: bool) -> None:
        self._max_frame_bytes = max_frame_bytes
        self._preface_left = _PREFACE_BYTES if expect_preface else 0
        self._header = bytearray()
        self._body_left = 0
        self._in_header_block = False
        self._goaway: bytearray | None = None
        self._resets = Budget(500, 100)
        self._control = Budget(1000, 200)

    def pass_on(self, data: bytes, now: float) -> tuple[bytes, list[GoAway]]:
        """Split what arrived into what h2 shall see and the GOAWAYs.

        Args:
            data: any piece of the connection.
            now: seconds of a monotonic clock.

        Raises:
            ProtocolViolation: an overlong frame or a flood; the connection must end.
        """
        passed = bytearray()
        goaways: list[GoAway] = []
        position = min(self._preface_left, len(data))
        self._preface_left -= position
        passed += data[:position]
        while position < len(data):
            if self._body_left:
                take = min(self._body_left, len(data) - position)
                target = passed if self._goaway is None else self._goaway
                target += data[position : position + take]
                position += take
                self._body_left -= take
            else:
                take = min(_HEADER_BYTES - len(self._header), len(data) - position)
                self._header += data[position : position + take]
                position += take
                if len(self._header) < _HEADER_BYTES:
                    break
                self._begin_frame(now)
                if self._goaway is None:
                    passed += self._header
                self._header.clear()
            if self._goaway is not None and not self._body_left:
                goaways.append(_read_goaway(bytes(self._goaway)))
                self._goaway = None
        return bytes(passed), goaways

    def _begin_frame(self, now: float) -> None:
        length = int.from_bytes(self._header[:3], "big")
        kind, flags = self._header[3], self._header[4]
        if length > self._max_frame_bytes:
            raise ProtocolViolation(f"an HTTP/2 frame of {length} bytes, the limit is {self._max_frame_bytes}")
        self._body_left = length
        if kind == _RST_STREAM and not self._resets.spend(now):
            raise ProtocolViolation("the peer resets streams faster than any honest one does")
        harmless = kind in (_HEADERS, _WINDOW_UPDATE) or (kind == _DATA and (length or flags & _END_STREAM))
        if not harmless and not self._control.spend(now):
            raise ProtocolViolation("a flood of HTTP/2 control frames")
        if kind == _GOAWAY and not self._in_header_block:
            # Inside a header block any other frame is an error, which h2 shall find.
            if length > _GOAWAY_BYTES:
                raise ProtocolViolation(f"a GOAWAY of {length} bytes")
            self._goaway = bytearray()
        if kind in (_HEADERS, _PUSH_PROMISE, _CONTINUATION):
            self._in_header_block = not flags & _END_HEADERS


def _read_goaway(body: bytes) -> GoAway:
    if len(body) < 8:
        raise ProtocolViolation("a GOAWAY frame without its last stream and error code")
    last_stream_id = int.from_bytes(body[:4], "big") & 0x7FFFFFFF
    debug = body[8:264].decode("utf-8", "replace")
    return GoAway(last_stream_id, int.from_bytes(body[4:8], "big"), debug)


def goaway_frame(last_stream_id: int, error_code: int, debug: bytes = b"") -> bytes:
    """A GOAWAY to send; made here for the same reason that inbound ones are taken out."""
    body = last_stream_id.to_bytes(4, "big") + error_code.to_bytes(4, "big") + debug
    return len(body).to_bytes(3, "big") + bytes([_GOAWAY, 0]) + bytes(4) + body
