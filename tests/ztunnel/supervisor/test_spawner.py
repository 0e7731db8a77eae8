"""The process that forks workers, with real processes: who gets what, who ends with whom."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
import trio

from mesh.errors import ConnectionLost, EnvironmentLacks
from ztunnel.supervisor.process_names import end_with, worker_name
from ztunnel.supervisor.spawner import Ended, SpawnerHandle, Started
from ztunnel.supervisor.spawner_driver import Spawner, kill

PROGRAM = """
import json, os, sys
import trio
from ztunnel.fanout.channel_driver import channel_pair
from ztunnel.supervisor.spawner import WorkerStart, fork_spawner
from ztunnel.supervisor.spawner_driver import Spawner, kill

def comm(pid):
    return open(f"/proc/{pid}/comm").read().strip()

def say(**what):
    print(json.dumps(what), flush=True)

become = fork_spawner()
if isinstance(become, WorkerStart):
    become.channel.send(b"worker %d" % become.number)
    os._exit(int(become.channel.recv(100) or b"9"))
if become is None:
    os._exit(0)

async def main():
    ended = []
    spawner = Spawner(become, lambda *what: ended.append(what))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(spawner.run)
        channels, pids = [], []
        for number in (0, 3):
            ours, its = channel_pair()
            with its:
                pids.append(await spawner.start(number, its))
            assert ours.recv(100) == b"worker %d" % number
            channels.append(ours)
        say(names=[comm(pid) for pid in (os.getpid(), spawner.pid, *pids)], pids=[spawner.pid, *pids])
        await trio.to_thread.run_sync(sys.stdin.readline)
        channels[0].send(b"5")
        kill(pids[1])
        with trio.fail_after(5):
            while len(ended) < 2:
                await trio.sleep(0.01)
        say(ended=sorted(ended), expected=sorted([[0, pids[0], 5], [3, pids[1], -9]]))
        nursery.cancel_scope.cancel()
    spawner.close()
    say(gone=not os.path.exists(f"/proc/{spawner.pid}"))

trio.run(main)
"""


@pytest.fixture
def program() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def line(program: subprocess.Popen[str]) -> dict[str, object]:
    assert program.stdout is not None
    found: dict[str, object] = json.loads(program.stdout.readline())
    return found


def gone(pids: list[int]) -> bool:
    """Whether none of these runs; what nobody has waited for yet counts as gone."""
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state not in "ZX":
            return False
    return True


def test_workers_are_named_forked_with_their_channel_and_reaped(program: subprocess.Popen[str]) -> None:
    with program:
        assert program.stdin is not None
        said = line(program)
        assert said["names"] == ["ztunnel", "ztunnel-spawner", "ztunnel-work-0", "ztunnel-work-3"]
        program.stdin.write("\n")
        program.stdin.flush()
        told = line(program)
        assert told["ended"] == told["expected"]
        assert line(program) == {"gone": True}
    assert program.returncode == 0


@pytest.mark.parametrize("victim", ["supervisor", "spawner"])
def test_nobody_outlives_the_supervisor_or_the_spawner(program: subprocess.Popen[str], victim: str) -> None:
    with program:
        pids = line(program)["pids"]
        assert isinstance(pids, list)
        # What a terminal or a container runtime sends to all harms none but the supervisor.
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
            os.kill(pid, signal.SIGINT)
        time.sleep(0.1)
        assert not any(gone([pid]) for pid in pids)
        os.kill(program.pid if victim == "supervisor" else pids[0], signal.SIGKILL)
        deadline = time.monotonic() + 10
        while not gone(pids[1:] if victim == "spawner" else pids):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        program.kill()


def test_who_comes_too_late_does_not_live_on() -> None:
    # In a child: what is asked of the kernel here would end this very process with its parent.
    program = "from ztunnel.supervisor.process_names import end_with; end_with(1 << 22)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert EnvironmentLacks.__name__ in done.stderr
    assert callable(end_with)


async def test_what_the_spawner_tells() -> None:
    ended: list[tuple[int, int, int]] = []
    child = os.fork()
    if child == 0:
        os._exit(0)
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    spawner = Spawner(SpawnerHandle(child, ours), lambda *what: ended.append(what))

    async def converse() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(spawner.run)
            its.send(msgspec.json.encode(Ended(1, 42, -9)))
            its.send(msgspec.json.encode(Started(3, 0)))
            with pytest.raises(EnvironmentLacks, match="out of processes"):
                await spawner.start(3, its)
            its.shutdown(socket.SHUT_RDWR)  # it ends

    with its, pytest.raises(ExceptionGroup) as caught, trio.fail_after(5):
        await converse()
    assert caught.value.subgroup(ConnectionLost) is not None
    assert ended == [(1, 42, -9)]
    spawner.close()
    kill(child)  # is gone, and was waited for: nothing to do


def test_names_fit_into_what_the_kernel_keeps() -> None:
    assert all(len(worker_name(number)) <= 15 for number in range(16))
