"""The supervisor's side of the spawner."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Callable
from typing import Final, Never

import msgspec
import trio

from mesh.errors import ConnectionLost, EnvironmentLacks
from ztunnel.supervisor.spawner import Ended, SpawnerHandle, Started, Told

_BYTES: Final = 4096
_decoder = msgspec.json.Decoder(Told)


class Spawner:
    """Forks workers on demand and tells of their ends. ``run`` must be running."""

    def __init__(self, handle: SpawnerHandle, ended: Callable[[int, int, int], None]) -> None:
        """``ended`` is called with a worker's number, process id and exit status; it must not block."""
        self.pid = handle.pid
        handle.control.setblocking(False)
        self._control = trio.socket.from_stdlib_socket(handle.control)
        self._ended = ended
        self._starting: dict[int, tuple[trio.Event, list[int]]] = {}

    async def run(self) -> Never:
        """Listen to the spawner.

        Raises:
            ConnectionLost: it has ended, and the kernel has ended all workers with it.
        """
        while True:
            try:
                data = await self._control.recv(_BYTES)
            except OSError as error:
                raise ConnectionLost(f"the spawner cannot be heard: {error.strerror}") from error
            if not data:
                raise ConnectionLost("the spawner has ended, and all workers with it")
            told: Started | Ended = _decoder.decode(data)
            if isinstance(told, Ended):
                self._ended(told.number, told.pid, told.status)
                continue
            waiting = self._starting.pop(told.number, None)
            if waiting is not None:
                waiting[1].append(told.pid)
                waiting[0].set()

    async def start(self, number: int, channel: socket.socket) -> int:
        """Fork a worker, which gets this end of its channel; returns its process id. The caller closes its copy.

        Raises:
            EnvironmentLacks: the machine has no room for another process.
        """
        started, found = self._starting[number] = trio.Event(), []
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, channel.fileno().to_bytes(4, "little"))]
        try:
            await self._control.sendmsg([b"%d" % number], rights, socket.MSG_NOSIGNAL)
        except OSError as error:
            raise EnvironmentLacks(f"the spawner takes no orders: {error.strerror}") from error
        await started.wait()
        if not found[0]:
            raise EnvironmentLacks("no worker can be forked: out of processes or memory")
        return found[0]

    def close(self) -> None:
        """Let the spawner end; what workers there are end with it."""
        self._control.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


def kill(pid: int) -> None:
    """End a process that does not answer."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
