"""One HBONE stream as a trio stream, and the request that asks a server for one."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import trio

from mesh.errors import ConnectionLost, MeshError
from mesh.hbone.codec import ConnectRequest, ErrorCode, encode_response
from mesh.hbone.contract import HboneStream
from mesh.hbone.machine import HboneMachine

_CHUNK = 64 * 1024
"""Payload of one DATA frame at most, so that tunnels take turns."""
_LONG_OUTPUT = 256 * 1024
_READ_SIZE = 64 * 1024


class TunnelConnection(Protocol):
    """What a tunnel needs of its connection."""

    machine: HboneMachine
    failure: MeshError | None
    flushed: trio.lowlevel.ParkingLot
    """Woken when output was written."""

    def output_ready(self) -> None:
        """There is something to write."""

    def forget(self, stream: HboneStream) -> None:
        """The tunnel is over."""


class Tunnel(trio.abc.HalfCloseableStream):
    """One CONNECT stream. Closing is TCP's: ``aclose`` ends our direction; a reset follows if the peer's bytes were not
    read, or go on coming.
    """

    def __init__(self, connection: TunnelConnection) -> None:
        self.stream: HboneStream
        self.headers: list[tuple[str, str]] | None = None
        """The response's (client), once it has come."""
        self._connection = connection
        self._received = bytearray()
        self._remote_ended = False
        self._local_ended = False
        self._reset_code: int | None = None
        self._closed = False
        self._readable = trio.lowlevel.ParkingLot()
        self._writable = trio.lowlevel.ParkingLot()
        self._busy: set[str] = set()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send; returns when the last byte is on its way, within the peer's windows."""
        with self._alone("sending"):
            await trio.lowlevel.checkpoint()
            self._check_sending()
            rest = memoryview(data)
            while rest:
                size = min(await self._wait_sendable(), _CHUNK, len(rest))
                self._connection.machine.send_data(self.stream, rest[:size], size)
                self._connection.output_ready()
                rest = rest[size:]

    async def wait_send_all_might_not_block(self) -> None:
        """Wait for a window and short output."""
        with self._alone("sending"):
            await trio.lowlevel.checkpoint()
            await self._wait_sendable()

    async def send_eof(self) -> None:
        """Half close."""
        with self._alone("sending"):
            await trio.lowlevel.checkpoint()
            if self._local_ended and not self._closed:
                return
            self._check_sending()
            self._local_ended = True
            self._connection.machine.end_stream(self.stream)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Bytes received, b"" at the end; window is given back for them."""
        limit = _READ_SIZE if max_bytes is None else operator.index(max_bytes)
        if limit < 1:
            raise ValueError("max_bytes must be at least 1")
        with self._alone("receiving"):
            await trio.lowlevel.checkpoint()
            self._check_open()
            while not self._received:
                if self._remote_ended:
                    return b""
                if self._reset_code is not None:
                    raise self._broken()
                await self._readable.park()
                self._check_open()
            data = bytes(self._received[:limit])
            del self._received[:limit]
            self._connection.machine.consumed(self.stream, len(data))
            return data

    async def aclose(self) -> None:
        """Close both directions."""
        if not self._closed and self._reset_code is None:
            if self._received and not self._remote_ended:
                self._connection.machine.reset_stream(self.stream, ErrorCode.CANCEL)
            else:
                self._connection.machine.end_stream(self.stream)
        self._over()
        await trio.lowlevel.checkpoint()

    def reset(self, code: ErrorCode) -> None:
        """Close at once, giving the stream up."""
        self._connection.machine.reset_stream(self.stream, code)
        self._over()

    def respond(self, block: bytes, *, end: bool = False) -> None:
        """Answer the request (server)."""
        self._connection.machine.respond(self.stream, block, end=end)

    async def answer(self) -> list[tuple[str, str]]:
        """Wait for the response (client).

        Raises:
            ConnectionLost: the stream was reset instead.
        """
        while self.headers is None:
            if self._reset_code is not None:
                raise ConnectionLost(f"no answer: {self._reason()}") from self._connection.failure
            await self._readable.park()
        return self.headers

    # -- StreamOwner -------------------------------------------------------------------------------------------------

    def stream_answered(self, headers: list[tuple[str, str]]) -> None:
        """Wake :meth:`answer`."""
        self.headers = headers
        self._readable.unpark_all()

    def stream_data(self, payload: memoryview) -> None:
        """Keep it for the reader; who has closed wants no more."""
        if self._closed:
            self._connection.machine.reset_stream(self.stream, ErrorCode.CANCEL)
            return
        self._received += payload
        self._readable.unpark_all()

    def stream_ended(self) -> None:
        """Wake the reader."""
        self._remote_ended = True
        self._readable.unpark_all()

    def stream_reset(self, code: int) -> None:
        """Wake everybody."""
        self._reset_code = code
        self._wake()
        self._connection.forget(self.stream)

    def stream_writable(self) -> None:
        """Wake the sender."""
        self._writable.unpark_all()

    # -- helpers -----------------------------------------------------------------------------------------------------

    async def _wait_sendable(self) -> int:
        machine = self._connection.machine
        while True:
            self._check_sending()
            if len(machine.outgoing) > _LONG_OUTPUT:
                await self._connection.flushed.park()
            elif size := machine.sendable(self.stream):
                return size
            else:
                await self._writable.park()

    def _over(self) -> None:
        if not self._closed:
            self._closed = True
            self._received.clear()
            self._wake()
            self._connection.forget(self.stream)

    def _wake(self) -> None:
        self._readable.unpark_all()
        self._writable.unpark_all()
        self._connection.flushed.unpark_all()

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("the tunnel was closed here")

    def _check_sending(self) -> None:
        self._check_open()
        if self._local_ended:
            raise trio.ClosedResourceError("send_eof was called")
        if self._reset_code is not None:
            raise self._broken()

    def _broken(self) -> trio.BrokenResourceError:
        error = trio.BrokenResourceError(self._reason())
        error.__cause__ = self._connection.failure
        return error

    def _reason(self) -> str:
        if self._connection.failure is not None:
            return str(self._connection.failure)
        code = self._reset_code
        return f"the peer reset the stream ({ErrorCode(code).name if code in tuple(ErrorCode) else code})"

    @contextmanager
    def _alone(self, what: str) -> Iterator[None]:
        if what in self._busy:
            raise trio.BusyResourceError(f"another task is already {what} on this tunnel")
        self._busy.add(what)
        try:
            yield
        finally:
            self._busy.discard(what)


class IncomingRequest:
    """A CONNECT request, to be accepted or refused; ``connect`` is what it asks for."""

    def __init__(self, connect: ConnectRequest, tunnel: Tunnel) -> None:
        self.connect = connect
        self.answered = False
        self._tunnel = tunnel

    def accept(self, *, baggage: str = "") -> Tunnel:
        """Answer 200, with what we say of our workload."""
        self.answered = True
        self._tunnel.respond(encode_response(200, baggage=baggage))
        return self._tunnel

    def refuse(self, status: int) -> None:
        """Answer ``status`` and end the stream."""
        if not self.answered:
            self.answered = True
            self._tunnel.respond(encode_response(status), end=True)
        self._tunnel.reset(ErrorCode.NO_ERROR)
