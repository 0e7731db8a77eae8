from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable, Iterator

import pytest
import trio
import trio.testing

from mesh.errors import InternalError, MeshError
from mesh.relay import engine as engine_module
from mesh.relay.engine import Engine
from tests.mesh.relay.applications import until


@pytest.fixture
def engine() -> Iterator[Engine]:
    made = Engine()
    yield made
    made.close()


class Watched:
    """A socket whose handler does what a test says."""

    def __init__(self, engine: Engine, action: Callable[[Watched], None]) -> None:
        self.engine = engine
        self.action = action
        self.here, self.there = socket.socketpair()
        self.events: list[int] = []
        self.errors: list[MeshError] = []
        engine.register(self.here.fileno(), select.EPOLLIN, self.on_ready)

    def on_ready(self, events: int) -> None:
        self.events.append(events)
        self.action(self)

    def crashed(self, error: MeshError) -> None:
        self.errors.append(error)

    def read(self) -> None:
        self.here.recv(100)

    def close(self) -> None:
        if self.here.fileno() >= 0:
            self.engine.unregister(self.here.fileno())
        self.here.close()
        self.there.close()


async def test_a_turn_handles_what_is_ready_and_flushes_once(engine: Engine) -> None:
    flushed: list[str] = []

    class Output:
        def flush(self) -> None:
            flushed.append("flush")

    output = Output()

    def read_and_mark(one: Watched) -> None:
        one.read()
        engine.mark_dirty(output)

    first = Watched(engine, read_and_mark)
    second = Watched(engine, Watched.read)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(engine.run)
        for one in (first, second):
            one.there.send(b"x")
        await until(lambda: (first.events and second.events and flushed))
        assert len(flushed) == len(first.events) == 1
        # What is marked from trio's side is flushed without any socket being ready.
        engine.mark_dirty(output)
        await until(lambda: len(flushed) >= 2)
        nursery.cancel_scope.cancel()
    first.close()
    second.close()
    assert engine.watched == 0


async def test_what_was_marked_before_the_loop_ran_is_flushed(engine: Engine) -> None:
    flushed = trio.Event()

    class Output:
        def flush(self) -> None:
            flushed.set()

    engine.mark_dirty(Output())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(engine.run)
        with trio.fail_after(2):
            await flushed.wait()
        nursery.cancel_scope.cancel()


def _fail(_watched: object) -> None:
    raise RuntimeError("surprise")


async def test_a_handler_that_fails_is_ended_and_harms_nobody(engine: Engine) -> None:
    bad, good = Watched(engine, _fail), Watched(engine, Watched.read)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(engine.run)
        bad.there.send(b"x")
        good.there.send(b"x")
        await until(lambda: (bad.errors and good.events))
        assert isinstance(bad.errors[0], InternalError)
        assert "surprise" in str(bad.errors[0])
        await trio.sleep(0.01)
        assert len(bad.events) == 1
        good.there.send(b"y")
        await until(lambda: len(good.events) >= 2)
        nursery.cancel_scope.cancel()
    bad.close()
    good.close()


async def test_output_that_fails_is_ended_too(engine: Engine) -> None:
    ended = trio.Event()

    class Output:
        def flush(self) -> None:
            raise RuntimeError("surprise")

        def crashed(self, error: MeshError) -> None:
            ended.set()
            raise RuntimeError("again")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(engine.run)
        await trio.testing.wait_all_tasks_blocked()
        engine.mark_dirty(Output())
        with trio.fail_after(2):
            await ended.wait()
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


async def test_events_do_not_reach_the_next_owner_of_a_number(engine: Engine) -> None:
    """Of two sockets that are ready in one turn, the first handled closes the other and its number is used again."""
    pair: list[Watched] = []
    heirs: list[Watched] = []

    def close_the_other(one: Watched) -> None:
        one.read()
        if heirs:
            return
        other = pair[1 - pair.index(one)]
        number = other.here.fileno()
        other.close()
        heir = Watched(engine, Watched.read)
        if heir.here.fileno() != number:  # make sure that it is the very number
            engine.unregister(heir.here.fileno())
            os.dup2(heir.here.fileno(), number)
            heir.here.close()
            heir.here = socket.socket(fileno=number)
            engine.register(number, select.EPOLLIN, heir.on_ready)
        heirs.append(heir)

    pair += [Watched(engine, close_the_other), Watched(engine, close_the_other)]
    for one in pair:
        one.there.send(b"x")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(engine.run)
        await until(lambda: heirs)
        (heir,) = heirs
        await trio.sleep(0.01)
        assert heir.events == []
        heir.there.send(b"for the heir")
        await until(lambda: heir.events)
        nursery.cancel_scope.cancel()
    for one in [*pair, *heirs]:
        one.close()


class Dialled:
    """Something that connects when it is told to."""

    def __init__(self, happened: list[str], failure: Exception | None = None) -> None:
        self.happened = happened
        self.failure = failure

    def connect(self) -> None:
        self.happened.append("connected")
        if self.failure is not None:
            raise self.failure

    def crashed(self, error: MeshError) -> None:
        self.happened.append(f"ended: {error}")


async def test_connecting_and_then_closing_come_after_the_handlers_of_a_batch(engine: Engine) -> None:
    happened: list[str] = []

    def close_and_dial(one: Watched) -> None:
        one.read()
        happened.append("handled")
        engine.close_socket(one.here, one.here.fileno())
        engine.connect_after_batch(Dialled(happened, RuntimeError("surprise") if len(happened) == 1 else None))
        assert one.here.fileno() >= 0

    pair = [Watched(engine, close_and_dial), Watched(engine, close_and_dial)]
    for one in pair:
        one.there.send(b"xy")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(engine.run)
        await until(lambda: all(one.here.fileno() < 0 for one in pair))
        nursery.cancel_scope.cancel()
    assert [word.split(":")[0] for word in happened] == ["handled", "handled", "connected", "ended", "connected"]
    assert "surprise" in happened[3]
    assert [one.there.recv(1) for one in pair] == [b"", b""]
    assert engine.watched == 0
    for one in pair:
        one.there.close()


def test_outside_of_a_batch_connecting_and_closing_wait_for_nothing(engine: Engine) -> None:
    happened: list[str] = []
    one = Watched(engine, Watched.read)
    engine.connect_after_batch(Dialled(happened))
    engine.close_socket(one.here, one.here.fileno())
    assert happened == ["connected"]
    assert one.here.fileno() < 0
    one.close()


async def test_trio_gets_its_turn_under_load(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket that is always ready does not keep trio's tasks from running."""
    monkeypatch.setattr(engine_module, "MAX_STAY", 0.0)
    busy = Watched(engine, lambda _one: None)
    busy.there.send(b"x")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(engine.run)
        with trio.fail_after(2):
            for _ in range(5):
                await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert busy.events
    busy.close()
