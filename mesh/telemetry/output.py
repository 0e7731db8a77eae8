"""Where log lines leave the process: one buffer in front of one file descriptor.

Theory of operation. Writing a line costs a system call, some microseconds; a proxy that closes ten thousand connections
a second cannot pay that for each. So lines gather in memory and leave together: when 64 KiB have gathered, when the
flusher task wakes (every 100 ms), when a process log line is written, and at exit. Process logs and access records
share the buffer, so what is read keeps the order in which it was written.

The reader of our standard output may stall (a container runtime whose disk is full). It must not stall the data plane:
a pipe is only written to while poll() promises room for ``PIPE_BUF`` bytes, and in pieces of at most that size, which
therefore do not mix with another writer's lines. Another writer (the workers of one ztunnel share their output) may
take that room in between, so the write itself is told not to wait, where the kernel knows how. What finds no room waits
in the buffer, up to ``MAX_WAITING`` bytes; beyond that new lines are dropped, counted, and the count is said as soon as
there is room.
"""

from __future__ import annotations

import atexit
import errno
import os
import select
import stat
from typing import Final, Never

import trio

FLUSH_BYTES: Final = 64 << 10
FLUSH_SECONDS: Final = 0.1
MAX_WAITING: Final = 4 << 20
_EXIT_POLL_MS: Final = 1000


class LineOutput:
    """Whole lines, each ending in a newline, to a file descriptor that it does not own."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lines: list[bytes] = []
        self._size = 0
        self._threshold = FLUSH_BYTES
        self.dropped = 0
        """Lines lost since the last notice, because the reader stalls."""
        mode = os.fstat(fd).st_mode
        self._piecewise = not (stat.S_ISREG(mode) or stat.S_ISBLK(mode))
        self._without_waiting = self._piecewise
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)

    def write(self, line: bytes) -> None:
        """Add a line; it leaves within ``FLUSH_SECONDS`` while ``run`` runs."""
        size = self._size + len(line)
        if size > MAX_WAITING:
            self.dropped += 1
            return
        self._lines.append(line)
        self._size = size
        if size >= self._threshold:
            self.flush()

    def flush(self) -> None:
        """Write as much as the descriptor takes without blocking."""
        self._drain(0)

    def close(self) -> None:
        """Write the rest, waiting for a slow reader a second at most per piece; a stalled one loses its lines."""
        self._drain(_EXIT_POLL_MS)

    async def run(self) -> Never:
        """Flush at intervals until cancelled, then once more."""
        try:
            while True:
                await trio.sleep(FLUSH_SECONDS)
                if self._lines:
                    self.flush()
        finally:
            self.flush()

    def _drain(self, wait_ms: int) -> None:
        lines, self._lines = self._lines, []
        if self.dropped:
            lines.append(b"log lines dropped, the reader of this output stalls: %d\n" % self.dropped)
            self.dropped = 0
        rest = self._put(b"".join(lines), wait_ms) if lines else b""
        # Room is found by trial: while the reader stalls, do not try again at every line.
        self._lines = [rest] if rest else []
        self._size = len(rest)
        self._threshold = len(rest) + FLUSH_BYTES

    def _put(self, data: bytes, wait_ms: int) -> bytes:
        """Write and return what found no room."""
        start = 0
        try:
            while start < len(data):
                end = _piece_end(data, start) if self._piecewise else len(data)
                if self._piecewise and not self._writable(wait_ms):
                    break
                start += self._write(data[start:end])
        except BlockingIOError:
            pass  # somebody made the descriptor non-blocking and it is full
        except OSError:
            return b""  # the reader is gone: there is nobody to tell
        return data[start:]

    def _write(self, piece: bytes) -> int:
        if self._without_waiting:
            try:
                return os.pwritev(self._fd, [piece], -1, os.RWF_NOWAIT)  # -1: where the descriptor stands
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.ESPIPE):
                    raise
                self._without_waiting = False
        return os.write(self._fd, piece)

    def _writable(self, wait_ms: int) -> bool:
        # A vanished reader (POLLERR) counts as writable, so that the write fails and says so.
        return bool(self._poll.poll(wait_ms))


def _piece_end(data: bytes, start: int) -> int:
    """The end of the last whole line within PIPE_BUF bytes; a longer line is cut."""
    end = start + select.PIPE_BUF
    if end >= len(data):
        return len(data)
    newline = data.rfind(b"\n", start, end)
    return end if newline < 0 else newline + 1


_standard: LineOutput | None = None


def standard_output() -> LineOutput:
    """The process's one buffer in front of standard output, emptied at exit."""
    global _standard
    if _standard is None:
        _standard = LineOutput(1)
        atexit.register(_standard.close)
    return _standard
