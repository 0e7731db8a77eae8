"""A tunnel whose TLS is the kernel's (``mesh.tls.kernel_driver``): plain bytes go to and come from the socket.

What is received lands in the engine's plain buffer, where the machine reads it; what is sent goes out of the buffer in
which it was collected, or read from the application. A ``send`` becomes as many records as it takes, and ends with one
that is complete, so what the peer waits for is never held back.

Records of other kinds than application data stand in the way of ``recv``, which fails with EIO until ``recvmsg`` has
fetched them.
"""

from __future__ import annotations

import errno
import socket
from typing import Final

from mesh.errors import TlsFailure
from mesh.hbone.contract import HboneSettings, Role
from mesh.identity import SpiffeId
from mesh.relay.engine import READ_SIZE, Engine
from mesh.relay.tunnel import Buffer, Tunnel, TunnelOwner
from mesh.tls.kernel_codec import (
    APPLICATION_DATA,
    BAD_RECORD,
    CLOSE_NOTIFY,
    Control,
    judge_control,
    record_type,
    translate_socket_error,
)
from mesh.tls.kernel_driver import CONTROL_SPACE, send_alert

CONTROL_SIZE: Final = 16384
"""Bytes in one record."""
MAX_CONTROLS: Final = 16
"""Records that are no application data and ask for nothing, over a tunnel's life: servers send a few tickets at its
start, and whoever sends more makes work."""


class KernelTunnel(Tunnel):
    """See the module's docstring."""

    __slots__ = ("_alert", "_controls", "_server_side")

    def __init__(
        self,
        engine: Engine,
        sock: socket.socket,
        role: Role,
        owner: TunnelOwner,
        peer_identity: SpiffeId | str,
        settings: HboneSettings | None = None,
    ) -> None:
        super().__init__(engine, sock, role, owner, peer_identity, settings)
        self._server_side = role is Role.SERVER
        self._controls = 0
        self._alert = CLOSE_NOTIFY
        """What TLS ends with."""

    def start(self) -> None:
        """Nothing has arrived together with the end of the handshake: it is in the socket, which is watched."""

    # -- output ------------------------------------------------------------------------------------------------------

    def send_now(self, frames: memoryview) -> None:
        """Send what is large; nothing else waits to be sent."""
        self._send(frames)

    def _send_outgoing(self) -> None:
        outgoing: Buffer = self.machine.outgoing
        if outgoing:
            self.machine.outgoing = bytearray()
            self._send(outgoing)

    def _say_goodbye(self) -> None:
        outgoing = self.machine.outgoing
        if not outgoing or self.sock.send(outgoing) == len(outgoing):
            send_alert(self.sock, self._alert)

    # -- input -------------------------------------------------------------------------------------------------------

    def _receive(self) -> None:
        view = self.engine.plain_view
        start = len(self._leftover)
        if start:
            view[:start] = self._leftover
        try:
            size = self.sock.recv_into(view[start:], READ_SIZE)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno == errno.EIO:
                self._receive_control()
            else:
                self._socket_failed(error)
            return
        if size:
            self._parse(start + size)
        else:
            self._ended()

    def _receive_control(self) -> None:
        try:
            content, ancillary, _, _ = self.sock.recvmsg(CONTROL_SIZE, CONTROL_SPACE)
        except BlockingIOError:
            return
        except OSError as error:
            self._socket_failed(error)
            return
        try:
            kind = record_type(ancillary)
            if kind == APPLICATION_DATA:
                raise TlsFailure("the kernel's TLS would not give out application data")
            control = judge_control(kind, content, server_side=self._server_side)
            self._controls += 1
            if self._controls > MAX_CONTROLS:
                raise TlsFailure(f"the peer sent more than {MAX_CONTROLS} TLS records that carry nothing")
        except TlsFailure as failure:
            self.close(failure)
            return
        if control is Control.CLOSE:
            self._ended()

    def _socket_failed(self, error: OSError) -> None:
        """What the kernel finds wrong with a record's header it tells whoever calls next, who may want to send."""
        failure = translate_socket_error(error)
        if failure is not None:
            self._alert = BAD_RECORD
            self.close(failure)
        else:
            super()._socket_failed(error)
