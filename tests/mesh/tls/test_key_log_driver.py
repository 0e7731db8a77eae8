from __future__ import annotations

import os
import ssl
import subprocess

import pytest

from mesh.errors import EnvironmentLacks
from mesh.tls.key_log_driver import KeyLog


@pytest.fixture
def key_log() -> KeyLog:
    return KeyLog()


def written(key_log: KeyLog, text: bytes) -> None:
    with open(f"/proc/self/fd/{key_log._fd}", "ab") as file:  # as a context does
        file.write(text)


def test_what_is_told_is_taken_once(key_log: KeyLog) -> None:
    written(key_log, b"one\n")
    written(key_log, b"two\n")
    assert key_log.take() == b"one\ntwo\n"
    assert key_log.take() == b""
    written(key_log, b"three\n")
    assert key_log.take() == b"three\n"
    assert os.fstat(key_log._fd).st_size == 0
    key_log.close()


def test_what_has_been_taken_is_overwritten(key_log: KeyLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "ftruncate", lambda *_: None)
    written(key_log, b"a secret\n")
    key_log.take()
    assert os.pread(key_log._fd, 100, 0) == bytes(9)
    key_log.close()


def test_programs_that_are_started_do_not_inherit_it(key_log: KeyLog) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    key_log.attach(context)
    look = ["ls", "-l", "/proc/self/fd"]
    assert "key-log" not in subprocess.run(look, capture_output=True, text=True, close_fds=False, check=True).stdout
    key_log.close()


def test_without_proc_the_reason_is_told(key_log: KeyLog) -> None:
    key_log.close()
    with pytest.raises(EnvironmentLacks, match="/proc"):
        key_log.attach(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))


def test_without_memory_files_the_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(os, "memfd_create", fail)
    with pytest.raises(EnvironmentLacks, match="memfd_create"):
        KeyLog()
