"""The TLS handshake on a trio socket, through memory BIOs.

OpenSSL never sees the socket. The handshake shovels bytes between the socket and two memory BIOs; afterwards whoever
relays takes socket, SSL object and BIOs over and drives them in its own way (many records per read, one send for many
records). Bytes of the peer that came with the last flight stay in the incoming BIO: the new owner reads the SSL object
before it waits for the socket, else it waits for bytes it already has.

Every failure closes nothing: the caller owns the socket. An alert that OpenSSL has written is sent first, best effort,
so that the peer's log can say why.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass

import trio

from mesh.errors import TlsFailure
from mesh.tls.context import ALPN
from mesh.tls.failures import translate_ssl_error
from mesh.tls.suites import require_allowed_suite

_READ_SIZE = 16 * 1024
# A flight with the largest chain OpenSSL takes (100 KiB) fits; whoever sends more without finishing is not a peer.
_MAX_HANDSHAKE_BYTES = 192 * 1024
_ALERT_SECONDS = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class EstablishedTls:
    """A finished handshake, ready to be taken over."""

    ssl_object: ssl.SSLObject
    incoming: ssl.MemoryBIO
    """Ciphertext from the peer goes in here; may already hold some."""
    outgoing: ssl.MemoryBIO
    """Ciphertext for the peer comes out here; empty now."""
    peer_identity_der: bytes
    """The peer's certificate, its chain verified; empty where the context asks for none."""


async def handshake(
    stream_socket: trio.socket.SocketType, context: ssl.SSLContext, *, server_side: bool, deadline: float
) -> EstablishedTls:
    """Run a handshake to its end on a connected socket.

    Args:
        stream_socket: connected, nothing read from it or written to it concurrently.
        context: of ``mesh.tls.context``, of the same side.
        server_side: whether we are the accepting side.
        deadline: trio's clock, seconds.

    Raises:
        TlsFailure: the deadline passed, the peer closed, reset, or is not acceptable; the text says which and why.
    """
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    ssl_object = context.wrap_bio(incoming, outgoing, server_side=server_side)
    received = 0
    with trio.CancelScope(deadline=deadline):
        try:
            while True:
                try:
                    ssl_object.do_handshake()
                except ssl.SSLWantReadError:
                    await _flush(stream_socket, outgoing)
                    received += await _fill(stream_socket, incoming, received, server_side=server_side)
                else:
                    break
            await _flush(stream_socket, outgoing)
        except ssl.SSLError as error:
            await _flush_alert(stream_socket, outgoing)
            raise translate_ssl_error(error, server_side=server_side) from error
        except OSError as error:
            raise TlsFailure(
                f"the connection broke during the TLS handshake ({error.strerror or error}): the peer refused it or "
                "ended; its log may say why"
            ) from error
        return _check(ssl_object, incoming, outgoing)
    raise TlsFailure(
        f"no TLS handshake in time: the peer sent {received} bytes and then nothing more; it is overloaded, or does "
        "not speak TLS"
    )


def _check(ssl_object: ssl.SSLObject, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> EstablishedTls:
    require_allowed_suite(ssl_object)
    protocol = ssl_object.selected_alpn_protocol()
    if protocol != ALPN:
        raise TlsFailure(
            f"the peer agreed on {protocol or 'no application protocol'}, the mesh speaks {ALPN}: it is not a proxy of "
            "the mesh"
        )
    return EstablishedTls(ssl_object, incoming, outgoing, ssl_object.getpeercert(binary_form=True) or b"")


async def _flush(stream_socket: trio.socket.SocketType, outgoing: ssl.MemoryBIO) -> None:
    data = memoryview(outgoing.read())
    while data:
        data = data[await stream_socket.send(data) :]


async def _fill(
    stream_socket: trio.socket.SocketType, incoming: ssl.MemoryBIO, received: int, *, server_side: bool
) -> int:
    data = await stream_socket.recv(_READ_SIZE)
    peer = "client" if server_side else "server"
    if not data:
        seen = f"after {received} bytes" if received else "without a byte"
        raise TlsFailure(f"the {peer} closed the connection during the TLS handshake, {seen}: {_closed_hint(received)}")
    if received + len(data) > _MAX_HANDSHAKE_BYTES:
        raise TlsFailure(f"the {peer} sent more than {_MAX_HANDSHAKE_BYTES} bytes without finishing the handshake")
    incoming.write(data)
    return len(data)


def _closed_hint(received: int) -> str:
    return "it gave up; its log may say why" if received else "a port check, or it does not speak TLS"


async def _flush_alert(stream_socket: trio.socket.SocketType, outgoing: ssl.MemoryBIO) -> None:
    with trio.move_on_after(_ALERT_SECONDS):
        try:
            await _flush(stream_socket, outgoing)
        except OSError:
            pass  # The peer is gone: nobody is left to tell.
