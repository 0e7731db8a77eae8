"""The loop that moves bytes.

Theory of operation
-------------------
trio is made for lifecycles: a task that wakes for every message pays tens of microseconds for scheduling, more than the
message costs. So the sockets of established connections live in an epoll set of their own. One trio task waits until
that set's descriptor is readable, then handles everything that is ready in one go, without an ``await`` in between:
each ready socket's handler runs, what they wrote for a tunnel collects in that tunnel, and at the end of the turn each
tunnel that has something to say encrypts it into as few TLS records, and sends it with as few system calls, as
possible. Many small messages become one record and one ``send``.

Going back to trio after every turn would add its scheduling to the latency of a quiet connection. While traffic flows
the task therefore stays: it polls again, for at most one millisecond, and returns to trio when nothing came, when
something was handed to trio, or when :data:`MAX_STAY` has passed. trio's own tasks (handshakes, configuration) are
delayed by that much at most.

The beginning of that millisecond is spent looking, with other processes let run in between, as long as that pays
(``mesh.relay.looking``).

What wakes applications is done at the end of a batch of handlers, and together: connecting to them, each time with
what they are to read at first, then closing. A wake-up of another core costs some microseconds, on virtual machines
above all, and an application that is woken for each of these apart goes to sleep in between. Done together, the first
wakes it, and it finds the others when it comes.

Everything runs in trio's thread. Handlers must not block and must not raise what they can handle; a handler that fails
is a bug of ours, is logged with its traceback, and costs its own connection only.
"""

from __future__ import annotations

import _socket
import mmap
import os
import select
import time
from collections.abc import Callable
from typing import Final, Protocol

import structlog
import trio

from mesh.errors import InternalError, MeshError
from mesh.relay.looking import LONG_YIELD, Looking

MAX_STAY = 0.004
"""Seconds between two visits to trio while traffic flows."""

LINGER = 0.001
"""Seconds to wait for more before the loop returns to trio; epoll's resolution is one millisecond."""

BATCH: Final = 512
"""Ready sockets handled in one turn."""

FLUSH_WITHIN = 0.0001
"""Seconds that output may wait for more output of the same turn. Long enough to put many small messages into a record;
short enough that the next node works on the first of them while this one is busy with the others."""

READ_SIZE: Final = 512 * 1024
"""Most bytes taken from a socket at once: large enough to amortise system calls in bulk, small enough to stay fair."""

FRAME_ROOM: Final = 9
"""Bytes kept free at the start of :attr:`Engine.read_view`, so that a DATA header can be put before what was read."""

Handler = Callable[[int], None]
"""Called with the epoll events of its descriptor; a method of what is to be told when it fails."""

_log = structlog.get_logger("relay")


class Flushable(Protocol):
    """Something with output that waits for the end of the turn."""

    def flush(self) -> None:
        """Encrypt and send what has collected."""


class Connecting(Protocol):
    """Something that dials."""

    def connect(self) -> None:
        """It is time: the batch is over."""


class Crashable(Protocol):
    """Something that can be ended when a handler of its fails: not watched any more, it would else stay for ever.

    Told by the method's name, since compiled classes know no run-time checks of protocols.
    """

    def crashed(self, error: MeshError) -> None:
        """End the connection, and whatever depends on it."""


class Engine:
    """One epoll set and its buffers, which all its connections share: memory does not grow with connections."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Handler] = {}
        self._dirty: list[Flushable] = []
        self._waiting: dict[Flushable, None] = {}
        """What has output that may wait for more."""
        self._gone: set[int] = set()
        self._connecting: list[Connecting] = []
        self._closing: list[_socket.socket] = []
        self._in_turn = False
        self._in_batch = False
        self._handed_over = False
        self._looking = Looking()
        self._token: trio.lowlevel.TrioToken | None = None
        self.read_view = _room(FRAME_ROOM + READ_SIZE)
        self.payload_view = self.read_view[FRAME_ROOM:]
        self.plain_view = _room(2 * READ_SIZE)
        self.now = time.monotonic()
        """Monotonic seconds, as of the end of the last turn: near enough for time-outs, and free."""

    # -- descriptors ---------------------------------------------------------------------------------------------------

    def register(self, fd: int, events: int, handler: Handler) -> None:
        """Watch a descriptor (level triggered)."""
        self._epoll.register(fd, events)
        self._handlers[fd] = handler

    def modify(self, fd: int, events: int) -> None:
        """Watch for other events."""
        self._epoll.modify(fd, events)

    def unregister(self, fd: int) -> None:
        """Stop watching; to be called before the descriptor is closed, since the kernel may give its number away."""
        if self._handlers.pop(fd, None) is not None:
            if self._in_turn:
                # The batch at hand may hold events of this descriptor, and its number may be somebody else's by then.
                self._gone.add(fd)
            self._epoll.unregister(fd)

    def close_socket(self, sock: _socket.socket, fd: int) -> None:
        """Stop watching a socket, if it is watched, and close it once the batch at hand is over."""
        self._handlers.pop(fd, None)
        if self._in_batch:
            self._closing.append(sock)
        else:
            sock.close()  # the kernel takes it out of the set by itself

    def connect_after_batch(self, item: Connecting) -> None:
        """Call its ``connect`` once the batch at hand is over; at once if there is none."""
        if self._in_batch:
            self._connecting.append(item)
        else:
            item.connect()

    @property
    def watched(self) -> int:
        """How many descriptors are watched."""
        return len(self._handlers)

    # -- output --------------------------------------------------------------------------------------------------------

    def mark_dirty(self, item: Flushable) -> None:
        """Flush this at the end of the turn, or, called from trio's side, as soon as trio's loop comes round."""
        self._dirty.append(item)
        if not self._in_turn and self._token is not None:
            self._token.run_sync_soon(self._flush_dirty, idempotent=True)

    def mark_waiting(self, item: Flushable) -> None:
        """Flush this when all is quiet, after :data:`LINGER`, unless it is flushed before."""
        if self._in_turn:
            self._waiting[item] = None
        else:
            self.mark_dirty(item)

    def hand_over(self) -> None:
        """Something was given to trio: go back to it after this turn."""
        self._handed_over = True

    def _flush_dirty(self) -> None:
        while self._dirty:
            dirty, self._dirty = self._dirty, []
            for item in dirty:
                try:
                    item.flush()
                except Exception as error:  # one connection's bug must not stop the node's traffic
                    _log.exception("flush failed")
                    _end(item, error)

    def _flush_waiting(self) -> None:
        if self._waiting:
            self._dirty += self._waiting
            self._waiting.clear()
            self._flush_dirty()

    # -- the loop ------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Move bytes until cancelled."""
        self._token = trio.lowlevel.current_trio_token()
        epoll_fd = self._epoll.fileno()
        self._flush_dirty()  # what was marked before the loop ran
        try:
            while True:
                await trio.lowlevel.wait_readable(epoll_fd)
                while self._stay():
                    await trio.lowlevel.checkpoint()
        finally:
            self._token = None

    def _stay(self) -> bool:
        """Take turns until it is time for trio; returns whether more is ready."""
        poll = self._epoll.poll
        self.now = time.monotonic()
        leave_at = self.now + MAX_STAY
        self._handed_over = False
        ready = poll(0, BATCH)
        while True:
            if not ready:
                self._flush_waiting()
                return False
            self._in_turn = True
            flush_at = time.monotonic() + FLUSH_WITHIN
            while True:
                flush_at = self._handle(ready, flush_at)
                # What has become ready meanwhile goes into the same records and sends, if that takes no time. Where
                # there was one event, there are hardly more: asking would only delay it.
                if len(ready) == 1 or time.monotonic() > flush_at:
                    break
                ready = poll(0, BATCH)
                if not ready:
                    break
            if self._dirty:
                self._flush_dirty()
            self._in_turn = False
            self.now = time.monotonic()
            if self._handed_over or self.now > leave_at:
                self._flush_waiting()
                return True
            ready = self._wait_for_more()

    def _wait_for_more(self) -> list[tuple[int, int]]:
        """What is ready next; nothing after :data:`LINGER`."""
        ready = self._look() if self._looking.seconds else []
        if not ready:
            ready = self._epoll.poll(LINGER, BATCH)
            if ready:
                self._looking.woken(self.now, time.monotonic())
        return ready

    def _look(self) -> list[tuple[int, int]]:
        """What becomes ready while this looks for it."""
        poll = self._epoll.poll
        started = self.now
        until = started + self._looking.seconds
        while True:
            ready = poll(0, BATCH)
            if ready:
                return ready
            if started >= until:
                self._looking.in_vain()
                return ready
            os.sched_yield()
            ended = time.monotonic()
            if ended - started > LONG_YIELD:
                self._looking.in_the_way(ended)
                return ready
            started = ended

    def _handle(self, ready: list[tuple[int, int]], flush_at: float) -> float:
        """Run the handlers of one batch; flush on the way when it is time, and say when it is time again."""
        handlers, gone = self._handlers, self._gone
        now = time.monotonic
        self._in_batch = True
        for fd, events in ready:
            handler = handlers.get(fd)
            if handler is not None and not (gone and fd in gone):
                try:
                    handler(events)
                except Exception as error:  # one connection's bug must not stop the node's traffic
                    _log.exception("relay handler failed", fd=fd)
                    self._silence(fd)
                    _end(getattr(handler, "__self__", None), error)
                if self._dirty and now() > flush_at:
                    self._flush_dirty()
                    flush_at = now() + FLUSH_WITHIN
        if gone:
            gone.clear()
        self._in_batch = False
        if self._connecting or self._closing:
            self._end_batch()
        return flush_at

    def _end_batch(self) -> None:
        connecting, self._connecting = self._connecting, []
        for item in connecting:
            try:
                item.connect()
            except Exception as error:  # one connection's bug must not stop the node's traffic
                _log.exception("connecting failed")
                _end(item, error)
        closing, self._closing = self._closing, []
        for sock in closing:
            try:
                sock.close()
            except OSError:
                _log.exception("closing failed")

    def _silence(self, fd: int) -> None:
        """Stop watching a descriptor whose handler fails, so that it cannot fail for ever."""
        try:
            self.unregister(fd)
        except OSError:
            _log.warning("descriptor was closed while it was watched", fd=fd)

    def close(self) -> None:
        """Release the epoll set; its sockets belong to their ends."""
        self._epoll.close()
        self._handlers.clear()


def _room(size: int) -> memoryview:
    """Memory that takes none before it is written to: who never carries bulk never has all of it."""
    return memoryview(mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


def _end(item: object, error: Exception) -> None:
    """End what has failed, so that its peers, the connection table and a drain do not wait for it."""
    crashed: Callable[[MeshError], None] | None = getattr(item, "crashed", None)
    if crashed is not None:
        try:
            crashed(InternalError(f"a bug of this proxy: {error!r}"))
        except Exception:
            _log.exception("a failed connection could not be ended")
