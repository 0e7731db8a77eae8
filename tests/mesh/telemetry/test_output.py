"""The buffer in front of standard output: batches, order, and readers that stall or leave."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from mesh.telemetry.output import FLUSH_BYTES, FLUSH_SECONDS, MAX_WAITING, LineOutput

Pipe = tuple[int, int]


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 64 << 10)
    os.set_blocking(reader, False)
    yield reader, writer
    for fd in (reader, writer):
        try:
            os.close(fd)
        except OSError:
            pass  # the test closed it


def received(reader: int) -> bytes:
    data = b""
    while True:
        try:
            part = os.read(reader, 1 << 20)
        except BlockingIOError:
            return data
        if not part:
            return data
        data += part


def test_lines_wait_for_a_flush(pipe: Pipe) -> None:
    reader, writer = pipe
    lines = LineOutput(writer)
    lines.write(b"one\n")
    assert received(reader) == b""
    lines.write(b"two\n")
    lines.flush()
    assert received(reader) == b"one\ntwo\n"


def test_a_full_batch_leaves_by_itself(tmp_path: Path) -> None:
    target = tmp_path / "log"
    with target.open("wb") as file:
        lines = LineOutput(file.fileno())
        line = b"x" * 99 + b"\n"
        for _ in range(FLUSH_BYTES // 100 + 1):
            lines.write(line)
        assert target.stat().st_size >= FLUSH_BYTES


async def test_the_flusher_bounds_the_delay(pipe: Pipe, autojump_clock: trio.testing.MockClock) -> None:
    reader, writer = pipe
    lines = LineOutput(writer)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lines.run)
        lines.write(b"one\n")
        await trio.sleep(FLUSH_SECONDS * 1.5)
        assert received(reader) == b"one\n"
        lines.write(b"last\n")
        nursery.cancel_scope.cancel()
    assert received(reader) == b"last\n"


def test_a_stalled_reader_costs_lines_not_time(pipe: Pipe) -> None:
    reader, writer = pipe
    lines = LineOutput(writer)
    line = b"x" * 999 + b"\n"
    total = (MAX_WAITING + (1 << 20)) // len(line)
    for _ in range(total):
        lines.write(line)  # would hang here if it blocked
    lost = lines.dropped
    assert lost > 0
    data = b""
    while part := received(reader):
        data += part
        lines.flush()
    assert data.count(line) == total - lost
    assert data.endswith(b"log lines dropped, the reader of this output stalls: %d\n" % lost)


def test_lines_are_never_cut_in_a_pipe(pipe: Pipe) -> None:
    reader, writer = pipe
    lines = LineOutput(writer)
    sent = [b"%d " % number * 100 + b"\n" for number in range(100)]
    for line in sent:
        lines.write(line)
    lines.flush()
    assert received(reader) == b"".join(sent)


def test_a_reader_that_left_is_no_error(pipe: Pipe) -> None:
    reader, writer = pipe
    lines = LineOutput(writer)
    os.close(reader)
    lines.write(b"to nobody\n")
    lines.close()
    lines.write(b"again\n")
    lines.close()


def test_close_waits_for_a_slow_reader_but_not_for_ever(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    _, writer = pipe
    monkeypatch.setattr("mesh.telemetry.output._EXIT_POLL_MS", 10)
    lines = LineOutput(writer)
    for _ in range(200):
        lines.write(b"x" * 999 + b"\n")
    lines.close()  # the pipe holds a third of it


def test_room_that_another_writer_took_first_is_not_waited_for(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = pipe
    lines = LineOutput(writer)
    other = os.dup(writer)

    def taken(_wait: int) -> bool:
        os.set_blocking(other, False)
        try:
            while True:
                os.write(other, b"o" * 4095 + b"\n")
        except BlockingIOError:
            os.set_blocking(other, True)  # the flag belongs to the pipe's end, however many descriptors it has
            return True

    monkeypatch.setattr(lines, "_writable", taken)
    lines.write(b"mine\n")
    lines.flush()  # would hang here if it blocked
    monkeypatch.undo()
    assert b"mine" not in received(reader)
    lines.flush()
    assert received(reader) == b"mine\n"
    os.close(other)


def test_writers_of_one_pipe_leave_each_others_lines_whole(pipe: Pipe) -> None:
    reader, writer = pipe
    children = []
    for letter in (b"a", b"b"):
        child = os.fork()
        if child == 0:
            try:
                lines = LineOutput(writer)
                for number in range(2000):
                    lines.write(letter * (1 + number % 150) + b"\n")
                    if number % 10 == 0:
                        lines.flush()
                lines.close()
            finally:
                os._exit(0)
        children.append(child)
    os.close(writer)
    os.set_blocking(reader, True)
    data = b""
    while part := os.read(reader, 1 << 16):
        data += part
    for child in children:
        os.waitpid(child, 0)
    assert sorted(data.splitlines()) == sorted(
        letter * (1 + number % 150) for letter in (b"a", b"b") for number in range(2000)
    )
