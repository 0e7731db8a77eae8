"""The socket between the supervisor and one worker.

A SOCK_SEQPACKET pair, made by the supervisor before the worker exists. Sending never waits: messages queue up, and a
task carries them off, so that whoever reports from the middle of the relay's turn loses no time. A side that does not
read for long meets a bound on what may wait for it; the channel is then given up, which ends the worker. When either
process ends, however it does, the other reads the end of the stream.
"""

from __future__ import annotations

import array
import os
import socket
from collections import deque
from typing import Final

import trio

from mesh.closing import Closing
from mesh.errors import ConnectionLost, InvalidMessage
from ztunnel.fanout.packets_machine import PACKET_BYTES, Assembler, packets

MAX_WAITING_BYTES: Final = 128 << 20
"""That may wait to be sent: twice the longest message."""

_DESCRIPTOR_BYTES: Final = array.array("i").itemsize
_ANCILLARY_BYTES: Final = socket.CMSG_SPACE(2 * _DESCRIPTOR_BYTES)


def channel_pair() -> tuple[socket.socket, socket.socket]:
    """Two connected sockets, for one end each; blocking."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


class Channel(Closing):
    """One end. ``run`` must be running for anything to be sent."""

    def __init__(self, connected: socket.socket) -> None:
        connected.setblocking(False)
        self._socket = trio.socket.from_stdlib_socket(connected)
        self._waiting: deque[tuple[bytes, int | None]] = deque()
        self._waiting_bytes = 0
        self._to_send = trio.Event()
        self._all_sent = trio.Event()
        self._assembler = Assembler()
        self._lost: ConnectionLost | None = None

    def send(self, message: bytes, descriptor: int | None = None) -> None:
        """Send this after all that waits; a descriptor is duplicated at once and may be closed by the caller.

        What is sent on a channel that is lost is dropped: whoever reads from it is told.
        """
        if self._lost is not None:
            return
        if self._waiting_bytes + len(message) > MAX_WAITING_BYTES:
            self._lose(ConnectionLost(f"{MAX_WAITING_BYTES} bytes wait for the process at the other end"))
            return
        self._waiting.append((message, None if descriptor is None else os.dup(descriptor)))
        self._waiting_bytes += len(message)
        self._to_send.set()

    async def run(self) -> None:
        """Carry off what is to be sent, until the channel is lost or closed."""
        try:
            while self._lost is None:
                self._all_sent.set()
                await self._to_send.wait()
                self._to_send, self._all_sent = trio.Event(), trio.Event()
                while self._waiting:
                    message, descriptor = self._waiting.popleft()
                    try:
                        await self._put(message, descriptor)
                    finally:
                        self._waiting_bytes -= len(message)
                        if descriptor is not None:
                            os.close(descriptor)
        except OSError as error:
            self._lose(ConnectionLost(f"the process at the other end is gone: {error.strerror}"))
        finally:
            self._all_sent.set()

    async def sent(self) -> None:
        """Return once nothing waits to be sent."""
        while self._waiting or not self._all_sent.is_set():
            await self._all_sent.wait()

    async def _put(self, message: bytes, descriptor: int | None) -> None:
        pieces = list(packets(message))
        for piece in pieces[:-1]:
            await self._socket.send(piece, socket.MSG_NOSIGNAL)
        ancillary = []
        if descriptor is not None:
            ancillary.append((socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]).tobytes()))
        await self._socket.sendmsg([pieces[-1]], ancillary, socket.MSG_NOSIGNAL)

    async def receive(self) -> tuple[bytes | bytearray, int | None]:
        """The next message, and its descriptor if it has one, which is the caller's from here on.

        Raises:
            ConnectionLost: the other process has ended or stopped reading.
            InvalidMessage: the other side says what cannot be understood; nothing after it can be, either.
        """
        while True:
            try:
                packet, ancillary, flags, _ = await self._socket.recvmsg(
                    PACKET_BYTES, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC
                )
            except OSError as error:
                raise self._lost or ConnectionLost(f"the channel failed: {error.strerror}") from error
            descriptors = _descriptors_of(ancillary)
            try:
                if self._lost is not None or not packet:
                    raise self._lost or ConnectionLost("the process at the other end has ended")
                if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC) or len(descriptors) > 1:
                    raise InvalidMessage("a packet longer than one is, or with more than one descriptor")
                message = self._assembler.receive(packet)
                if message is None:
                    if descriptors:
                        raise InvalidMessage("a descriptor in the middle of a message")
                    continue
                return message, descriptors.pop() if descriptors else None
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)

    def close(self) -> None:
        """Close this end; the other reads the end of the stream."""
        self._lose(ConnectionLost("the channel is closed"))
        self._socket.close()

    def _lose(self, error: ConnectionLost) -> None:
        if self._lost is None:
            self._lost = error
            try:
                self._socket.shutdown(socket.SHUT_RDWR)  # wakes whoever receives
            except OSError:
                pass  # the other side was faster
        while self._waiting:
            _, descriptor = self._waiting.popleft()
            if descriptor is not None:
                os.close(descriptor)
        self._waiting_bytes = 0
        self._to_send.set()


def _descriptors_of(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    found = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(content[: len(content) - len(content) % _DESCRIPTOR_BYTES])
    return found.tolist()
