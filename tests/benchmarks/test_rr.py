"""The load generator itself, over loopback: what it prints is what ``benchmarks.loads`` reads."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.build import SOURCE
from benchmarks.cases import Connects, RoundTrips
from benchmarks.loads import read


@pytest.fixture(scope="module")
def rr(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("rr") / "rr"
    subprocess.run(["gcc", "-O1", "-Wall", "-Wextra", "-Werror", "-o", str(program), str(SOURCE)], check=True)
    return program


@pytest.fixture(scope="module")
def port(rr: Path) -> Iterator[int]:
    """Of a running server; the next one is its too."""
    for _ in range(20):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            first = int(probe.getsockname()[1])
        with subprocess.Popen([rr, "server", "127.0.0.1", str(first)], stderr=subprocess.DEVNULL) as server:
            try:
                if _listens(first, server):
                    yield first
                    return
            finally:
                server.kill()
    pytest.fail("no two ports in a row are free")


def _listens(port: int, server: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + 10
    while server.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port + 1), timeout=1).close()
            return True
        except ConnectionRefusedError:
            time.sleep(0.01)
    return False


def run(rr: Path, *arguments: object) -> bytes:
    return subprocess.run([rr, *map(str, arguments)], check=True, capture_output=True, timeout=30).stdout


def test_round_trips_on_kept_connections(rr: Path, port: int) -> None:
    reading = read(RoundTrips(4, 20_000), run(rr, "rr", "127.0.0.1", port, 4, 20_000, 0.2))
    assert reading.work > 4
    assert reading.rate == pytest.approx(reading.work / 0.2, rel=0.5)
    assert reading.p50_us is not None
    assert reading.p99_us is not None
    assert 0 < reading.p50_us <= reading.p99_us
    assert (reading.failed, reading.slices) == (0, ())


@pytest.mark.parametrize("mode", ["crr", "crf"])
def test_a_connection_for_each_round_trip(rr: Path, port: int, mode: str) -> None:
    reading = read(Connects(2, "reset"), run(rr, mode, "127.0.0.1", port, 2, 100, 0.4, 0.1))
    assert reading.work > 2
    assert reading.failed == 0
    assert len(reading.slices) in (3, 4)
    assert all(one.per_second > 0 for one in reading.slices)


def test_idle_connections_are_announced_once_they_stand(rr: Path, port: int) -> None:
    report = json.loads(run(rr, "idle", "127.0.0.1", port, 200, 0.05))
    assert (report["mode"], report["connections"]) == ("idle", 200)


def test_a_server_that_is_not_there_is_told(rr: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: refuses
        found = subprocess.run(
            [rr, "rr", "127.0.0.1", str(taken.getsockname()[1]), "1", "100", "1"], capture_output=True, timeout=30
        )
    assert found.returncode == 1
    assert b"Connection refused" in found.stderr


@pytest.mark.parametrize("arguments", [[], ["rr", "127.0.0.1", "7000"], ["other", "127.0.0.1", "1", "1", "1", "1"]])
def test_wrong_usage(rr: Path, arguments: list[str]) -> None:
    found = subprocess.run([rr, *arguments], capture_output=True, timeout=30)
    assert found.returncode == 2
    assert found.stderr.startswith(b"usage:")
