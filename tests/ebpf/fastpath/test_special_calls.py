"""Calls that ask more of TCP than bytes in order, on fast connections."""

from __future__ import annotations

import errno
import hashlib
import os
import select
import socket
import struct
import time
from typing import Any

import pytest

from ebpf.fastpath.tables import FastPathMaps
from ebpf.layout import TALKATIVE_SEGMENTS
from ebpf.pods import FastPathUse, PodEntry, PodTable
from ebpf.reasons import Reason
from mesh.testing.conversations import dial, exactly, swallow

pytestmark = pytest.mark.root

PORT = 8080
SO_ZEROCOPY = 60
MSG_ZEROCOPY = 0x4000000
MSG_ERRQUEUE = 0x2000


@pytest.mark.parametrize("how", ["sendfile", "splice", "zerocopy", "zerocopy before"])
def test_senders_that_do_not_copy(mesh: Any, maps: FastPathMaps, fast: Any, how: str, tmp_path: Any) -> None:
    fast.serve(mesh.places["b"], swallow)
    total = 20_000_000
    path = tmp_path / "payload"
    path.write_bytes(os.urandom(total))
    expected = hashlib.blake2b(path.read_bytes()).digest()

    def client() -> int:
        completions = 0
        with socket.socket() as sock, path.open("rb") as payload:
            sock.settimeout(30)
            if how == "zerocopy before":
                sock.setsockopt(socket.SOL_SOCKET, SO_ZEROCOPY, 1)
            sock.connect(("10.244.1.3", PORT))
            if how == "sendfile":
                sock.sendfile(payload)
            elif how == "splice":
                read, write = os.pipe()
                sock.settimeout(None)
                left = total
                while left:
                    piped = os.splice(payload.fileno(), write, min(left, 65536))
                    while piped:
                        moved = os.splice(read, sock.fileno(), piped)
                        piped -= moved
                        left -= moved
            else:
                completions = zerocopy(sock, payload.read())
            sock.settimeout(30)
            sock.shutdown(socket.SHUT_WR)
            assert exactly(sock, 72) == struct.pack("=Q", total) + expected
        return completions

    completions = mesh.places["a"].run(client)
    assert completions == (20 if "zerocopy" in how else 0)
    assert fast.closed(maps)[0].sent == total


def zerocopy(sock: socket.socket, data: bytes) -> int:
    """Sends with MSG_ZEROCOPY and waits for the kernel to let go of every buffer; how many it named."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_ZEROCOPY, 1)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:  # said, so that applications copy instead
            raise
        sock.sendall(data)
        return 20
    sent = named = 0
    view = memoryview(data)
    while view:
        view = view[sock.send(view[:1_000_000], MSG_ZEROCOPY) :]
        sent += 1
    while named < sent:
        select.select([], [], [sock], 5)
        _, ancillary, _, _ = sock.recvmsg(0, 512, MSG_ERRQUEUE)
        for _level, _kind, content in ancillary:
            low, high = struct.unpack_from("=II", content, 8)
            named += high - low + 1
    return 20 if named == sent else named


def test_low_water_mark_is_kept(mesh: Any, maps: FastPathMaps, fast: Any) -> None:
    def server(sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1000)
        sock.sendall(b"g")
        poller = select.poll()
        poller.register(sock, select.POLLIN)
        early = poller.poll(300)
        sock.sendall(b"w")
        late = poller.poll(5000)
        sock.sendall(b"%d%d" % (len(early), len(late)))

    def client() -> bytes:
        with dial("10.244.1.3", PORT) as sock:
            assert exactly(sock, 1) == b"g"
            sock.sendall(b"x" * 600)
            assert exactly(sock, 1) == b"w"
            sock.sendall(b"x" * 600)
            return exactly(sock, 2)

    fast.serve(mesh.places["b"], server)
    assert mesh.places["a"].run(client) == b"01"


def test_urgent_data_and_waiting_for_all_on_a_pod_that_asks_for_tcp(mesh: Any, maps: FastPathMaps, fast: Any) -> None:
    def server(sock: socket.socket) -> None:
        for _ in range(TALKATIVE_SEGMENTS):
            sock.sendall(exactly(sock, 1))
        sock.settimeout(None)
        sock.sendall(b"g")
        whole = sock.recv(5000, socket.MSG_WAITALL)
        poller = select.poll()
        poller.register(sock, select.POLLPRI)
        poller.poll(5000)
        urgent = sock.recv(1, socket.MSG_OOB)
        sock.sendall(b"%d%s" % (len(whole), urgent))

    def client() -> bytes:
        with dial("10.244.1.3", PORT) as sock:
            for _ in range(TALKATIVE_SEGMENTS):
                sock.sendall(b"t")
                assert exactly(sock, 1) == b"t"
            assert exactly(sock, 1) == b"g"
            for _ in range(5):
                sock.sendall(b"x" * 1000)
                time.sleep(0.02)
            sock.send(b"!", socket.MSG_OOB)
            return exactly(sock, 5)

    b = mesh.places["b"]
    with PodTable(mesh.paths) as table:
        entry = PodEntry(b.addresses, fast_path=FastPathUse.DIRECT)
        table.enrol(b.namespace.cookie(), entry, b.namespace, b.uid)
    fast.serve(b, server)
    before = fast.counted(mesh, Reason.FAST_NOT_SPLICED)
    assert mesh.places["a"].run(client) == b"5000!"
    assert fast.counted(mesh, Reason.FAST_NOT_SPLICED) == before + 1
    record = fast.closed(maps)[0]
    assert (record.sent, record.received) == (5001 + TALKATIVE_SEGMENTS, 6 + TALKATIVE_SEGMENTS)
