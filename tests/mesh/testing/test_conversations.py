"""Conversations between two sockets of this process."""

from __future__ import annotations

import hashlib
import socket
import struct
import threading

import pytest

from mesh.testing.conversations import digest_of, echo, exactly, say, swallow


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
