"""A tunnel whose TLS is OpenSSL's, over memory BIOs.

Every ``recv`` takes up to :data:`~mesh.relay.engine.READ_SIZE` bytes, OpenSSL decrypts them record by record into the
engine's plain buffer. A large DATA frame on an idle tunnel is encrypted from the buffer it was read into.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from typing import Any, Final

from mesh.errors import TlsFailure
from mesh.hbone.contract import HboneSettings, Role
from mesh.identity import SpiffeId
from mesh.relay.engine import READ_SIZE, Engine
from mesh.relay.tunnel import Buffer, Tunnel, TunnelOwner
from mesh.tls.handshake_driver import EstablishedTls

SLICE: Final = 128 * 1024
"""Bytes that pass through OpenSSL's buffers at a time. Those never shrink, and what stays small stays in the cache."""
RECORD: Final = 16384
"""Plain bytes in one TLS record (RFC 8446 section 5.1)."""


class OpensslTunnel(Tunnel):
    """See the module's docstring."""

    __slots__ = ("_incoming", "_outgoing", "_read_plain", "_tls", "_write_plain")

    def __init__(
        self,
        engine: Engine,
        sock: socket.socket,
        tls: EstablishedTls,
        role: Role,
        owner: TunnelOwner,
        peer_identity: SpiffeId | str,
        settings: HboneSettings | None = None,
    ) -> None:
        super().__init__(engine, sock, role, owner, peer_identity, settings)
        self._tls = tls.ssl_object
        # What is behind it, when there: a call of Python's less for every record, either way.
        session: Any = getattr(tls.ssl_object, "_sslobj", None) or tls.ssl_object
        self._write_plain: Callable[[Buffer], int] = session.write
        self._read_plain: Callable[[int, memoryview], int] = session.read
        self._incoming = tls.incoming
        self._outgoing = tls.outgoing

    def start(self) -> None:
        """Handle what arrived together with the end of the handshake."""
        self._decrypt()

    # -- output ------------------------------------------------------------------------------------------------------

    def send_now(self, frames: memoryview) -> None:
        """Send what is large; nothing else waits to be sent."""
        for start in range(0, len(frames), SLICE):
            self._encrypt(frames[start : start + SLICE])
            self._send_encrypted()
            if self.closed:
                return

    def _send_outgoing(self) -> None:
        outgoing = self.machine.outgoing
        if len(outgoing) > RECORD:
            self.machine.outgoing = bytearray()
            self.send_now(memoryview(outgoing))
            return
        if outgoing:
            self._write_plain(outgoing)
            outgoing.clear()
        self._send_encrypted()

    def _encrypt(self, view: memoryview) -> None:
        write = self._write_plain
        position, end = 0, len(view)
        while position < end:
            position += write(view[position : position + RECORD])

    def _send_encrypted(self) -> None:
        data = self._outgoing.read()
        if data:
            self._send(data)

    def _say_goodbye(self) -> None:
        try:
            self._encrypt(memoryview(bytes(self.machine.outgoing)))
            self._tls.unwrap()
        except ssl.SSLError:
            pass  # the peer has not said good-bye, and need not
        self.sock.send(self._outgoing.read())

    # -- input -------------------------------------------------------------------------------------------------------

    def _receive(self) -> None:
        try:
            size = self.sock.recv_into(self.engine.read_view, READ_SIZE)
        except BlockingIOError:
            return
        except OSError as error:
            self._socket_failed(error)
            return
        if not size:
            self._ended()
            return
        for start in range(0, size, SLICE):
            self._incoming.write(self.engine.read_view[start : min(start + SLICE, size)])
            self._decrypt()
            if self.closed:
                return

    def _decrypt(self) -> None:
        view = self.engine.plain_view
        read = self._read_plain
        end = len(self._leftover)
        if end:
            view[:end] = self._leftover
        try:
            while True:
                size = read(RECORD, view[end:])
                if not size:
                    self._parse(end)
                    self._ended()
                    return
                end += size
                if not self._incoming.pending:
                    break  # all of it: asking again would only raise
                if end > READ_SIZE:
                    self._parse(end)
                    if self.closed:
                        return
                    end = len(self._leftover)
                    if end:
                        view[:end] = self._leftover
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            self.close(TlsFailure(f"the tunnel's TLS failed: {error.reason or error}"))
            return
        self._parse(end)
        if self._outgoing.pending and not self.closed:
            self._send_encrypted()  # a key update's answer
