"""Servers and clients as people run them, on fast connections: nginx and curl, redis, socat, iperf3.

What they transfer is compared, and the kernel's account, read while they run, shows whether it went past TCP: nginx's
connections do not, since it waits for edges.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ebpf.fastpath.flows import FlowTable
from ebpf.fastpath.tables import FastPathMaps
from ebpf.reasons import Reason
from mesh.testing.conversations import dial
from mesh.testing.scale import scaled

pytestmark = [pytest.mark.root, pytest.mark.scaled]

PORT = 8080
B = "10.244.1.3"
SIZE = scaled(50_000_000, most=200_000_000)
SEEN = 1 << 20
"""Bytes past TCP that show a connection to be spliced; a client that writes to a disk may get most by TCP."""

NGINX = """
daemon off;
master_process off;
pid {folder}/pid;
error_log stderr error;
events {{ worker_connections 512; }}
http {{
  access_log off;
  client_max_body_size 0;
  client_body_temp_path {folder}/body;
  sendfile on;
  tcp_nopush on;
  keepalive_requests 100000;
  server {{
    listen [::]:{port} ipv6only=off;
    root {folder}/files;
    location / {{ dav_methods PUT; }}
  }}
}}
"""


def program(place: Any, name: str, arguments: Sequence[str], *, called: str | None = None) -> Any:
    """Start an ordinary program in a pod and wait until it listens."""
    path = shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin")
    assert path is not None, f"{name} is not installed: make setup"
    actor = place.start(os.execv, path, [called or name, *arguments])
    deadline = time.monotonic() + 10
    while not listening(place):
        assert time.monotonic() < deadline, f"{name} does not listen"
        time.sleep(0.02)
    return actor


def listening(place: Any) -> bool:
    with place.namespace.entered():
        answer = subprocess.run(["ss", "-Hltn", f"sport = :{PORT}"], capture_output=True, text=True, check=True)
    return bool(answer.stdout.strip())


def ran(*command: str, stdin: Path | None = None) -> str:
    """A client program's output."""
    with open(stdin or os.devnull, "rb") as source:
        done = subprocess.run(command, stdin=source, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def watched(node: Any, function: Any, *arguments: Any) -> tuple[Any, int]:
    """What a function running in pod a returns, and how many bytes were seen to go past TCP meanwhile."""
    most: dict[int, int] = {}
    actor = node.places["a"].start(function, *arguments)
    with FlowTable(node.paths) as flows:
        while not actor.finished(0.005):
            for cookie, way in flows.all().items():
                most[cookie] = max(way.spliced, most.get(cookie, 0))
    return actor.join(), sum(most.values())


@pytest.fixture
def payload(tmp_path: Path) -> Path:
    path = tmp_path / "payload"
    path.write_bytes(os.urandom(SIZE))
    return path


def digest(path: Path) -> str:
    return hashlib.blake2b(path.read_bytes()).hexdigest()


@pytest.fixture
def nginx(mesh: Any, maps: FastPathMaps, tmp_path: Path) -> Path:
    """nginx in pod b; the folder it serves."""
    files = tmp_path / "files"
    files.mkdir()
    for folder in (tmp_path, *list(tmp_path.parents)[:3]):
        folder.chmod(0o755)  # nginx's worker is nobody
    configuration = tmp_path / "nginx.conf"
    configuration.write_text("user root;" + NGINX.format(folder=tmp_path, port=PORT))
    program(mesh.places["b"], "nginx", ["-c", str(configuration)])
    return files


@pytest.mark.parametrize("host", [B, "[fd00:10:244:1::3]"])
def test_nginx_sends_files_to_curl(mesh: Any, nginx: Path, payload: Path, tmp_path: Path, host: str) -> None:
    """Four downloads at once, by an edge-triggered server that uses sendfile: on TCP."""
    shutil.copyfile(payload, nginx / "stored")
    downloads = [tmp_path / f"download{number}" for number in range(4)]
    arguments = [part for path in downloads for part in (f"http://{host}:{PORT}/stored", "-o", str(path))]
    _, spliced = watched(mesh, ran, "curl", "-gsSf", "--max-time", "50", "-Z", *arguments)
    assert {digest(path) for path in downloads} == {digest(payload)}
    assert spliced == 0


def test_nginx_takes_an_upload_on_tcp(mesh: Any, nginx: Path, payload: Path, fast: Any, maps: FastPathMaps) -> None:
    """It asks FIONREAD whether to read on, which a spliced socket that has fallen back to TCP answers wrongly.

    Nothing keeps it off the splice but that it waits for edges.
    """
    before = fast.counted(mesh, Reason.FAST_NOT_SPLICED)
    _, spliced = watched(mesh, ran, "curl", "-sSf", "--max-time", "50", "-T", str(payload), f"http://{B}:{PORT}/stored")
    assert digest(nginx / "stored") == digest(payload)
    assert spliced == 0
    assert fast.closed(maps)[0].sent > SIZE
    assert fast.counted(mesh, Reason.FAST_NOT_SPLICED) == before + 1


def test_requests_on_one_kept_connection(mesh: Any, nginx: Path, maps: FastPathMaps, fast: Any) -> None:
    (nginx / "small").write_bytes(b"0123456789")
    count = scaled(1000)
    text, spliced = watched(mesh, ran, "curl", "-sSf", "--max-time", "50", f"http://{B}:{PORT}/small?[1-{count}]")
    assert text == "0123456789" * count
    assert spliced == 0
    record = fast.closed(maps)[0]  # one connection, that is
    assert record.received > 10 * count


def test_redis_keeps_what_it_is_told(mesh: Any, maps: FastPathMaps, tmp_path: Path) -> None:
    """Pipelined commands with values of a byte to 200 KB, read back."""
    program(
        *(mesh.places["b"], "redis-check-rdb"),  # Debian's server is this very program under its other name
        *(["--port", str(PORT), "--save", "", "--protected-mode", "no", "--dir", str(tmp_path)],),
        called="redis-server",
    )

    def client() -> int:
        source = random.Random(7)
        values = [source.randbytes(source.choice((1, 50, 3000, 200_000))) for _ in range(scaled(1500))]
        with dial(B, PORT) as sock, sock.makefile("rb") as answers:
            for first in range(0, len(values), 10):
                batch = list(enumerate(values[first : first + 10], first))
                sock.sendall(b"".join(command(b"SET", b"key%d" % number, value) for number, value in batch))
                assert [answers.readline() for _ in batch] == [b"+OK\r\n"] * len(batch)
            for number, value in enumerate(values):
                sock.sendall(command(b"GET", b"key%d" % number))
                assert answers.readline() == b"$%d\r\n" % len(value)
                assert answers.read(len(value) + 2) == value + b"\r\n"
        return sum(map(len, values))

    size, spliced = watched(mesh, client)
    assert spliced > min(SEEN, size // 2)


def command(*words: bytes) -> bytes:
    """As redis is told it."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


def test_socat_and_an_inherited_socket(mesh: Any, maps: FastPathMaps, payload: Path, tmp_path: Path) -> None:
    """A child of socat's copies what arrives; the end of the client's half comes through to it and back."""
    program(mesh.places["b"], "socat", [f"TCP6-LISTEN:{PORT},ipv6only=0,reuseaddr,fork,nonblock", "EXEC:cat"])
    received = tmp_path / "received"
    _, spliced = watched(
        *(mesh, ran, "socat", "-t", "20", f"OPEN:{payload},rdonly!!CREATE:{received}", f"TCP:{B}:{PORT},nonblock"),
    )
    assert digest(received) == digest(payload)
    assert spliced > SEEN


def test_iperf3_both_ways(mesh: Any, maps: FastPathMaps) -> None:
    program(mesh.places["b"], "iperf3", ["-s", "-p", str(PORT)])
    amount = scaled(100_000_000)
    text, spliced = watched(
        mesh, ran, "iperf3", "-c", B, "-p", str(PORT), "--bidir", "-n", str(amount), "--json", "--repeating-payload"
    )
    report = json.loads(text)
    assert "error" not in report
    there, back = (report["end"][name]["bytes"] for name in ("sum_sent", "sum_sent_bidir_reverse"))
    assert max(there, back) >= amount  # whichever is through first ends the run
    assert min(there, back) > 0
    assert spliced > SEEN
