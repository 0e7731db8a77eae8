"""Wires over streams of a tunnel: two HBONE machines back to back, with a wire on each end of a stream."""

from __future__ import annotations

from typing import Any

import pytest

from mesh.errors import ConnectionLost, MeshError, TunnelRefused
from mesh.hbone.codec import ErrorCode, encode_connect, encode_response
from mesh.hbone.contract import HboneSettings, HboneStream, Role
from mesh.hbone.machine import HboneMachine
from tests.waypoint.wire.owners import Told
from waypoint.wire.contract import Buffer
from waypoint.wire.stream_wire import LAST_WORDS, StreamWire

# The tunnel and its engine are stand-ins here, which compiled wires do not take; with real ones they are run by
# tests/waypoint/test_app.py in both forms.
pytestmark = pytest.mark.pure_form

SMALL = HboneSettings(initial_stream_window=70_000, max_stream_window=70_000)


class End:
    """What a stream's wire needs of its tunnel; the tunnel itself has tests of its own."""

    def __init__(self, role: Role, status: int = 200) -> None:
        self.machine = HboneMachine(role, self, SMALL)
        self.engine = self
        self.blocked = False
        self.joined: set[Any] = set()
        self.parked: list[Any] = []
        self.dirty: list[Any] = []
        self.told = Told()
        self.wire = StreamWire(self)  # type: ignore[arg-type]
        self.wire.attach(self.told)
        self.status = status

    def join(self, end: Any) -> None:
        self.joined.add(end)

    def leave(self, end: Any) -> None:
        self.joined.discard(end)

    def wait_unblocked(self, end: Any) -> None:
        self.parked.append(end)

    def mark_dirty(self, item: Any) -> None:
        self.dirty.append(item)

    def output_ready(self) -> None:
        pass

    def output_can_wait(self) -> None:
        pass

    def going_away(self, last_stream: int, code: int) -> None:
        pass

    def stream_requested(self, stream: HboneStream, headers: list[tuple[str, str]]) -> None:
        if self.status == 200:
            self.wire.adopt(stream)
        self.machine.respond(stream, encode_response(self.status), end=self.status != 200)

    def ping_answered(self, payload: bytes) -> None:
        pass


class Pair:
    def __init__(self, status: int = 200) -> None:
        self.client, self.server = End(Role.CLIENT), End(Role.SERVER, status)
        self.answers: list[MeshError | None] = []
        self.client.wire.open(encode_connect("10.0.0.1:80"), self.answers.append)
        self.carry()

    def carry(self) -> None:
        """Until nothing moves."""
        moved = True
        rest = {self.client: b"", self.server: b""}
        while moved:
            moved = False
            for source, target in ((self.client, self.server), (self.server, self.client)):
                while source.dirty:
                    source.dirty.pop().flush()
                    moved = True
                if source.machine.outgoing:
                    data = rest[target] + bytes(source.machine.outgoing)
                    source.machine.outgoing.clear()
                    taken = target.machine.receive(memoryview(data), len(data))
                    rest[target] = data[taken:]
                    moved = True


def test_bytes_and_half_closes() -> None:
    pair = Pair()
    assert pair.answers == [None]
    pair.client.wire.write(b"hello")
    pair.carry()
    pair.server.wire.write(b"hi")
    pair.carry()
    assert (pair.server.told.data, pair.client.told.data) == (b"hello", b"hi")
    pair.client.wire.finish()
    pair.carry()
    assert (pair.server.told.ended, pair.server.told.lost) == (1, [])
    pair.server.wire.write(b" there")
    pair.server.wire.finish()
    pair.carry()
    assert pair.client.told.data == b"hi there"
    assert (pair.client.told.lost, pair.server.told.lost) == ([None], [None])
    assert not pair.client.joined
    assert not pair.server.joined


def test_a_refusal_is_reported() -> None:
    pair = Pair(503)
    (error,) = pair.answers
    assert isinstance(error, TunnelRefused)
    assert pair.client.wire.closed
    assert not pair.client.joined


def test_a_paused_wire_lets_the_peer_fill_its_window_and_no_more() -> None:
    pair = Pair()
    pair.server.wire.pause()
    pair.client.wire.write(b"a" * 1_000_000)
    pair.carry()
    assert pair.client.wire.congested
    assert pair.server.told.data == b""
    assert len(pair.server.wire._held) == 70_000
    pair.server.wire.resume()
    assert pair.server.told.data == b"", "not within the call"
    pair.carry()
    assert len(pair.server.told.data) == 1_000_000
    assert not pair.client.wire.congested
    assert pair.client.told.writable == 1


def test_an_end_that_comes_while_paused_is_told_after_what_came_before() -> None:
    pair = Pair()
    pair.server.wire.pause()
    pair.client.wire.write(b"last words")
    pair.client.wire.finish()
    pair.carry()
    assert pair.server.told.ended == 0
    pair.server.wire.resume()
    pair.carry()
    assert (pair.server.told.data, pair.server.told.ended) == (b"last words", 1)


def test_a_blocked_tunnel() -> None:
    pair = Pair()
    pair.client.blocked = True
    pair.client.wire.write(b"wait")
    pair.client.wire.write(b"ing")
    pair.client.wire.finish()
    pair.carry()
    assert pair.server.told.data == b""
    assert pair.client.parked == [pair.client.wire]
    pair.client.blocked = False
    pair.client.wire.resume_reading()
    pair.carry()
    assert (pair.server.told.data, pair.server.told.ended) == (b"waiting", 1)


def test_resets_and_lost_tunnels() -> None:
    pair = Pair()
    pair.client.wire.reset()
    pair.carry()
    assert isinstance(pair.server.told.lost[0], ConnectionLost)
    assert pair.client.told.lost == []
    pair = Pair()
    error = ConnectionLost("gone")
    pair.client.wire.tunnel_lost(error)
    assert pair.client.told.lost == [error]
    pair.client.wire.write(b"in vain")
    assert pair.client.told.lost == [error]


def test_an_end_sends_what_was_written_and_hears_no_more() -> None:
    pair = Pair()
    pair.client.wire.write(b"a" * 200_000)
    pair.client.wire.end()
    pair.carry()
    assert (len(pair.server.told.data), pair.server.told.ended) == (200_000, 1)
    pair.server.wire.write(b"b" * 1000)
    pair.server.wire.finish()
    pair.carry()
    assert (pair.client.told.data, pair.client.told.lost) == (b"", [])
    assert pair.client.wire.closed


def test_a_peer_that_goes_on_after_the_end_is_reset() -> None:
    pair = Pair()
    pair.client.wire.end()
    pair.carry()
    pair.server.wire.write(bytes(LAST_WORDS + 100_000))
    pair.carry()
    assert pair.client.wire.closed
    assert len(pair.server.told.lost) == 1


def test_a_tunnel_that_breaks_under_a_write_is_told_later() -> None:
    pair = Pair()

    def break_down() -> None:
        pair.client.wire.tunnel_lost(ConnectionLost("broken"))

    pair.client.output_ready = break_down  # type: ignore[method-assign]
    pair.client.wire.write(b"a" * 60_000)
    pair.client.wire.write(b"b")
    assert pair.client.told.lost == []
    pair.client.dirty.pop().flush()
    assert len(pair.client.told.lost) == 1
    assert not pair.client.joined


def test_an_owner_that_fails_costs_its_own_stream(capsys: Any) -> None:
    pair = Pair()

    class Buggy(Told):
        def wire_data(self, data: Buffer) -> None:
            raise ValueError("a bug")

        def wire_lost(self, error: MeshError | None) -> None:
            super().wire_lost(error)
            raise ValueError("another bug")

    buggy = Buggy()
    pair.server.wire.attach(buggy)
    pair.client.wire.write(b"a")
    pair.carry()
    assert len(buggy.lost) == 1
    assert len(pair.client.told.lost) == 1
    told = capsys.readouterr().out
    assert "a bug" in told
    assert "another bug" in told


def test_a_bug_costs_its_own_stream() -> None:
    pair = Pair()
    error = ConnectionLost("a bug")
    pair.client.wire.crashed(error)
    pair.carry()
    assert pair.client.told.lost == [error]
    assert len(pair.server.told.lost) == 1
    assert ErrorCode.INTERNAL_ERROR.name in str(pair.server.told.lost[0])
