"""The process that workers are forked from.

Theory of operation. A worker must be forked, not started afresh: it then shares the pages of everything that was
imported (some 30 MB each would have its own otherwise) and serves within milliseconds. Nothing that runs trio can fork
safely, for its child would inherit an event loop in the middle of a turn. So the process forks once before the loop
starts: the parent becomes the supervisor, the child this *spawner*, which has imported everything, has no threads, no
loop, no connection and no secret, and does nothing but fork when told and tell who has ended.

The spawner is the parent of all workers. The kernel kills it when the supervisor ends, and the workers when the spawner
ends, so no worker outlives the one that keeps its pods and policies current: without it there is no listener, and the
programs refuse what arrives. Signals meant for ztunnel reach the supervisor, which drains its workers; the others
ignore them, because a terminal or a container runtime may send them to all.
"""

from __future__ import annotations

import os
import select
import signal
import socket
from dataclasses import dataclass
from typing import Final

import msgspec

from mesh.errors import EnvironmentLacks
from ztunnel.supervisor.process_names import SPAWNER, end_with, name_process, worker_name

_BYTES: Final = 4096


class Started(msgspec.Struct, frozen=True, tag=True):
    """A worker was forked."""

    number: int
    pid: int
    """0: the machine had no room for another process."""


class Ended(msgspec.Struct, frozen=True, tag=True):
    """A worker is gone."""

    number: int
    pid: int
    status: int
    """As ``os.waitstatus_to_exitcode`` says it: an exit status, or a signal's number below zero."""


Told = Started | Ended


@dataclass(frozen=True, slots=True)
class WorkerStart:
    """What a worker begins with."""

    number: int
    channel: socket.socket
    """Its end of the channel to the supervisor."""


@dataclass(frozen=True, slots=True)
class SpawnerHandle:
    """What the supervisor has of the spawner."""

    pid: int
    control: socket.socket
    """Orders go in, ``Told`` comes out."""


def fork_spawner() -> SpawnerHandle | WorkerStart | None:
    """Fork; call it while this process has one thread and no event loop.

    Returns:
        In the supervisor, the handle; in each worker, what it begins with; in the spawner, None, when it is to end.
    """
    supervisor = os.getpid()
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid:
        its.close()
        name_process("ztunnel")
        return SpawnerHandle(pid, ours)
    ours.close()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    name_process(SPAWNER)
    try:
        end_with(supervisor)
    except EnvironmentLacks:
        return None
    return _Spawner(its).run()


class _Spawner:
    """The loop: orders from the socket, ends of children from their descriptors."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._children: dict[int, tuple[int, int]] = {}
        """Number and process id by descriptor."""
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)

    def run(self) -> WorkerStart | None:
        """Until the supervisor closes its end; returns earlier in a child."""
        while True:
            for descriptor, _ in self._poll.poll():
                if descriptor in self._children:
                    self._reap(descriptor)
                    continue
                data, descriptors, _, _ = socket.recv_fds(self._control, _BYTES, 1)
                if not data:
                    return None
                start = self._fork(int(data), descriptors[0])
                if start is not None:
                    return start

    def _fork(self, number: int, channel: int) -> WorkerStart | None:
        spawner = os.getpid()
        try:
            pid = os.fork()
        except OSError:
            os.close(channel)
            self._tell(Started(number, 0))
            return None
        if pid == 0:
            name_process(worker_name(number))
            end_with(spawner)
            self._control.close()
            for descriptor in self._children:
                os.close(descriptor)
            return WorkerStart(number, socket.socket(fileno=channel))
        os.close(channel)
        descriptor = os.pidfd_open(pid)
        self._children[descriptor] = number, pid
        self._poll.register(descriptor, select.POLLIN)
        self._tell(Started(number, pid))
        return None

    def _reap(self, descriptor: int) -> None:
        number, pid = self._children.pop(descriptor)
        self._poll.unregister(descriptor)
        os.close(descriptor)
        _, status = os.waitpid(pid, 0)
        self._tell(Ended(number, pid, os.waitstatus_to_exitcode(status)))

    def _tell(self, what: Told) -> None:
        try:
            self._control.send(msgspec.json.encode(what), socket.MSG_NOSIGNAL)
        except OSError:
            pass  # the supervisor is gone, and the next poll says so
