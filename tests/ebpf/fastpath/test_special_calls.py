"""Calls that ask more of TCP than bytes in order: kept on the splice, or refused there, or kept by staying on TCP."""

from __future__ import annotations

import errno
import hashlib
import os
import select
import socket
import time
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from mesh.testing.conversations import SECONDS, digest_of, exactly

pytestmark = pytest.mark.root

PORT = 8080
B = "10.244.1.3"
TOTAL = 20_000_000
SO_ZEROCOPY = 60
MSG_ZEROCOPY = 0x4000000
MSG_ERRQUEUE = 0x2000
ULP = 31


@pytest.fixture
def payload(tmp_path: Path) -> Path:
    path = tmp_path / "payload"
    path.write_bytes(os.urandom(TOTAL))
    return path


def by_sendfile(sock: socket.socket, file: BinaryIO) -> None:
    sock.sendfile(file)


def by_splice(sock: socket.socket, file: BinaryIO) -> None:
    read, write = os.pipe()
    poller = select.poll()
    poller.register(sock, select.POLLOUT)
    while piped := os.splice(file.fileno(), write, 65536):
        while piped:
            try:
                piped -= os.splice(read, sock.fileno(), piped)
            except BlockingIOError:
                assert poller.poll(SECONDS * 1000)
    os.close(read)
    os.close(write)


def by_zerocopy(sock: socket.socket, file: BinaryIO) -> None:
    """With MSG_ZEROCOPY, until the kernel has let go of every buffer; as any other, where the kernel says it cannot."""
    data = file.read()
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_ZEROCOPY, 1)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        sock.sendall(data)
        return
    sent = named = 0
    view = memoryview(data)
    while view:
        view = view[sock.send(view[:1_000_000], MSG_ZEROCOPY) :]
        sent += 1
    poller = select.poll()
    poller.register(sock, 0)  # POLLERR
    while named < sent:
        assert poller.poll(SECONDS * 1000)
        _, ancillary, _, _ = sock.recvmsg(0, 512, MSG_ERRQUEUE)
        for _level, _kind, content in ancillary:
            low, high = (int.from_bytes(content[at : at + 4], "little") for at in (8, 12))
            named += high - low + 1
    assert named == sent


@pytest.mark.parametrize("how", [by_sendfile, by_splice, by_zerocopy])
def test_senders_that_do_not_copy(wire: Any, payload: Path, how: Any) -> None:
    def client(sock: socket.socket) -> int:
        before = wire.sent(sock).spliced
        with payload.open("rb") as file:
            how(sock, file)
        sock.settimeout(SECONDS)
        spliced = int(wire.sent(sock).spliced - before)
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b""
        return spliced

    wire.serve(digest_of)
    spliced = wire.call(client)
    assert wire.outcome() == (TOTAL, hashlib.blake2b(payload.read_bytes()).digest())
    assert (spliced > 0) == wire.spliced


def test_a_socket_that_has_asked_for_zerocopy_stays_on_tcp(fast: Any, splice: Any, payload: Path) -> None:
    """The splice cannot tell when a buffer is free again."""
    plain = fast.wire(splice.node, spliced=False)

    def client() -> None:
        with socket.socket() as sock, payload.open("rb") as file:
            sock.settimeout(SECONDS)
            sock.setsockopt(socket.SOL_SOCKET, SO_ZEROCOPY, 1)
            sock.connect((B, PORT))
            plain.settle(sock)
            by_zerocopy(sock, file)
            sock.shutdown(socket.SHUT_WR)
            assert sock.recv(1) == b""

    plain.serve(digest_of)
    splice.node.places["a"].run(client)
    assert plain.outcome() == (TOTAL, hashlib.blake2b(payload.read_bytes()).digest())
    plain.close()


def test_a_protocol_upon_a_spliced_socket_is_refused(splice: Any) -> None:
    """kTLS on top of the splice would hand plaintext to the other application: programs then do without kTLS."""

    def client(sock: socket.socket) -> int | None:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, ULP, b"tls")
        except OSError as error:
            return error.errno
        return None

    splice.serve(lambda sock: sock.recv(1))
    assert splice.call(client) == errno.EOPNOTSUPP


# -- what only TCP can do: pods annotated ``ambimesh.dev/fast-path: direct`` -------------------------------------------


def test_urgent_data(direct: Any) -> None:
    def server(sock: socket.socket) -> list[bytes]:
        poller = select.poll()
        poller.register(sock, select.POLLPRI)
        assert poller.poll(SECONDS * 1000)
        heard = [sock.recv(1, socket.MSG_OOB), sock.recv(100)]
        sock.sendall(b"k")
        return [*heard, exactly(sock, 2)]

    def client(sock: socket.socket) -> None:
        sock.sendall(b"ab")
        sock.send(b"!", socket.MSG_OOB)
        assert exactly(sock, 1) == b"k"
        sock.sendall(b"cd")
        assert sock.recv(1) == b""

    direct.serve(server)
    direct.call(client)
    assert direct.outcome() == [b"!", b"ab", b"cd"]


def test_a_socket_that_is_made_to_block_waits_for_all(direct: Any) -> None:
    def server(sock: socket.socket) -> int:
        sock.settimeout(None)
        return len(sock.recv(5000, socket.MSG_WAITALL))

    def client(sock: socket.socket) -> None:
        for _ in range(5):
            sock.sendall(b"x" * 1000)
            time.sleep(0.02)
        assert sock.recv(1) == b""

    direct.serve(server)
    direct.call(client)
    assert direct.outcome() == 5000


def test_splice_as_the_reader(direct: Any, payload: Path) -> None:
    """From the socket into a pipe, and from the pipe back into the socket, as proxies do."""

    def server(sock: socket.socket) -> int:
        read, write = os.pipe()
        poller, moved = select.poll(), 0
        poller.register(sock, select.POLLIN)
        while poller.poll(SECONDS * 1000):
            piped = os.splice(sock.fileno(), write, 65536)
            if not piped:
                break
            moved += piped
            while piped:
                piped -= os.splice(read, sock.fileno(), piped)
        return moved

    def client(sock: socket.socket) -> None:
        data = payload.read_bytes()[:1_000_000]
        for at in range(0, len(data), 50_000):
            sock.sendall(data[at : at + 50_000])
            assert exactly(sock, 50_000) == data[at : at + 50_000]

    direct.serve(server)
    direct.call(client)
    assert direct.outcome() == 1_000_000
