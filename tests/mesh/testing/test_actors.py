"""Actors: where they act, what comes back, and that they end."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesh.netns import NetworkNamespace
from mesh.testing.actors import Actor, ActorFailed

pytestmark = pytest.mark.root

HIERARCHY = Path("/sys/fs/cgroup/unified") if Path("/sys/fs/cgroup/unified").exists() else Path("/sys/fs/cgroup")


@pytest.fixture
def cgroup(resource_prefix: str) -> Iterator[Path]:
    folder = HIERARCHY / resource_prefix
    folder.mkdir()
    yield folder
    for _ in range(100):  # the kernel lets go of a reaped process a moment later
        try:
            folder.rmdir()
            return
        except OSError:
            time.sleep(0.02)
    folder.rmdir()


def test_it_acts_in_its_cgroup_and_namespace(cgroup: Path) -> None:
    def look() -> tuple[bool, int]:
        mine = Path("/proc/self/cgroup").read_text().splitlines()
        return f"0::/{cgroup.name}" in mine, Path("/proc/thread-self/ns/net").stat().st_ino

    with NetworkNamespace.open("/proc/self/ns/net") as namespace, Actor(cgroup, namespace, look) as actor:
        assert actor.join() == (True, namespace.inode)


def test_arguments_and_closures_reach_the_function(cgroup: Path) -> None:
    offset = 40
    with Actor(cgroup, None, lambda one, two: offset + one + two, 1, 1) as actor:
        assert actor.join() == 42


def test_a_system_error_arrives_as_it_was_raised(cgroup: Path) -> None:
    def refuse() -> None:
        raise OSError(errno.ECONNREFUSED, "refused")

    with Actor(cgroup, None, refuse) as actor, pytest.raises(ConnectionRefusedError) as caught:
        actor.join()
    assert "in refuse" in caught.value.__notes__[0]


def test_another_error_arrives_as_its_traceback(cgroup: Path) -> None:
    def divide() -> float:
        return 1 / 0

    with Actor(cgroup, None, divide) as actor, pytest.raises(ActorFailed, match="ZeroDivisionError"):
        actor.join()


def test_a_process_that_dies_is_told(cgroup: Path) -> None:
    with Actor(cgroup, None, lambda: os._exit(3)) as actor, pytest.raises(ActorFailed, match="died"):
        actor.join()


def test_closing_ends_it(cgroup: Path) -> None:
    actor = Actor(cgroup, None, time.sleep, 60)
    actor.close()
    actor.close()
    with pytest.raises(ProcessLookupError):
        os.kill(actor.pid, 0)


def test_it_is_known_when_it_has_finished(cgroup: Path) -> None:
    reading, writing = os.pipe()
    with Actor(cgroup, None, os.read, reading, 1) as actor:
        assert not actor.finished(0.05)
        os.write(writing, b"x")
        assert actor.finished(10)
        assert actor.join() == b"x"
    os.close(reading)
    os.close(writing)
