"""Entering sockets in the splice: running the programs ``mesh_enter``, on one end of a fast connection, and
``mesh_enter_leg``, on both ends of the leg between an application and its ztunnel.

A program looks sockets up in the network namespace of the thread that runs it, so the caller has to be inside the
pod's (``NetworkNamespace.entered``). What it is told is no more than where to look: it enters only what the node's own
programs have noted, and refuses sockets whose owners wait in the kernel or are told of edges. An object serves one
thread.
"""

from __future__ import annotations

import ctypes
import enum
import os
import struct

from ebpf import syscall
from ebpf.attachment import ENTRY_HOOK, LEG_ENTRY_HOOK, Hook
from ebpf.layout import (
    ENTRY_DONE,
    ENTRY_GONE,
    ENTRY_MALFORMED,
    ENTRY_REFUSED,
    ENTRY_UNFIT,
    ENTRY_UNKNOWN,
    ENTRY_WAITS,
)
from ebpf.paths import PinPaths
from mesh.addresses import SocketAddress
from mesh.closing import Closing
from mesh.errors import InternalError

_LINK_LAYER = bytes(14)
"""The program is of a kind that is run on packets; its input begins where a packet's payload would."""
_ENTRY = struct.Struct("=14sQ16sHH16sHH")
_TEST_RUN = struct.Struct("=IIIIQQ48x")
"""Whole, although only its beginning is used: the kernel also writes how long it took, further on."""
_RESULT_OFFSET = 4


class EntryOutcome(enum.IntEnum):
    """What became of a request."""

    DONE = ENTRY_DONE
    GONE = ENTRY_GONE
    """There is no such socket in this namespace (any more)."""
    UNKNOWN = ENTRY_UNKNOWN
    """It is no end of a connection that the programs made, it is another one, or it was entered before."""
    WAITS = ENTRY_WAITS
    """Its owner waits in the kernel (no O_NONBLOCK), it has none, or one that has not used it yet."""
    UNFIT = ENTRY_UNFIT
    """It needs what the splice cannot give (a zero-copy socket, edge-triggered epoll), or its pod does not want it."""
    REFUSED = ENTRY_REFUSED
    """By the kernel: it is closing, or the map is full."""
    MALFORMED = ENTRY_MALFORMED


class _Runner:
    """A pinned program, ready to be run on one request."""

    def __init__(self, paths: PinPaths, hook: Hook) -> None:
        self._name = hook.function
        self._program = syscall.require_pin(paths.programs / hook.function)
        self._data = (ctypes.c_char * _ENTRY.size)()
        self._arguments = (ctypes.c_char * _TEST_RUN.size)()
        _TEST_RUN.pack_into(self._arguments, 0, self._program, 0, _ENTRY.size, 0, ctypes.addressof(self._data), 0)

    def close(self) -> None:
        if self._program >= 0:
            os.close(self._program)
            self._program = -1
            struct.pack_into("=I", self._arguments, 0, 0xFFFFFFFF)  # the number may be another file's soon

    def run(self, cookie: int, local: SocketAddress, remote: SocketAddress) -> EntryOutcome:
        _ENTRY.pack_into(
            self._data, 0, _LINK_LAYER, cookie, local.ip, local.port, 0, remote.ip, remote.port, 0
        )
        result = syscall.call(syscall.PROGRAM_TEST_RUN, self._arguments)
        if result < 0:
            syscall.fail(-result, f"running the program {self._name}")
        outcome = struct.unpack_from("=I", self._arguments, _RESULT_OFFSET)[0]
        try:
            return EntryOutcome(outcome)
        except ValueError as error:
            raise InternalError(f"program {self._name} returned {outcome}") from error


class SpliceEntry(Closing):
    """The pinned programs, ready to run.

    Raises:
        EnvironmentLacks: the node's programs are not loaded.
    """

    def __init__(self, paths: PinPaths) -> None:
        self._end = _Runner(paths, ENTRY_HOOK)
        self._leg = _Runner(paths, LEG_ENTRY_HOOK)

    def close(self) -> None:
        """Close the programs; what was entered stays."""
        self._end.close()
        self._leg.close()

    def enter(self, cookie: int, local: SocketAddress, remote: SocketAddress) -> EntryOutcome:
        """Enter one end of a fast connection, a socket of the calling thread's network namespace; some microseconds.

        Args:
            cookie: the socket's.
            local: its own address and port.
            remote: its peer's.

        Raises:
            EnvironmentLacks: not permitted, or the kernel cannot run the program.
        """
        return self._end.run(cookie, local, remote)

    def enter_leg(self, source: SocketAddress, destination: SocketAddress) -> EntryOutcome:
        """Enter both ends of a leg inside the calling thread's network namespace, or neither.

        Args:
            source: the dialling socket's own address and port.
            destination: what it has dialled, as the kernel knows it.

        Raises:
            EnvironmentLacks: not permitted, or the kernel cannot run the program.
        """
        return self._leg.run(0, source, destination)
