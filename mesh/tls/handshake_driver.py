"""The TLS handshake on a trio socket, through memory BIOs.

OpenSSL never sees the socket. The handshake shovels bytes between the socket and two memory BIOs; afterwards whoever
relays takes socket, SSL object and BIOs over and drives them in its own way (many records per read, one send for many
records). Bytes of the peer that came with the last flight stay in the incoming BIO: the new owner reads the SSL object
before it waits for the socket, else it waits for bytes it already has.

Where the kernel is to have the keys afterwards (``kernel_driver``), one record is read at a time, and the step that it
makes possible is taken before the next: then nothing that the handshake does not need has left the socket.

Every failure closes nothing: the caller owns the socket. An alert that OpenSSL has written is sent first, best effort,
so that the peer's log can say why.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias, overload

import trio

from mesh.errors import InternalError, TlsFailure
from mesh.tls.context import ALPN
from mesh.tls.failures import translate_ssl_error
from mesh.tls.kernel_driver import KernelTls
from mesh.tls.key_schedule_codec import SUITES, read_traffic_secrets
from mesh.tls.suites import require_allowed_suite

_READ_SIZE = 16 * 1024
# A flight with the largest chain OpenSSL takes (100 KiB) fits; whoever sends more without finishing is not a peer.
_MAX_HANDSHAKE_BYTES = 192 * 1024
_ALERT_SECONDS = 1.0
_RECORD_HEADER = 5
_RECORD_TYPES = (20, 21, 22, 23)
_RECORD_VERSION = 3
"""The first byte of it; the second has not meant anything since TLS 1.3."""


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


@dataclass(frozen=True, slots=True)
class KernelHasTls:
    """A finished handshake whose keys the kernel has: what is sent on the socket, and received, is plain."""

    peer_identity_der: bytes
    """As that of :class:`EstablishedTls`."""


@overload
async def handshake(
    stream_socket: trio.socket.SocketType, context: ssl.SSLContext, *, server_side: bool, deadline: float
) -> EstablishedTls: ...


@overload
async def handshake(
    stream_socket: trio.socket.SocketType,
    context: ssl.SSLContext,
    *,
    server_side: bool,
    deadline: float,
    kernel: KernelTls | None,
) -> EstablishedTls | KernelHasTls: ...


async def handshake(
    stream_socket: trio.socket.SocketType,
    context: ssl.SSLContext,
    *,
    server_side: bool,
    deadline: float,
    kernel: KernelTls | None = None,
) -> EstablishedTls | KernelHasTls:
    """Run a handshake to its end on a connected socket.

    Args:
        stream_socket: connected, nothing read from it or written to it concurrently.
        context: of ``mesh.tls.context``, of the same side.
        server_side: whether we are the accepting side.
        deadline: trio's clock, seconds.
        kernel: gives the keys to the kernel, if it takes them; its key log is attached to the context.

    Raises:
        TlsFailure: the deadline passed, the peer closed, reset, or is not acceptable; the text says which and why.
    """
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    ssl_object = context.wrap_bio(incoming, outgoing, server_side=server_side)
    received = 0
    told = bytearray()
    with trio.CancelScope(deadline=deadline):
        try:
            while True:
                try:
                    if kernel is None:
                        ssl_object.do_handshake()
                    else:
                        _step_that_tells(ssl_object, kernel, told)
                except ssl.SSLWantReadError:
                    await _flush(stream_socket, outgoing)
                    read = _read_some if kernel is None else _read_record
                    received += await _fill(stream_socket, read, incoming, received, server_side=server_side)
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
        tls = _check(ssl_object, incoming, outgoing)
        if kernel is not None and _give_to_kernel(stream_socket, tls, kernel, told, server_side=server_side):
            return KernelHasTls(tls.peer_identity_der)
        return tls
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


def _step_that_tells(ssl_object: ssl.SSLObject, kernel: KernelTls, told: bytearray) -> None:
    """A step of the handshake, and what OpenSSL tells in it, which nobody else's step can have put there."""
    kernel.key_log.take()
    try:
        ssl_object.do_handshake()
    finally:
        told += kernel.key_log.take()


def _give_to_kernel(
    stream_socket: trio.socket.SocketType, tls: EstablishedTls, kernel: KernelTls, told: bytearray, *, server_side: bool
) -> bool:
    cipher = tls.ssl_object.cipher()
    assert cipher is not None, "the handshake is over, and its suite has been checked"
    suite = SUITES[cipher[0]]
    try:
        secrets = read_traffic_secrets(suite, told)
        if tls.incoming.pending or tls.outgoing.pending or tls.ssl_object.pending():
            raise InternalError("a handshake that was read record by record has read beyond its end")
    except InternalError as error:
        kernel.decline(error)  # OpenSSL can go on, whatever we have misunderstood
        return False
    finally:
        told[:] = bytes(len(told))
    return kernel.give(stream_socket, suite, secrets, server_side=server_side)


Reader: TypeAlias = Callable[[trio.socket.SocketType], Awaitable[bytes]]


async def _read_some(stream_socket: trio.socket.SocketType) -> bytes:
    return await stream_socket.recv(_READ_SIZE)


async def _read_record(stream_socket: trio.socket.SocketType) -> bytes:
    """One record; less when the peer has closed, or its first bytes are those of no record, about which OpenSSL has to
    say more than that the rest is missing.
    """
    record = b""
    size = _RECORD_HEADER
    while len(record) < size:
        data = await stream_socket.recv(size - len(record))
        if not data:
            break
        record += data
        if len(record) == _RECORD_HEADER and record[0] in _RECORD_TYPES and record[1] == _RECORD_VERSION:
            size = _RECORD_HEADER + int.from_bytes(record[3:], "big")
    return record


async def _fill(
    stream_socket: trio.socket.SocketType, read: Reader, incoming: ssl.MemoryBIO, received: int, *, server_side: bool
) -> int:
    data = await read(stream_socket)
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
