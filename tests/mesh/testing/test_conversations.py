"""Conversations between two sockets of this process."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import struct
import threading

import pytest

from mesh.testing.conversations import chat, chatting, digest_of, echo, exactly, say, serve_many, swallow


def test_what_is_said_is_what_is_swallowed() -> None:
    one, other = socket.socketpair()
    with one, other:
        listener = threading.Thread(target=swallow, args=(other,))
        listener.start()
        digest = say(one, 300_000, 1)
        one.shutdown(socket.SHUT_WR)
        assert exactly(one, 72) == struct.pack("=Q", 300_000) + digest
        listener.join()


@pytest.mark.parametrize("size", [1, 100_000])
def test_an_echo_says_it_back(size: int) -> None:
    one, other = socket.socketpair()
    with one, other:
        speaker = threading.Thread(target=echo, args=(other,))
        speaker.start()
        one.sendall(b"x" * size)
        assert exactly(one, size) == b"x" * size
        one.shutdown(socket.SHUT_WR)
        speaker.join()


def test_an_early_end_is_seen() -> None:
    one, other = socket.socketpair()
    with one:
        with other:
            other.sendall(b"ab")
        assert exactly(one, 5) == b"ab"
        assert digest_of(one) == (0, hashlib.blake2b().digest())


@pytest.mark.parametrize("wanted", [None, 3])
def test_a_chat_lasts_until_it_is_enough(wanted: int | None) -> None:
    asked = iter(range(1000))
    one, other = socket.socketpair()
    with one, other:
        server = threading.Thread(target=chatting, args=(other,))
        server.start()
        said = chat(one, None if wanted is None else lambda: next(asked) == wanted)
        server.join()
        assert said == 1 + (1000 if wanted is None else wanted)
        other.sendall(b"x")  # nothing else was said
        assert one.recv(10) == b"x"


def test_a_chat_of_which_nothing_comes_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mesh.testing.conversations.SECONDS", 0.1)
    one, other = socket.socketpair()
    with one:
        server = threading.Thread(target=chatting, args=(other,))
        server.start()
        with pytest.raises(TimeoutError, match="nothing came of"):
            chat(one, lambda: False)
        one.shutdown(socket.SHUT_WR)
        server.join()
        other.close()


def test_an_echo_for_many_answers_each_with_its_own() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        serve_many(port, tell)
    os.close(tell)
    try:
        with open(ready, "rb") as pipe:
            assert pipe.read(1) == b"r"
            socks = [socket.create_connection((host, port), timeout=10) for host in ("127.0.0.1", "::1") * 20]
            for number, sock in enumerate(socks):
                sock.sendall(b"%04d" % number)
            assert [exactly(sock, 4) for sock in socks] == [b"%04d" % number for number in range(len(socks))]
            socks[0].shutdown(socket.SHUT_WR)
            assert socks[0].recv(1) == b""
            for sock in socks:
                sock.close()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
