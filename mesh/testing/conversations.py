"""What applications say to one another over TCP: random bytes with their digests, exact reads, a server of threads."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import select
import socket
import struct
import threading
import time
from collections.abc import Callable

SECONDS = 30.0
"""After which a conversation that got stuck fails."""


def listen(port: int, backlog: int = 4096) -> socket.socket:
    """A dual-stack listener."""
    listener = socket.socket(socket.AF_INET6)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listener.bind(("::", port))
    listener.listen(backlog)
    return listener


def serve(port: int, tell: int, handle: Callable[[socket.socket], object]) -> None:
    """A dual-stack server, a thread per connection, for ever.

    Args:
        port: to listen on.
        tell: descriptor that one byte is written to when it listens.
        handle: the conversation. Its socket is in non-blocking mode under Python's time-out.
    """
    listener = listen(port)
    os.write(tell, b"r")
    while True:
        accepted, _ = listener.accept()
        accepted.settimeout(SECONDS)
        threading.Thread(target=_guarded, args=(handle, accepted), daemon=True).start()


def serve_many(port: int, tell: int) -> None:
    """A dual-stack echo of small messages: one thread for thousands of connections, for ever.

    Args:
        port: to listen on.
        tell: descriptor that one byte is written to when it listens.
    """
    listener = listen(port)
    listener.setblocking(False)
    os.write(tell, b"r")
    connections: dict[int, socket.socket] = {}
    with select.epoll() as epoll:
        epoll.register(listener.fileno(), select.EPOLLIN)
        while True:
            for descriptor, _ in epoll.poll(maxevents=1024):
                if descriptor == listener.fileno():
                    with contextlib.suppress(BlockingIOError):
                        while True:
                            accepted, _ = listener.accept()
                            accepted.setblocking(False)
                            connections[accepted.fileno()] = accepted
                            epoll.register(accepted.fileno(), select.EPOLLIN | select.EPOLLRDHUP)
                elif not _echoed(connections[descriptor]):
                    connections.pop(descriptor).close()


def _echoed(sock: socket.socket) -> bool:
    """Say back what is there; whether there will be more."""
    try:
        while data := sock.recv(65536):
            sock.sendall(data)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _guarded(handle: Callable[[socket.socket], object], accepted: socket.socket) -> None:
    with accepted, contextlib.suppress(OSError):
        handle(accepted)


def dial(host: str, port: int) -> socket.socket:
    """A connected client."""
    client = socket.create_connection((host, port), timeout=SECONDS)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


def chatting(sock: socket.socket) -> None:
    """The server's side of ``chat``."""
    while exactly(sock, 1) == b"c":
        sock.sendall(b"c")


def chat(sock: socket.socket, enough: Callable[[], bool] | None) -> int:
    """Say a byte and be answered, until a condition holds or, without one, a thousand times; then say that it is over.

    Returns:
        how many bytes were said.

    Raises:
        TimeoutError: the condition does not come to hold.
    """
    deadline, number = time.monotonic() + SECONDS / 3, 0
    while not (number == 1000 if enough is None else enough()):
        sock.sendall(b"c")
        if exactly(sock, 1) != b"c":
            raise ConnectionResetError("the server ended the chat")
        number += 1
        if time.monotonic() > deadline:
            raise TimeoutError(f"nothing came of {number} exchanges")
    sock.sendall(b".")
    return number + 1


def digest_of(sock: socket.socket, bufsize: int = 1 << 20) -> tuple[int, bytes]:
    """Reads to the end: size and digest of all."""
    digest, size = hashlib.blake2b(), 0
    while data := sock.recv(bufsize):
        digest.update(data)
        size += len(data)
    return size, digest.digest()


def say(sock: socket.socket, total: int, seed: int) -> bytes:
    """Sends so many random bytes in pieces of random sizes; their digest."""
    source, digest, pool = random.Random(seed), hashlib.blake2b(), os.urandom(1 << 21)
    while total:
        start = source.randrange(1 << 20)
        size = min(total, source.choice((1, 100, 5000, 65536, 1 << 20)) * source.randint(1, 3) % (1 << 20) + 1)
        piece = pool[start : start + size]
        digest.update(piece)
        sock.sendall(piece)
        total -= size
    return digest.digest()


def report(sock: socket.socket, size: int, digest: bytes) -> None:
    """Sends what ``digest_of`` found."""
    sock.sendall(struct.pack("=Q", size) + digest)


def exactly(sock: socket.socket, size: int) -> bytes:
    """Reads so many bytes, fewer if the other side ends before."""
    buffer, filled = bytearray(size), 0
    view = memoryview(buffer)
    while filled < size:
        part = sock.recv_into(view[filled : filled + (1 << 20)])
        if not part:
            break
        filled += part
    return bytes(buffer[:filled])


def swallow(sock: socket.socket) -> None:
    """Reads to the end, answers with what it was: the answer follows the client's half close."""
    report(sock, *digest_of(sock))


def echo(sock: socket.socket) -> None:
    """Says back what it reads."""
    while data := sock.recv(65536):
        sock.sendall(data)
