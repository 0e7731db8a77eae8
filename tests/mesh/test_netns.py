"""Network namespaces, made with unshare in forked children so that nothing has a name to clean up."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesh.errors import EnvironmentLacks, InternalError
from mesh.netns import NetworkNamespace


@pytest.fixture
def other() -> Iterator[NetworkNamespace]:
    """A namespace that a sleeping child holds."""
    child = subprocess.Popen(["unshare", "--net", "sh", "-c", "echo ready; exec sleep 60"], stdout=subprocess.PIPE)
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == b"ready\n"
        with NetworkNamespace.open(f"/proc/{child.pid}/ns/net") as namespace:
            yield namespace
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()


def own_inode() -> int:
    return Path("/proc/thread-self/ns/net").stat().st_ino


def test_a_path_that_is_not_there() -> None:
    with pytest.raises(EnvironmentLacks, match="/run/netns/nothing-here"):
        NetworkNamespace.open("/run/netns/nothing-here")


def test_closed_means_closed() -> None:
    namespace = NetworkNamespace.open("/proc/self/ns/net")
    fd = namespace.fd
    namespace.close()
    namespace.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    with pytest.raises(InternalError, match="closed"):
        _ = namespace.inode


def test_a_descriptor_is_taken_over() -> None:
    fd = os.open("/proc/self/ns/net", os.O_RDONLY)
    with NetworkNamespace.from_fd(fd) as namespace:
        assert namespace.fd == fd
        assert namespace.inode == own_inode()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


@pytest.mark.root
def test_entering_moves_there_and_back(other: NetworkNamespace) -> None:
    home = own_inode()
    with other.entered():
        assert own_inode() == other.inode != home
        assert [name for _, name in socket.if_nameindex()] == ["lo"]
    assert own_inode() == home


@pytest.mark.root
def test_an_error_inside_leads_back_too(other: NetworkNamespace) -> None:
    home = own_inode()
    with pytest.raises(ZeroDivisionError), other.entered():
        _ = 1 // 0
    assert own_inode() == home


@pytest.mark.root
def test_a_socket_stays_where_it_was_made(other: NetworkNamespace) -> None:
    with other.socket(socket.AF_INET, socket.SOCK_STREAM) as made, socket.socket() as ours:
        cookies = [sock.getsockopt(socket.SOL_SOCKET, 71, 8) for sock in (made, ours)]
    assert int.from_bytes(cookies[0], "little") == other.cookie()
    assert cookies[0] != cookies[1]


@pytest.mark.root
def test_something_else_than_a_network_namespace() -> None:
    with NetworkNamespace.open("/proc/self/ns/mnt") as namespace, pytest.raises(EnvironmentLacks, match="cannot enter"):
        namespace.cookie()
