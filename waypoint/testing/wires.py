"""A wire whose other end is the test, and a clock that the test moves."""

from __future__ import annotations

from collections.abc import Callable

from mesh.errors import ConnectFailed, MeshError
from waypoint.wire.contract import NOBODY, Buffer, Flushable, Wire, WireOwner
from waypoint.wire.dialling import Connector, Dial
from waypoint.wire.timers import Timers


class MemoryWire(Wire):
    """Keeps what is written; takes no more than the test lets it."""

    def __init__(self) -> None:
        self.owner: WireOwner = NOBODY
        self.congested = False
        self.closed = False
        self.stuck = False
        """What is written now waits."""
        self.paused = False
        self.finished = False
        self.was_reset = False
        self.written = bytearray()
        self.writes = 0
        self._waiting = bytearray()
        self._held = bytearray()
        self._ending = False
        self._dirty: list[Flushable] = []

    def attach(self, owner: WireOwner) -> None:
        """See :class:`Wire`."""
        self.owner = owner

    def write(self, data: Buffer) -> None:
        """See :class:`Wire`."""
        if self.closed or self.finished or self._ending:
            return
        self.writes += 1
        if self.stuck:
            self._waiting += data
            self.congested = True
        else:
            self.written += data

    def later(self, item: Flushable) -> None:
        """See :class:`Wire`."""
        self._dirty.append(item)

    def settle(self) -> None:
        """The turn ends."""
        while self._dirty:
            self._dirty.pop(0).flush()

    def pause(self) -> None:
        """See :class:`Wire`."""
        self.paused = True

    def resume(self) -> None:
        """See :class:`Wire`."""
        self.paused = False

    def finish(self) -> None:
        """See :class:`Wire`."""
        self.finished = True

    def end(self) -> None:
        """See :class:`Wire`."""
        self.owner = NOBODY
        self._ending = True
        self.closed = not self._waiting

    def reset(self) -> None:
        """See :class:`Wire`."""
        self.owner = NOBODY
        if not self.closed:
            self.closed = True
            self.was_reset = True

    # -- the other end -----------------------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Bytes written and not taken."""
        return len(self._waiting)

    def feed(self, data: bytes) -> None:
        """The other end sends."""
        if self.paused:
            self._held += data
        else:
            self.owner.wire_data(memoryview(data))

    def deliver(self) -> None:
        """What was held back comes, if reading goes on."""
        if self._held and not self.paused:
            held, self._held = bytes(self._held), bytearray()
            self.owner.wire_data(held)

    def unstick(self) -> None:
        """The other end takes what waits."""
        self.stuck = False
        self.written += self._waiting
        self._waiting.clear()
        self.closed = self.closed or self._ending
        if self.congested:
            self.congested = False
            self.owner.wire_writable()

    def take(self) -> bytes:
        """What was written since the last time."""
        self.settle()
        data = bytes(self.written)
        self.written.clear()
        return data

    def hang_up(self) -> None:
        """The other end sends no more."""
        self.owner.wire_ended()

    def lose(self, error: MeshError | None = None) -> None:
        """The connection ends."""
        self.closed = True
        owner, self.owner = self.owner, NOBODY
        owner.wire_lost(error)


class ManualClock:
    """Monotonic seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.timers = Timers(self.read)

    def read(self) -> float:
        """The time."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass, firing what falls due, each at its time."""
        end = self.now + seconds
        while (due := self.timers.next_at) is not None and due <= end:
            self.now = max(self.now, due)
            self.timers.run()
        self.now = end


class MemoryConnector(Connector, Dial):
    """Makes memory wires: at once, or when the test says so."""

    def __init__(self, *, at_once: bool = True) -> None:
        super().__init__()
        self.at_once = at_once
        self.refuse = False
        self.wires: list[MemoryWire] = []
        self.waiting: list[Callable[[Wire | None, MeshError | None], None]] = []
        self.cancelled = 0

    def connect(self, report: Callable[[Wire | None, MeshError | None], None]) -> Dial:
        """See :class:`Connector`."""
        self.waiting.append(report)
        if self.at_once:
            self.finish_one()
        return self

    def finish_one(self) -> None:
        """The oldest connection asked for stands, or is refused."""
        report = self.waiting.pop(0)
        if self.refuse:
            report(None, ConnectFailed("cannot connect: refused"))
            return
        wire = MemoryWire()
        self.wires.append(wire)
        report(wire, None)

    def cancel(self) -> None:
        """See :class:`Dial`."""
        self.cancelled += 1
