"""The load generator of layer 7 itself, over loopback: both versions of HTTP, and what it takes for a failure."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.build import HTTP_SOURCE
from benchmarks.layer7.cases import CASES, Case
from benchmarks.layer7.measure import command
from benchmarks.layer7.proxies import ADDRESS, free_ports
from benchmarks.loads import read_round_trips

SMALL, LARGE, GRPC = CASES[:3]


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("http") / "http"
    subprocess.run(["gcc", "-O1", "-Wall", "-Wextra", "-Werror", "-o", str(program), str(HTTP_SOURCE)], check=True)
    return program


@pytest.fixture(scope="module")
def port(http: Path) -> Iterator[int]:
    first = free_ports(2)[0]
    with subprocess.Popen([http, "server", ADDRESS, str(first)], stderr=subprocess.DEVNULL) as server:
        try:
            for _ in range(1000):
                with socket.socket() as probe:
                    if not probe.connect_ex((ADDRESS, first + 1)):
                        break
                assert server.poll() is None
            yield first
        finally:
            server.kill()


@pytest.mark.parametrize("case", [SMALL, LARGE, GRPC], ids=lambda case: case.name)
def test_every_load_can_be_made(http: Path, port: int, case: Case) -> None:
    argv = command(http, case, ADDRESS, port, 0.2)
    reading = read_round_trips(subprocess.run(argv, check=True, capture_output=True, timeout=30).stdout)
    assert reading.work > 32
    assert reading.rate > 0
    assert reading.p99_us is not None
    assert reading.p50_us is not None
    assert reading.p99_us >= reading.p50_us > 0


def test_the_endpoint_answers_with_the_lengths_that_are_asked_for(port: int) -> None:
    for path, size in ((b"/api/items/1", 100), (b"/large/items/1", 102_400)):
        with socket.create_connection((ADDRESS, port), timeout=10) as sock:
            sock.sendall(b"GET %b HTTP/1.1\r\nhost: shop\r\n\r\n" % path)
            received = b""
            while len(received.partition(b"\r\n\r\n")[2]) < size:
                part = sock.recv(65536)
                assert part
                received += part
        assert received.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"\r\ncontent-length: %d\r\n" % size in received


@pytest.mark.parametrize("answer", [b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n", b""])
def test_any_other_answer_ends_the_run(http: Path, answer: bytes) -> None:
    with socket.create_server((ADDRESS, 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

        server = threading.Thread(target=serve)
        server.start()
        argv = [str(http), "get", ADDRESS, str(listener.getsockname()[1]), "1", "5", "/x"]
        done = subprocess.run(argv, capture_output=True, timeout=30, check=False)
        server.join()
    assert done.returncode == 1
    assert (b"another answer" if answer else b"closed a connection") in done.stderr


def test_wrong_arguments_are_refused(http: Path) -> None:
    for arguments in ([], ["get", ADDRESS, "1", "0", "1", "/"], ["grpc", ADDRESS, "1", "1", "1", "65"]):
        assert subprocess.run([http, *arguments], capture_output=True, timeout=30, check=False).returncode == 2
